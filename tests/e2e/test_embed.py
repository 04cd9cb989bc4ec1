"""Embed: vectors over the wire and from the command line, of a tiny encoder and of all-MiniLM-L6-v2."""
# SPDX-License-Identifier: Apache-2.0
import concurrent.futures
import json
import os
import time

import grpc
import numpy as np
import pytest

from calls import pb, request
from conftest import ROOT, field_violations

VECTORS = os.path.join(ROOT, "tests", "vectors")
TINY = os.path.join(VECTORS, "encoders", "bert.gguf")
CACHE = os.environ.get("ESPALIER_CACHE") or os.path.join(
    os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "espalier")
MINILM = os.environ.get("ESPALIER_ENCODER") or os.path.join(CACHE, "models", "all-MiniLM-L6-v2")
CLS, SEP = 2, 3
STATUS = grpc.StatusCode


def embed_request(*inputs, **fields):
    """Texts, or lists of ids."""
    kinds = [pb.EmbedInput(text=i) if isinstance(i, str) else pb.EmbedInput(token_ids=pb.TokenIds(ids=i))
             for i in inputs]
    return pb.EmbedRequest(inputs=kinds, **fields)


def rows_of(reply):
    return np.array([e.values for e in reply.embeddings], dtype=np.float32)


def cosines(a, b):
    a, b = a.astype(np.float64), b.astype(np.float64)
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


@pytest.fixture(scope="module")
def start_encoder(binary, tmp_path_factory):
    from server import Server
    servers = []

    def start(model, *flags):
        servers.append(Server(binary, model, flags, tmp_path_factory.mktemp("server"), kv_memory="64M"))
        servers[-1].wait_until_serving()
        return servers[-1]

    yield start
    for server in servers:
        server.wait_until_empty()
        assert server.stop() == 0, server.log()


@pytest.fixture(scope="module")
def tiny(start_encoder):
    return start_encoder(TINY)


@pytest.fixture(scope="module")
def tiny_stub(tiny):
    with tiny.channel() as channel:
        yield tiny.stub(channel)


@pytest.mark.smoke
def test_vectors_are_the_reference_ones(tiny_stub):
    cases = [json.loads(line) for line in open(os.path.join(VECTORS, "encoders", "cases.jsonl"))]
    cases = [c for c in cases if c["model"] == "bert" and not c["spoiled"]]
    states = np.fromfile(os.path.join(VECTORS, "encoders", "pooled.f32"), dtype=np.float32)
    wanted = np.stack([states[c["offset"]:c["offset"] + 64] for c in cases])  # the mean is the first row
    reply = tiny_stub.Embed(embed_request(*[c["ids"] for c in cases]))
    assert (cosines(rows_of(reply), wanted) >= 0.9999).all()
    assert np.allclose(np.linalg.norm(rows_of(reply), axis=1), 1, atol=1e-6)
    assert [e.tokens for e in reply.embeddings] == [len(c["ids"]) for c in cases]
    assert reply.usage.prompt_tokens == sum(len(c["ids"]) for c in cases) and reply.usage.output_tokens == 0
    assert reply.model == "bert" and "kv=" in reply.numeric_profile


@pytest.mark.smoke
def test_a_vector_does_not_depend_on_its_company(tiny_stub):
    texts = [("hello world the cat sat on " * 9)[:3 + 2 * i] for i in range(40)]
    alone = [rows_of(tiny_stub.Embed(embed_request(text)))[0] for text in texts]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda k: tiny_stub.Embed(embed_request(*texts[k:])), range(16)))
    for k, reply in enumerate(replies):
        assert rows_of(reply).tobytes() == np.stack(alone[k:]).tobytes()


def test_the_command_prints_what_the_server_gives(espalier, tiny_stub):
    text = "the red car is new"
    wanted = rows_of(tiny_stub.Embed(embed_request(text)))[0]
    printed = json.loads(espalier("embed", "--model", TINY, "--text", text).stdout)
    assert np.array(printed, dtype=np.float32).tobytes() == wanted.tobytes()
    assert json.loads(espalier("embed", "--model", TINY, stdin=text).stdout) == printed


def test_long_texts_are_refused_or_cut_before_the_last_token(espalier, tiny_stub, refused):
    long, ids = "cat " * 100, [CLS] + [84] * 62 + [SEP]
    error = refused(lambda: tiny_stub.Embed(embed_request("cat", long)), STATUS.INVALID_ARGUMENT,
                    "102 tokens", "at most 64", "truncate")
    assert field_violations(error) == ["inputs[1].text"]
    cut = tiny_stub.Embed(embed_request(long, ids, truncate=True))
    assert [e.tokens for e in cut.embeddings] == [64, 64]
    assert cut.embeddings[0].values == cut.embeddings[1].values
    done = espalier("embed", "--model", TINY, "--text", long, code=65)
    assert "102 tokens" in done.stderr and "--truncate" in done.stderr
    assert len(json.loads(espalier("embed", "--model", TINY, "--truncate", "--text", long).stdout)) == 64


