"""The commands: exit codes, JSON shapes, files, streams."""
# SPDX-License-Identifier: Apache-2.0
import json
import os
import re
import socket
import subprocess

import numpy as np
import pytest

from gguf_edit import BOOL, F32, I32, TEXT, U32, rewrite
from server import PATIENCE_S, wait_for

USAGE, DATA, NO_INPUT, UNAVAILABLE = 64, 65, 66, 69
COMMANDS = ["serve", "chat", "health", "generate", "logits", "embed", "classify", "tokenize", "detokenize", "render", "inspect", "bench", "adapter"]


def one_sentence(done):
    """A failure says one line on stderr, and nothing on stdout. What became of a pack is not of it: one lies beside the
    model where a server took long to pack it."""
    said = [line for line in done.stderr.strip().splitlines() if not re.match(r"ts=\S+ level=\w+ event=pack_(used|ignored) ", line)]
    assert done.stdout == "" and len(said) == 1, done
    return said[0]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_tells_usage_and_options(espalier, command):
    done = espalier(command, "--help")
    assert f"usage: espalier {command}" in done.stdout and "examples" in done.stdout
    assert done.stderr == ""


@pytest.mark.smoke
def test_espalier_alone_lists_the_commands(espalier):
    for arguments in ((), ("--help",)):
        listed = espalier(*arguments).stdout
        assert all(re.search(rf"^  {c} ", listed, re.MULTILINE) for c in COMMANDS)


@pytest.mark.parametrize("arguments", [
    ("dance",), ("generate", "--prompt", "x"), ("generate", "--model"), ("tokenize", "--modle", "x"),
    ("bench", "--model", "x", "--concurrency", "0"), ("generate", "--model", "x", "--max-tokens", "many"),
    ("serve", "--model", "x", "--threads", "-1"), ("generate", "--model", "x", "--device", "gpu", "--prompt", "x"),
    ("generate", "--model", "x", "--temperature", "nan", "--prompt", "x")], ids=lambda a: "-".join(a).strip("-"))
def test_wrong_usage_is_exit_64_and_one_sentence(espalier, arguments):
    one_sentence(espalier(*arguments, code=USAGE))


@pytest.mark.smoke
def test_generate_prints_text_or_json(espalier, model, packs):
    flags = ("generate", "--model", model, "--pack", packs, "--prompt", "The capital of France is", "--max-tokens", 4)
    reply = json.loads(espalier(*flags, "--json").stdout)
    assert set(reply) == {"ids", "text", "finish_reason", "seed", "profile"}
    assert len(reply["ids"]) == 4 and reply["finish_reason"] == "length"
    assert reply["text"].strip() in espalier(*flags).stdout and "Paris" in reply["text"]


def test_generate_takes_ids_and_messages(espalier, model, tmp_path):
    messages = tmp_path / "chat.json"
    messages.write_text('[{"role": "user", "content": "What is the capital of France?"}]')
    flags = ("generate", "--model", model, "--json", "--max-tokens", 30)
    assert "Paris" in json.loads(espalier(*flags, "--messages", messages).stdout)["text"]
    assert len(json.loads(espalier(*flags, "--ids", "504,3575,282,4649,314").stdout)["ids"]) > 0


def test_generate_with_a_seed_reproduces(espalier, model):
    flags = ("generate", "--model", model, "--prompt", "Once", "--max-tokens", 12, "--temperature", 1, "--json")
    first = json.loads(espalier(*flags).stdout)
    assert json.loads(espalier(*flags, "--seed", first["seed"]).stdout) == first


def test_generate_wants_exactly_one_prompt(espalier, model):
    one_sentence(espalier("generate", "--model", model, code=USAGE))
    one_sentence(espalier("generate", "--model", model, "--prompt", "x", "--ids", "1", code=USAGE))


@pytest.mark.smoke
def test_tokenize_reads_text_or_stdin(espalier, model):
    by_flag = json.loads(espalier("tokenize", "--model", model, "--text", "Hello world").stdout)
    by_stdin = json.loads(espalier("tokenize", "--model", model, stdin="Hello world").stdout)
    assert by_flag == by_stdin == [19556, 905]
    assert json.loads(espalier("tokenize", "--model", model, "--text", "").stdout) == []


