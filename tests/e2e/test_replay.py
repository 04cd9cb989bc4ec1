"""--record and espalier replay: what a busy server answered comes out again, bit for bit, in any company."""
# SPDX-License-Identifier: Apache-2.0
import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest

from calls import collect, mixed_requests, request
from server import wait_for

REQUESTS, LEAVERS = 64, 4


def ask(stub, fields):
    fields = {k: dict(v) if isinstance(v, dict) else v for k, v in fields.items()}
    return collect(stub.Generate(request(**fields), timeout=300))


def leave_after_two(stub):
    """A client that goes away in the middle of an answer."""
    stream = stub.Generate(request(ids=[1000, 2000], max_tokens=4000, ignore_eos=True), timeout=300)
    seen = 0
    for message in stream:
        seen += len(message.token_ids)
        if seen >= 2:
            break
    stream.cancel()


@pytest.fixture(scope="module")
def recorded(start_server, tmp_path_factory):
    """64 requests of mixed lengths and policies, 16 at a time, four clients that leave: (file, answers)."""
    path = str(tmp_path_factory.mktemp("record") / "requests.jsonl")
    server = start_server("--record", path)
    with server.channel() as channel, ThreadPoolExecutor(16) as pool:
        stub = server.stub(channel)
        leavers = [pool.submit(leave_after_two, stub) for _ in range(LEAVERS)]
        answers = list(pool.map(lambda fields: ask(stub, fields), mixed_requests(REQUESTS, seed=5)))
        for job in leavers:
            job.result()
    server.wait_until_empty()
    wait_for(lambda: server.metric("espalier_records_total") == REQUESTS + LEAVERS, "all records")
    assert server.metric("espalier_records_lost_total") == 0
    assert server.stop() == 0
    return path, answers


def rows(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def test_each_finished_request_is_a_line_that_its_owner_alone_reads(recorded):
    path, answers = recorded
    lines = rows(path)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert sorted(r["finish_reason"] for r in lines) == ["cancelled"] * LEAVERS + ["length"] * REQUESTS
    wanted = sorted((tuple(a.ids), str(a.final.seed)) for a in answers)
    assert sorted((tuple(r["ids"]), r["seed"]) for r in lines if r["finish_reason"] == "length") == wanted
    assert {r["profile"] for r in lines} == {answers[0].final.numeric_profile}
    for r in lines:
        assert r["format"] == "espalier.record.v1" and len(r["logits_xxh3"]) == 16 * len(r["ids"])
        assert "text" not in r


@pytest.mark.parametrize("flags", [("--threads", 2), ("--threads", 1), ("--threads", 1, "--step-tokens", 48, "--max-seqs", 5),
                                   ("--threads", 1, "--step-tokens", 8)], ids=lambda f: "_".join(map(str, f)).replace("--", ""))
def test_law_1_a_recording_of_mixed_load_replays_alone_and_in_company(espalier, recorded, flags):
    done = espalier("replay", recorded[0], "--concurrency", "1,16", "--json", *flags)
    levels = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(v["concurrency"], v["requests"] + v["without_tokens"], v["mismatches"]) for v in levels] == [
        (c, REQUESTS + LEAVERS, 0) for c in (1, 16)]
    assert {v["tokens"] for v in levels} == {sum(len(r["ids"]) for r in rows(recorded[0]))}


def test_one_changed_bit_is_found(espalier, recorded, tmp_path):
    lines = rows(recorded[0])
    changed = next(i for i, r in enumerate(lines) if len(r["ids"]) >= 5)
    digits = lines[changed]["logits_xxh3"]
    at = 4 * 16
    lines[changed]["logits_xxh3"] = digits[:at] + f"{int(digits[at], 16) ^ 1:x}" + digits[at + 1:]
    path = tmp_path / "changed.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in lines))
    done = espalier("replay", path, "--concurrency", "16", "--json", code=70)
    row = json.loads(done.stdout)
    assert row["mismatches"] == 1
    assert [(m["line"], m["what"], m["token"]) for m in row["mismatched"]] == [(changed + 1, "logits", 4)]
    assert "other bits" in done.stderr


def test_another_profile_is_refused_naming_both(espalier, recorded):
    profile = rows(recorded[0])[0]["profile"]
    done = espalier("replay", recorded[0], "--device", "ref", code=78)
    assert profile in done.stderr and "ref,act=f32" in done.stderr


def test_generate_records_too(espalier, model, tmp_path):
    path = tmp_path / "one.jsonl"
    for device in ("cpu:avx2", "cpu:avx2"):
        espalier("generate", "--model", model, "--prompt", "Once upon a time", "--max-tokens", 8, "--temperature", 1,
                 "--device", device, "--kv-dtype", "f32", "--record", path)
    # Model, device and KV type come from the file.
    done = espalier("replay", path, "--concurrency", "2", "--json")
    assert json.loads(done.stdout)["requests"] == 2


def test_a_recording_with_int8_activations_is_replayed_with_them(espalier, model, tmp_path):
    path = tmp_path / "int8.jsonl"
    for prompt in ("Once upon a time", "The " * 40):
        espalier("generate", "--model", model, "--prompt", prompt, "--max-tokens", 12, "--activations", "int8",
                 "--record", path)
    assert all(",act=int8," in row["profile"] for row in rows(path))
    done = espalier("replay", path, "--concurrency", "1,2", "--threads", "1", "--json")
    assert [json.loads(line)["mismatches"] for line in done.stdout.splitlines()] == [0, 0]
    done = espalier("replay", path, "--activations", "bf16", code=78)
    assert "act=int8" in done.stderr and "act=bf16" in done.stderr


def test_a_file_that_others_read_is_refused_at_start(espalier, model, tmp_path):
    open_to_all = tmp_path / "open.jsonl"
    open_to_all.write_text("")
    open_to_all.chmod(0o644)
    refused = espalier("serve", "--model", model, "--record", open_to_all, "--http", "off", "--grpc", "127.0.0.1:0",
                       code=77)
    assert "chmod 600" in refused.stderr
