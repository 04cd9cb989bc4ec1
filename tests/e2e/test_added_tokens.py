"""An adapter whose tokenizer has tokens that the base has not: cut out of its texts, picked, shown; nobody else's."""
# SPDX-License-Identifier: Apache-2.0
import json
import os
import shutil

import grpc
import numpy as np
import pytest

from calls import PROMPTS, bits, generate, pb, request
from random_adapter import HIDDEN, make, safetensors
from server import PATIENCE_S

VOCAB, MARK, WORD = 49152, 49152, 49153


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Rows of two tokens, as peft writes them for trainable_token_indices, beside an update of q and v."""
    folder = make(tmp_path_factory.mktemp("added") / "marks", seed=5, rank=4, modules=("self_attn.q_proj",), size=0.1)
    path = os.path.join(folder, "adapter_model.safetensors")
    with open(path, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        data = file.read()
    tensors = {name: np.frombuffer(data[slice(*at["data_offsets"])], np.float32).reshape(at["shape"]) for name, at in header.items()}
    rows = np.random.default_rng(6).standard_normal((2, HIDDEN), np.float32) * 0.1
    tensors["base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta"] = rows
    with open(path, "wb") as file:
        file.write(safetensors(tensors))
    with open(os.path.join(folder, "adapter_config.json"), "r+", encoding="utf-8") as file:
        config = json.load(file)
        file.seek(0)
        json.dump(config | {"trainable_token_indices": [MARK, WORD]}, file)
    tokens = [{"id": MARK, "content": "<|intent|>", "special": True}, {"id": WORD, "content": "IBAN", "special": False}]
    with open(os.path.join(folder, "tokenizer.json"), "w", encoding="utf-8") as file:
        json.dump({"added_tokens": tokens}, file)
    with open(os.path.join(folder, "tokenizer_config.json"), "w", encoding="utf-8") as file:
        json.dump({"eos_token": "<|intent|>"}, file)
    return folder


@pytest.fixture(scope="module")
def server_flags(folder, espalier, model, tmp_path_factory):
    store = str(tmp_path_factory.mktemp("store") / "adapters")
    espalier("adapter", "import", folder, "--name", "marks", "--base", model, "--store", store)
    import_torn(espalier, folder, store, str(tmp_path_factory.mktemp("torn") / "torn"))
    return ["--adapter-store", store]


def import_torn(espalier, folder, store, path):
    """Its tensors are damaged on the disk of the store; the names and shapes before them are not."""
    shutil.copytree(folder, path)
    with open(os.path.join(path, "adapter_config.json"), "a", encoding="utf-8") as file:
        file.write(" ")  # other content
    done = espalier("adapter", "import", path, "--name", "torn", "--store", store, "--json")
    tensors = os.path.join(store, "blobs", *json.loads(done.stdout)["digest"].split(":"), "adapter_model.safetensors")
    os.chmod(tensors, 0o600)
    with open(tensors, "r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)[0]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last ^ 1]))


def test_texts_are_cut_by_the_tokens_of_the_adapter(stub):
    text = "an IBAN<|intent|>"
    own = list(stub.Tokenize(pb.TokenizeRequest(model="marks", text=text, parse_special=True)).token_ids)
    assert own[-2:] == [WORD, MARK] and len(own) == 4  # an, a space, and they
    base = stub.Tokenize(pb.TokenizeRequest(text=text, parse_special=True)).token_ids
    assert max(base) < VOCAB and len(base) > len(own)
    assert stub.Detokenize(pb.DetokenizeRequest(model="marks", token_ids=own, show_special=True)).text == text
    assert stub.Detokenize(pb.DetokenizeRequest(model="marks", token_ids=own)).text == "an IBAN"


def test_ids_of_the_adapter_are_nobody_elses(stub, refused):
    answer = generate(stub, model="marks", ids=[504, MARK, WORD], max_tokens=4)
    assert len(answer.ids) == 4 or answer.final
    for model, id in (("", MARK), ("marks", WORD + 1)):
        refused(lambda: list(stub.Generate(request(ids=[504, id], model=model), timeout=PATIENCE_S)), grpc.StatusCode.INVALID_ARGUMENT,
                "token_ids", str(id))
        refused(lambda: stub.Detokenize(pb.DetokenizeRequest(model=model, token_ids=[id])), grpc.StatusCode.INVALID_ARGUMENT,
                "token_ids", str(id))


def test_its_tokens_are_picked_and_shown(stub):
    answer = generate(stub, model="marks", prompt=PROMPTS[0], max_tokens=3, ignore_eos=True, top_logprobs=2,
                      sampling=dict(logit_bias={WORD: 100}))
    assert answer.ids == [WORD] * 3 and answer.text == "IBAN" * 3
    assert all(p.token == b"IBAN" for p in answer.logprobs)


def test_a_generation_ends_with_its_own_end(stub):
    answer = generate(stub, model="marks", prompt=PROMPTS[0], max_tokens=8, sampling=dict(logit_bias={MARK: 100}))
    assert answer.ids == [MARK] and answer.text == ""
    assert answer.final.finish_reason == pb.FINISH_REASON_STOP


def test_models_are_listed_with_their_tokens(stub):
    generate(stub, model="marks", prompt=PROMPTS[0], max_tokens=1)
    listed = {one.name: one.vocabulary for one in stub.ListModels(pb.ListModelsRequest()).models}
    assert listed["marks"] == VOCAB + 2 and sorted(listed.values()) == [VOCAB, VOCAB + 2]


def test_the_base_answers_as_without_it(stub):
    before = bits(generate(stub, prompt=PROMPTS[1], max_tokens=12, top_logprobs=3))
    generate(stub, model="marks", prompt=PROMPTS[1], max_tokens=2)
    assert bits(generate(stub, prompt=PROMPTS[1], max_tokens=12, top_logprobs=3)) == before


def test_the_command_line_gives_the_same(espalier, model, stub, folder, tmp_path):
    done = espalier("generate", "--model", model, "--adapter", folder, "--prompt", "my IBAN", "--max-tokens", 6, "--json")
    assert generate(stub, model="marks", prompt="my IBAN", max_tokens=6).ids == json.loads(done.stdout)["ids"]
    espalier("logits", "--model", model, "--adapter", folder, "--ids", f"504,{MARK},{WORD}", "--out", tmp_path / "wide.npy")
    assert np.load(tmp_path / "wide.npy").shape == (3, VOCAB + 2)


def test_tensors_are_read_for_the_answer_and_not_for_the_tokens(stub, refused):
    text = "an IBAN<|intent|>"
    own = stub.Tokenize(pb.TokenizeRequest(model="torn", text=text, parse_special=True)).token_ids
    assert list(own)[-2:] == [WORD, MARK]
    for _ in range(2):  # when it is found, and when it is known
        refused(lambda: list(stub.Generate(request(ids=[504, MARK], model="torn"), timeout=PATIENCE_S)), grpc.StatusCode.DATA_LOSS, "torn",
                "not what their digest says")
    assert generate(stub, model="marks", ids=[504, MARK], max_tokens=2).ids
    assert generate(stub, ids=[504], max_tokens=2).ids