def test_tokenize_takes_special_text_as_plain_unless_told(espalier, model):
    ask = lambda *more: json.loads(espalier("tokenize", "--model", model, "--text", "<|im_start|>", *more).stdout)
    assert ask("--parse-special") == [1] and len(ask()) > 1


def read_on_a_terminal(*command):
    """What a program prints when its stdout is a terminal."""
    ours, theirs = os.openpty()
    with subprocess.Popen([str(c) for c in command], stdin=subprocess.DEVNULL, stdout=theirs, stderr=subprocess.PIPE) as process:
        os.close(theirs)
        shown = b""
        try:
            while piece := os.read(ours, 4096):
                shown += piece
        except OSError:  # EIO: the other side was closed
            pass
        assert process.wait(PATIENCE_S) == 0, process.stderr.read()
    os.close(ours)
    return shown.decode().replace("\r\n", "\n")


def test_control_characters_are_shown_on_a_terminal_and_kept_in_a_pipe(espalier, binary, model):
    text = "a\x1b[31m\tb\r\x7f\x9b\u00e9\n"
    ids = ",".join(map(str, json.loads(espalier("tokenize", "--model", model, stdin=text).stdout)))
    flags = ("detokenize", "--model", model, "--ids", ids)
    assert espalier(*flags, text=False).stdout.decode() == text
    assert "a^[[31m" in read_on_a_terminal(binary, *flags)
    shown = read_on_a_terminal(binary, *flags).expandtabs(8)
    assert "b^M^?\\x9bé\n" in shown and not set(map(chr, range(32))) - {"\n"} & set(shown)


def test_detokenize_turns_tokenize_around(espalier, model):
    text = "naïve café 🎉\n\n  春眠"
    ids = json.loads(espalier("tokenize", "--model", model, stdin=text).stdout)
    assert espalier("detokenize", "--model", model, "--ids", ",".join(map(str, ids))).stdout == text


@pytest.fixture(scope="module")
def spaced_model(tmp_path_factory):
    """A tiny model with a SentencePiece vocabulary: bytes, and words that begin with a space."""
    words = ["<unk>", "<s>", "</s>"] + [f"<0x{i:02X}>" for i in range(256)] + ["\u2581", "\u2581the", "\u2581cat", "t", "he"]
    kinds = [2, 3, 3] + [6] * 256 + [1] * 5
    path = tmp_path_factory.mktemp("spaced") / "spaced.gguf"
    rewrite(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "vectors", "families", "llama3.gguf"), path, ["tokenizer."], [
        ("tokenizer.ggml.model", TEXT, "llama"), ("tokenizer.ggml.tokens", [TEXT], words),
        ("tokenizer.ggml.token_type", [I32], kinds), ("tokenizer.ggml.scores", [F32], [-float(i) for i in range(len(words))]),
        ("tokenizer.ggml.bos_token_id", U32, 1), ("tokenizer.ggml.eos_token_id", U32, 2),
        ("tokenizer.ggml.unknown_token_id", U32, 0), ("tokenizer.ggml.add_bos_token", BOOL, False)])
    return path


@pytest.mark.parametrize("text", ["the cat", " the cat", "cat \n", "\u00e9 the", ""])
def test_detokenize_leaves_out_the_space_that_tokenize_put_in_front(espalier, spaced_model, text):
    ids = json.loads(espalier("tokenize", "--model", spaced_model, stdin=text).stdout)
    if ids:
        assert espalier("detokenize", "--model", spaced_model, "--ids", ",".join(map(str, ids))).stdout == text
    if text == "the cat":
        assert ids[0] in (259, 260), "the vocabulary's space in front is not used"


def test_detokenize_gives_whole_characters_only(espalier, spaced_model):
    ids = lambda *numbers: ("detokenize", "--model", spaced_model, "--ids", ",".join(str(3 + n) for n in numbers))
    assert espalier(*ids(0xc3, 0xa9)).stdout == "\u00e9" and espalier(*ids(0xc3, 0x41)).stdout == "\ufffdA"