@pytest.mark.parametrize("bad, field, word", [
    (embed_request(), "inputs", "wanted 1 to 256"),
    (embed_request(*["cat"] * 257), "inputs", "257"),
    (embed_request("cat", []), "inputs[1].token_ids", "0 ids"),
    (embed_request([5] * 65), "inputs[0].token_ids", "1 to 64"),
    (embed_request([99]), "token_ids", "0..98"),
    (embed_request([-1]), "token_ids", "0..98"),
    (pb.EmbedRequest(inputs=[pb.EmbedInput()]), "inputs[0].text", "missing"),
    (embed_request("cat", priority=101), "priority", "100"),
], ids=range(8))
def test_bad_requests_name_the_field(tiny_stub, refused, bad, field, word):
    error = refused(lambda: tiny_stub.Embed(bad), STATUS.INVALID_ARGUMENT, word)
    assert field_violations(error) == [field]


def test_a_model_of_the_other_kind_refuses(espalier, model, stub, tiny_stub, refused, tmp_path):
    refused(lambda: stub.Embed(embed_request("hello")), STATUS.FAILED_PRECONDITION, "embeds none", "Generate")
    refused(lambda: tiny_stub.Generate(request("hello")), STATUS.FAILED_PRECONDITION, "generates none", "Embed")
    refused(lambda: tiny_stub.Embed(embed_request("hello", model="other")), STATUS.NOT_FOUND, "other", "bert")
    assert "embeds none" in espalier("embed", "--model", model, "--text", "hello", code=78).stderr
    assert "generates none" in espalier("generate", "--model", TINY, "--prompt", "hello", code=78).stderr
    assert espalier("bench", "--model", TINY, code=78).stdout == ""
    assert "no logits" in espalier("logits", "--model", TINY, "--ids", "2,3", "--out", tmp_path / "x.npy", code=78).stderr


def test_models_and_metrics_tell_of_it(espalier, tiny, tiny_stub, stub):
    assert tiny_stub.ListModels(pb.ListModelsRequest()).models[0].embedding_width == 64
    assert stub.ListModels(pb.ListModelsRequest()).models[0].embedding_width == 0
    before = tiny.metric("espalier_embeddings_total")
    tiny_stub.Embed(embed_request("cat", "mat", "sat"))
    assert tiny.metric("espalier_embeddings_total") == before + 3
    described = json.loads(espalier("inspect", TINY).stdout)
    assert described["kind"] == "encoder" and described["rope_theta"] is None
    assert described["embedding"] == {"width": 64, "pooling": "mean", "normalised": True, "tokens_max": 64}


def test_a_client_that_leaves_frees_its_places(tiny, tiny_stub):
    for _ in range(20):
        call = tiny_stub.Embed.future(embed_request(*["the cat sat on the mat"] * 200))
        call.cancel()
    tiny.wait_until_empty()
    assert len(tiny_stub.Embed(embed_request("cat")).embeddings) == 1


# --- adapters ---------------------------------------------------------------------------------------

LORA = os.path.join(VECTORS, "embedding-lora")
ADAPTERS = ["bert-all", "bert-words", "bert-dora", "bert-sentence"]


def lora_cases():
    """Prompt and peft's vector of each adapter."""
    rows = [json.loads(line) for line in open(os.path.join(LORA, "cases.jsonl"))]
    numbers = np.fromfile(os.path.join(LORA, "pooled.f32"), dtype=np.float32)
    return {row["name"]: (row["ids"], numbers[row["offset"]:row["offset"] + 64]) for row in rows}


@pytest.fixture(scope="module")
def adapted(start_encoder, espalier, tmp_path_factory):
    """Two adapters from the command line, two from the store."""
    store = tmp_path_factory.mktemp("store")
    for name in ADAPTERS[2:]:
        espalier("adapter", "import", os.path.join(LORA, name), "--name", name, "--base", TINY, "--store", store)
    return start_encoder(TINY, "--adapter-store", store, *(f"--adapter={n}={os.path.join(LORA, n)}" for n in ADAPTERS[:2]))


@pytest.fixture(scope="module")
def adapted_stub(adapted):
    with adapted.channel() as channel:
        yield adapted.stub(channel)


