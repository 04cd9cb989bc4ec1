"""Adapters over the wire: named in `model` as if each were a model of its own, and mixed in every batch."""
# SPDX-License-Identifier: Apache-2.0
import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest

from calls import PROMPTS, bits, generate, mixed_requests, pb, request
from random_adapter import make
from server import PATIENCE_S

BASE = "SmolLM2-135M-Instruct.Q4_1"
NAMES = ["", "small", "large"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("adapters")
    return {"small": make(root / "small", seed=1, rank=4, modules=("self_attn.q_proj", "self_attn.v_proj"), size=0.2),
            "large": make(root / "large", seed=2, rank=24)}


def digest(folder):
    """adapter_digest.h's sentence: `sha256sum adapter_config.json adapter_model.safetensors | sha256sum`."""
    lines = []
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        with open(os.path.join(folder, name), "rb") as file:
            lines.append(f"{hashlib.sha256(file.read()).hexdigest()}  {name}\n")
    return "sha256:" + hashlib.sha256("".join(lines).encode()).hexdigest()


@pytest.fixture(scope="module")
def server_flags(folders):
    return [f"--adapter={name}={folder}" for name, folder in folders.items()]


@pytest.mark.smoke
def test_each_name_gives_an_answer_of_its_own(stub):
    answers = [generate(stub, model=name, prompt=PROMPTS[0]) for name in NAMES]
    assert len({tuple(a.ids) for a in answers}) == len(NAMES)
    assert generate(stub, model=BASE, prompt=PROMPTS[0]).ids == answers[0].ids


def test_the_final_message_names_adapter_version_and_digest(stub, folders):
    base = generate(stub, prompt=PROMPTS[0], max_tokens=2).final
    assert (base.model, base.adapter, base.adapter_digest) == (BASE, "", "")
    for name, folder in folders.items():
        final = generate(stub, model=name, prompt=PROMPTS[0], max_tokens=2).final
        assert (final.model, final.adapter, final.adapter_digest) == (BASE, name + "@1", digest(folder))
        assert final.numeric_profile == base.numeric_profile


def test_mixed_in_one_batch_each_gives_what_it_gives_alone(stub):
    """Base and two adapters, all at once: law 1 over the wire."""
    wanted = [dict(fields, model=NAMES[i % 3]) for i, fields in enumerate(mixed_requests(30, seed=4))]
    alone = [bits(generate(stub, **dict(fields))) for fields in wanted]
    with ThreadPoolExecutor(30) as pool:
        together = list(pool.map(lambda fields: bits(generate(stub, **fields)), wanted))
    for i, (a, b) in enumerate(zip(alone, together)):
        assert a == b, f"request {i} of {wanted[i]['model'] or 'the base'} differs in company"


def test_the_command_line_gives_the_same(espalier, model, stub, folders):
    for name, folder in folders.items():
        done = espalier("generate", "--model", model, "--adapter", folder, "--prompt", PROMPTS[3], "--max-tokens", 12,
                        "--temperature", 0, "--json")
        wanted = json.loads(done.stdout)
        assert wanted["adapter"] == name + "@1" and wanted["adapter_digest"] == digest(folder)
        assert generate(stub, model=name, prompt=PROMPTS[3], max_tokens=12).ids == wanted["ids"]


def test_logits_go_through_the_adapter(espalier, model, folders, tmp_path):
    rows = []
    for flags in ([], ["--adapter", folders["large"]]):
        file = tmp_path / "logits.npy"
        espalier("logits", "--model", model, *flags, "--ids", "504,3575,282,4649,314", "--out", file)
        rows.append(np.load(file))
    assert rows[0].shape == rows[1].shape and not np.array_equal(rows[0], rows[1])


@pytest.mark.parametrize("name", ["small@1", "large@1"])
def test_a_version_can_be_named(stub, name):
    wanted = generate(stub, model=name.split("@")[0], prompt=PROMPTS[1])
    assert generate(stub, model=name, prompt=PROMPTS[1]).ids == wanted.ids


def test_content_can_be_named(stub, folders):
    reference = "small@" + digest(folders["small"])
    assert generate(stub, model=reference, prompt=PROMPTS[1]).final.adapter == "small@1"


def test_an_unknown_name_is_told_a_few_that_are_served(stub, refused):
    for call in (lambda: list(stub.Generate(request(prompt="a", model="nobody"), timeout=PATIENCE_S)),
                 lambda: stub.Tokenize(pb.TokenizeRequest(model="nobody", text="a")),
                 lambda: stub.Detokenize(pb.DetokenizeRequest(model="nobody", token_ids=[1]))):
        refused(call, grpc.StatusCode.NOT_FOUND, "nobody", "small", BASE)
    refused(lambda: list(stub.Generate(request(prompt="a", model="small@7"), timeout=PATIENCE_S)), grpc.StatusCode.NOT_FOUND,
            "small")


@pytest.mark.parametrize("name", ["../small", "/etc/passwd", "small/../large", "x" * 300, "small@", "small@0", "@1",
                                  "small@sha256:12", "small@-1", "Small", " small", "small\n"])
def test_what_can_be_no_name_is_served_by_nobody(stub, refused, name):
    error = refused(lambda: list(stub.Generate(request(prompt="a", model=name), timeout=PATIENCE_S)),
                    grpc.StatusCode.NOT_FOUND, "model", BASE)
    assert len(error.details()) < 1000


def test_tokens_and_chat_take_an_adapters_name(stub):
    ids = stub.Tokenize(pb.TokenizeRequest(model="large", text=PROMPTS[1])).token_ids
    assert ids == stub.Tokenize(pb.TokenizeRequest(text=PROMPTS[1])).token_ids
    assert stub.Detokenize(pb.DetokenizeRequest(model="small@1", token_ids=ids)).text == PROMPTS[1]
    chat = [("user", "Name a colour.")]
    assert generate(stub, model="large", chat=chat).ids != generate(stub, chat=chat).ids


def test_list_models_has_the_base_then_its_adapters(stub, folders):
    models = list(stub.ListModels(pb.ListModelsRequest()).models)
    assert [m.name for m in models] == [BASE, "large", "small"]
    assert (models[0].parent, models[0].chat) == ("", True)
    for m in models[1:]:
        assert (m.parent, m.digest) == (BASE, digest(folders[m.name]))
        assert (m.vocabulary, m.context_tokens, m.chat) == (models[0].vocabulary, models[0].context_tokens, True)


def test_a_cancelled_request_of_an_adapter_leaves_nothing(server, stub):
    call = stub.Generate(request(prompt=PROMPTS[3], model="large", max_tokens=400, ignore_eos=True), timeout=300)
    next(iter(call))
    call.cancel()
    server.wait_until_empty()


def test_recorded_requests_replay_through_their_adapters(start_server, espalier, folders, tmp_path):
    record = tmp_path / "requests.jsonl"
    flags = [f"--adapter={name}={folder}" for name, folder in folders.items()]
    server = start_server("--record", record, *flags)
    with server.channel() as channel:
        for i, fields in enumerate(mixed_requests(9, seed=9)):
            generate(server.stub(channel), model=NAMES[i % 3], **fields)
    assert server.stop() == 0
    lines = [json.loads(line) for line in record.read_text().splitlines()]
    assert [line.get("adapter") for line in lines] == [None, "small@1", "large@1"] * 3
    done = espalier("replay", record, "--kv-memory", "256M", "--pack", "off", "--json", *flags)
    assert [json.loads(line)["mismatches"] for line in done.stdout.splitlines()] == [0, 0]
    # Named otherwise it is the same adapter; without it there is nothing to compare with.
    renamed = [f"--adapter=a={folders['large']}", f"--adapter=b={folders['small']}"]
    espalier("replay", record, "--kv-memory", "256M", "--pack", "off", "--concurrency", 4, *renamed)
    done = espalier("replay", record, "--kv-memory", "256M", "--pack", "off", *flags[:1], code=None)
    assert done.returncode != 0 and "large@1" in done.stderr and "--adapter" in done.stderr


def test_what_is_no_adapter_of_this_model_is_refused_at_start(espalier, model, folders, tmp_path):
    for path in (tmp_path / "nothing", tmp_path):
        done = espalier("generate", "--model", model, "--adapter", path, "--prompt", "a", code=None)
        assert done.returncode not in (0, 1) and len(done.stderr) > 20
    done = espalier("generate", "--model", model, f"--adapter={folders['small']}", f"--adapter={folders['large']}",
                    "--prompt", "a", code=None)
    assert done.returncode == 64 and "--adapter" in done.stderr


def test_bench_goes_round_the_adapters(espalier, model, folders):
    done = espalier("bench", "--model", model, "--concurrency", 4, "--prompt-tokens", 16, "--output-tokens", 4,
                    "--json", *(f"--adapter={name}={folder}" for name, folder in folders.items()))
    row, = [json.loads(line) for line in done.stdout.splitlines()]
    assert row["adapters"] == 2 and row["concurrency"] == 4