@pytest.mark.parametrize("ids", ["49152", "-1", "1,,2", "x", "", "99999999999999999999"])
def test_ids_out_of_range_are_refused(espalier, model, ids):
    assert "--ids" in one_sentence(espalier("detokenize", "--model", model, f"--ids={ids}", code=USAGE))


def test_logits_writes_a_npy_file_of_every_position(espalier, model, tmp_path):
    out = tmp_path / "logits.npy"
    espalier("logits", "--model", model, "--ids", "504,3575,282", "--out", out)
    logits = np.load(out)
    assert logits.shape == (3, 49152) and logits.dtype == np.float32 and np.isfinite(logits).all()
    again = tmp_path / "again.npy"
    espalier("logits", "--model", model, "--ids", "504,3575,282", "--out", again, "--threads", 1)
    assert out.read_bytes() == again.read_bytes()


def test_logits_to_a_place_that_cannot_be_written_fails(espalier, model):
    done = espalier("logits", "--model", model, "--ids", "504", "--out", "/nonexistent/x.npy", code=None)
    assert done.returncode in (DATA, NO_INPUT, 73, 74) and "/nonexistent/x.npy" in one_sentence(done)


def test_inspect_describes_the_model(espalier, model):
    described = json.loads(espalier("inspect", model).stdout)
    assert described["kind"] == "model" and described["family"] == "llama"
    assert described["parameters"] > 130e6 and "profile" in described and "digest" in described
    assert "tokenizer" in described and described["quantization"].lower() == "q4_1"


def test_render_writes_the_prompt(espalier, model, tmp_path):
    messages = tmp_path / "chat.json"
    messages.write_text('[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]')
    assert espalier("render", "--model", model, "--messages", messages).stdout == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")


@pytest.mark.parametrize("content", ["", "{}", "[", '[{"role": "user"}]', '[{"role": 1, "content": "x"}]', "[1]",
                                     "[" * 100_000], ids=range(7))
def test_bad_message_files_are_exit_65(espalier, model, tmp_path, content):
    path = tmp_path / "chat.json"
    path.write_text(content)
    sentence = one_sentence(espalier("generate", "--model", model, "--messages", path, code=DATA))
    assert "chat.json" in sentence or "messages" in sentence


@pytest.fixture(scope="module")
def bad_models(model, tmp_path_factory):
    """Files that are no model, or no longer one."""
    folder = tmp_path_factory.mktemp("bad")
    with open(model, "rb") as file:
        head = bytearray(file.read(4 << 20))
    cases = {"empty": b"", "text": b"hello world\n" * 100, "magic": b"GGUF", "version": b"GGUF" + b"\x63\0\0\0" + bytes(16),
             "counts": b"GGUF\x03\0\0\0" + b"\xff" * 16, "truncated-header": bytes(head[:100_000]),
             "truncated-data": bytes(head), "zeros": bytes(4096)}
    for name, content in cases.items():
        (folder / (name + ".gguf")).write_bytes(content)
    return folder


@pytest.mark.parametrize("name", ["empty", "text", "magic", "version", "counts", "truncated-header", "truncated-data",
                                  "zeros"])
def test_T20_a_file_that_is_no_model_is_exit_65_and_one_sentence(espalier, bad_models, name):
    path = bad_models / (name + ".gguf")
    for arguments in (("inspect", path), ("generate", "--model", path, "--prompt", "x"),
                      ("serve", "--model", path, "--grpc", "127.0.0.1:0", "--http", "off")):
        assert name + ".gguf" in one_sentence(espalier(*arguments, code=DATA))


def test_a_missing_model_is_exit_66(espalier):
    for arguments in (("inspect", "/nonexistent.gguf"), ("tokenize", "--model", "/nonexistent.gguf", "--text", "x")):
        assert "nonexistent.gguf" in one_sentence(espalier(*arguments, code=NO_INPUT))


def test_a_folder_or_device_is_no_model(espalier, tmp_path):
    for path in (tmp_path, "/dev/zero", "/dev/null"):
        done = espalier("inspect", path, code=None)
        assert done.returncode in (DATA, NO_INPUT), done
        one_sentence(done)