@pytest.mark.smoke
def test_a_model_may_be_an_adapter(adapted_stub, tiny_stub):
    for name, (ids, wanted) in lora_cases().items():
        if name not in ADAPTERS:
            continue
        reply = adapted_stub.Embed(embed_request(ids, model=name))
        assert cosines(rows_of(reply), wanted[None])[0] >= 0.9995
        assert (reply.model, reply.adapter) == ("bert", name + "@1") and reply.adapter_digest.startswith("sha256:")
        plain = rows_of(adapted_stub.Embed(embed_request(ids)))
        assert plain.tobytes() == rows_of(tiny_stub.Embed(embed_request(ids))).tobytes()
        assert cosines(plain, wanted[None])[0] < 0.995


def test_adapters_mixed_in_a_batch_give_what_each_gives_alone(adapted, adapted_stub):
    texts = [("hello world the cat sat on " * 9)[:3 + 3 * i] for i in range(20)]
    names = [(ADAPTERS + [""])[i % 5] for i in range(40)]
    alone = {name: rows_of(adapted_stub.Embed(embed_request(*texts, model=name))) for name in set(names)}
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda n: rows_of(adapted_stub.Embed(embed_request(*texts, model=n))), names))
    for name, rows in zip(names, replies):
        assert rows.tobytes() == alone[name].tobytes(), name or "the base"
    for name in ADAPTERS:  # who has an answer finds it there
        assert adapted.metric(f'espalier_adapter_requests_total{{adapter="{name}"}}') >= 8 * len(texts), name


def test_the_command_embeds_through_an_adapter(espalier, adapted_stub):
    text = "the red car is new"
    wanted = rows_of(adapted_stub.Embed(embed_request(text, model="bert-all")))[0]
    printed = json.loads(espalier("embed", "--model", TINY, "--adapter", os.path.join(LORA, "bert-all"), "--text", text).stdout)
    assert np.array(printed, dtype=np.float32).tobytes() == wanted.tobytes()
    assert "embed" in espalier("embed", "--help").stdout and "--adapter" in espalier("embed", "--help").stdout


@pytest.mark.parametrize("adapter, words", [
    (os.path.join(VECTORS, "lora", "llama-all"), ("is of a decoder", "bert.gguf is an encoder")),
    (os.path.join(LORA, "xlmr-all"), ("wants",)),
], ids=["decoder", "shapes"])
def test_an_adapter_of_another_base_is_refused(espalier, tmp_path, adapter, words):
    for command in (["embed", "--model", TINY, "--adapter", adapter, "--text", "cat"],
                    ["adapter", "import", adapter, "--name", "x", "--base", TINY, "--store", tmp_path / "store"]):
        stderr = espalier(*command, code=65).stderr
        assert all(word in stderr for word in words), stderr


def test_merging_onto_an_encoder_is_refused(espalier, tmp_path):
    done = espalier("adapter", "merge", "--model", TINY, "--adapter", os.path.join(LORA, "bert-all"), "--out", tmp_path / "out", code=69)
    assert "is an encoder" in done.stderr and not (tmp_path / "out").exists()


# --- a real one -------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def minilm(start_encoder):
    if not os.path.exists(MINILM):
        pytest.skip(f"skipped: not downloaded: {MINILM}")
    return start_encoder(MINILM, "--max-context", 256)


@pytest.fixture(scope="module")
def minilm_stub(minilm):
    with minilm.channel() as channel:
        yield minilm.stub(channel)


def test_minilm_gives_the_vectors_of_sentence_transformers(minilm_stub):
    with np.load(os.path.join(VECTORS, "minilm_embeddings.npz")) as file:
        texts, wanted, tokens = json.loads(file["texts"].item()), file["embeddings"], file["tokens"]
    assert len(texts) >= 200 and (tokens > 256).any()
    seen, seen_tokens, began = [], [], time.monotonic()
    for first in range(0, len(texts), 64):
        reply = minilm_stub.Embed(embed_request(*texts[first:first + 64], truncate=True))
        seen += [e.values for e in reply.embeddings]
        seen_tokens += [e.tokens for e in reply.embeddings]
    took = time.monotonic() - began
    cosine = cosines(np.array(seen), wanted)
    worst = int(cosine.argmin())
    print(f"\n{len(texts)} texts, {sum(seen_tokens)} tokens: lowest cosine {cosine[worst]:.6f}, "
          f"{1000 * took / len(texts):.2f} ms a text")
    assert seen_tokens == np.minimum(tokens, 256).tolist()
    assert cosine[worst] >= 0.9999, texts[worst]


def test_minilm_puts_like_next_to_like(minilm_stub):
    texts = ["A man is eating food.", "A man is eating a piece of bread.", "The stock market fell sharply."]
    rows = rows_of(minilm_stub.Embed(embed_request(*texts)))
    assert rows[0] @ rows[1] > 0.6 > 0.2 > rows[0] @ rows[2]