def test_health_tells_by_exit_code(server, espalier):
    # Asked once it gives a server two seconds, which a busy machine may take now and then.
    wait_for(lambda: espalier("health", server.address, code=None).stdout.strip() == "SERVING", "an answer in two seconds")
    assert espalier("health", server.address, "--wait", PATIENCE_S).stdout.strip() == "SERVING"
    assert "127.0.0.1:1" in espalier("health", "127.0.0.1:1", code=UNAVAILABLE).stderr
    espalier("health", "127.0.0.1:1", "--wait", 1, code=UNAVAILABLE)


@pytest.mark.smoke
def test_chat_answers_one_prompt_with_stats_on_stderr(server, espalier):
    done = espalier("chat", server.address, "--prompt", "What is the capital of France?", "--stats", "--max-tokens", 30)
    assert "Paris" in done.stdout
    assert re.search(r"ttft [0-9.]+ ms, [0-9.]+ tok/s", done.stderr)


def test_chat_reads_lines_and_remembers(server, espalier):
    done = espalier("chat", server.address, "--max-tokens", 40, stdin="My name is Ada.\nWhat is my name?\n")
    assert "Ada" in done.stdout


def test_chat_without_a_server_is_exit_69(espalier):
    assert "127.0.0.1:1" in espalier("chat", "127.0.0.1:1", "--prompt", "x", code=UNAVAILABLE).stderr


def test_a_port_in_use_is_named(espalier, model):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for wrong, other, rest in (("--grpc", "--http", "off"), ("--http", "--grpc", "127.0.0.1:0")):
            done = espalier("serve", "--model", model, wrong, f"127.0.0.1:{port}", other, rest, code=UNAVAILABLE)
            assert str(port) in done.stderr and wrong in done.stderr


def test_bench_prints_a_row_for_each_concurrency(espalier, model):
    done = espalier("bench", "--model", model, "--prompt-tokens", 16, "--output-tokens", 4, "--concurrency", "1,2",
                    "--requests", 2, "--json")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["concurrency"] for row in rows] == [1, 2]
    for row in rows:
        assert all(row[k] > 0 for k in ("prefill_tok_s", "decode_tok_s", "output_tok_s", "ttft_p50_ms", "itl_p99_ms"))


BENCH = ("--prompt-tokens", 16, "--output-tokens", 4, "--concurrency", 2, "--requests", 3)


def bench_rows(espalier, *arguments):
    """kind -> rows of that kind."""
    rows = {}
    for line in espalier("bench", *arguments, "--json").stdout.splitlines():
        row = json.loads(line)
        rows.setdefault(row["bench"], []).append(row)
    return rows


def test_bench_of_replicas_tells_what_is_seen_from_outside(espalier, model):
    rows = bench_rows(espalier, "--model", model, "--replicas", 2, "--threads", 2, *BENCH)
    (row,) = rows["engine"]
    assert row["replicas"] == 2 and "decode_tok_s" not in row and "prefill_tok_s" not in row
    assert all(row[k] > 0 for k in ("output_tok_s", "ttft_p50_ms", "itl_p99_ms"))
    for steps in ("--ops", "--roofline"):
        done = espalier("bench", "--model", model, "--replicas", 2, steps, code=USAGE)
        assert "--replicas 2" in one_sentence(done) and steps in done.stderr
    done = espalier("bench", "--model", model, "--replicas", 2, "--tp", 2, "--rendezvous", "x:1", code=USAGE)
    assert "--rendezvous" in one_sentence(done)


def test_bench_roofline_alone_measures_the_machine(espalier):
    rows = bench_rows(espalier, "--roofline", "--threads", 2)
    assert set(rows) == {"roofline"}
    (limits,) = rows["roofline"]
    assert limits["threads"] == 2 and "read_weights" not in limits
    assert limits["read"]["gb_s"] > 0 and limits["copy"]["gb_s"] > 0 and limits["read"]["bytes"] > 1 << 20
    assert limits["gop_s"]["avx2_f32"] > 0 and all(rate > 0 for rate in limits["gop_s"].values())
    table = espalier("bench", "--roofline").stdout
    assert re.search(r"read +\S+ MB +\S+ GB/s", table) and re.search(r"avx2_f32 +\S+ Gop/s", table)


def test_bench_without_a_model_or_roofline_is_wrong_usage(espalier):
    assert "--model" in one_sentence(espalier("bench", "--ops", code=USAGE))


def test_bench_roofline_says_how_much_of_the_machine_was_used(espalier, model):
    rows = bench_rows(espalier, "--model", model, "--roofline", *BENCH)
    (limits,), (run,) = rows["roofline"], rows["engine"]
    assert limits["read_weights"]["gb_s"] > 0
    # The layers' and the output's matrices are nearly all of this file.
    assert 0.9 < limits["read_weights"]["bytes"] / os.path.getsize(model) < 1.1
    assert run["prefill_mfu"] > 0 and run["decode_mbu"] > 0
    table = espalier("bench", "--model", model, "--roofline", *BENCH).stdout
    assert "prefill MFU %" in table and "decode MBU %" in table
    assert "MFU" not in espalier("bench", "--model", model, *BENCH).stdout


def test_bench_ops_accounts_for_the_time_of_every_step(espalier, model):
    rows = bench_rows(espalier, "--model", model, "--ops", *BENCH)
    assert set(rows) == {"engine", "ops"}
    (row,) = rows["ops"]
    assert row["concurrency"] == 2 and row["prompt_tokens"] == 16 and row["between_steps_ms"] > 0
    prefill, decode = row["prefill"], row["decode"]
    assert prefill["tokens"] >= 3 * 16 and prefill["tokens"] + decode["tokens"] == 3 * (16 + 3)
    for side in (prefill, decode):
        names = [op["op"] for op in side["ops"]]
        assert names == ["embed", "norm", "qkv", "rope_store", "attention", "attention_out", "gate_up", "down", "head"]
        inside, outside = sum(op["ms"] for op in side["ops"]), side["outside_ms"]
        assert set(outside) == {"plan_batch", "between_ops", "sample_publish"} and all(t >= 0 for t in outside.values())
        assert inside + sum(outside.values()) == pytest.approx(side["ms"], rel=1e-3)
        assert sum(op["share"] for op in side["ops"]) <= 1
        ops = {op["op"]: op for op in side["ops"]}
        assert ops["qkv"]["calls"] == 30 * side["steps"] and ops["head"]["calls"] == side["steps"]
        assert ops["qkv"]["shape"] == "960x576" and ops["gate_up"]["shape"] == "3072x576"
        assert ops["down"]["gb_s"] > 0 and ops["down"]["gflop_s"] > 0 and "gflop_s" not in ops["norm"]
    table = espalier("bench", "--model", model, "--ops", *BENCH).stdout
    assert "decode at concurrency 2" in table and re.search(r"down +576x1536", table) and "between steps" in table


def test_a_config_file_sets_what_flags_set_and_flags_win(start_server, tmp_path):
    config = tmp_path / "serve.yaml"
    config.write_text("name: from-the-file\nmax-context: 1024\n")
    from calls import pb
    for flags, name in (((), "from-the-file"), (("--name", "from-the-flag"), "from-the-flag")):
        server = start_server("--config", config, *flags)
        with server.channel() as channel:
            (listed,) = server.stub(channel).ListModels(pb.ListModelsRequest()).models
            assert (listed.name, listed.context_tokens) == (name, 1024)
        assert server.stop() == 0


@pytest.mark.parametrize("content", ["max-seqs: many", "no-such-option: 1", "- 1", "a: [", "\x00"], ids=range(5))
def test_a_bad_config_file_is_refused(espalier, model, tmp_path, content):
    path = tmp_path / "serve.yaml"
    path.write_text(content)
    done = espalier("serve", "--model", model, "--config", path, code=None)
    assert done.returncode in (USAGE, DATA, 78) and "serve.yaml" in one_sentence(done)


def test_quotes_and_control_bytes_in_answers_stay_valid_json(espalier, model):
    """T34: forced output of quotes, backslashes and control bytes."""
    text = 'say "\\" and \x01\x1f\t'
    ids = json.loads(espalier("tokenize", "--model", model, stdin=text).stdout)
    done = espalier("generate", "--model", model, "--ids", ",".join(map(str, ids * 3)), "--max-tokens", 24,
                    "--ignore-eos", "--json")
    assert len(json.loads(done.stdout)["ids"]) == 24
