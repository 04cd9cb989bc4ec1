"""Classify: adapters with a score head, over the wire and from the command line."""
# SPDX-License-Identifier: Apache-2.0
import json

import grpc
import numpy as np
import pytest

from calls import generate, pb
from random_adapter import make
from server import PATIENCE_S

LABELS = ["bill", "complaint", "praise", "other"]
TEXTS = ["My card is lost", "You charged me twice for one coffee", "Thanks"]
STATUS = grpc.StatusCode


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("made")
    qv = ("self_attn.q_proj", "self_attn.v_proj")
    return {"intents": make(root / "intents", seed=5, rank=4, modules=qv, labels=LABELS),
            "writer": make(root / "writer", seed=6, rank=4, modules=qv)}


@pytest.fixture(scope="module")
def server_flags(tmp_path_factory, folders, espalier):
    """The classifier is only a name of the store when the server starts."""
    store = tmp_path_factory.mktemp("store") / "adapters"
    espalier("adapter", "import", folders["intents"], "--name", "intents", "--store", store)
    return ["--adapter-store", str(store), "--adapter", f"writer={folders['writer']}"]


def classify(stub, *texts, model="intents", **fields):
    inputs = [pb.EmbedInput(text=text) for text in texts]
    return stub.Classify(pb.ClassifyRequest(model=model, inputs=inputs, **fields), timeout=3 * PATIENCE_S)  # a whole context takes minutes on a busy machine


@pytest.mark.smoke
def test_a_classifier_that_was_not_read_gives_no_tokens(stub, refused):
    """What it is turns out when it is brought for the first request, and is told then; the next is refused at once."""
    for _ in range(2):
        refused(lambda: generate(stub, model="intents", prompt="Hello"), STATUS.FAILED_PRECONDITION)


@pytest.mark.smoke
def test_each_text_gets_a_score_for_each_label(stub):
    reply = classify(stub, *TEXTS)
    assert list(reply.labels) == LABELS and len(reply.results) == len(TEXTS)
    assert reply.adapter == "intents@1" and reply.adapter_digest.startswith("sha256:")
    for result in reply.results:
        logits = np.array(result.logits, np.float64)
        wanted = np.exp(logits - logits.max())
        assert np.allclose(result.scores, wanted / wanted.sum(), atol=1e-6)
        assert result.label == int(np.argmax(logits)) and result.tokens > 0
    assert reply.usage.prompt_tokens == sum(r.tokens for r in reply.results)


def test_a_text_has_the_same_scores_alone_as_ids_and_from_the_command_line(stub, espalier, model, folders):
    together = classify(stub, *TEXTS).results
    for text, wanted in zip(TEXTS, together):
        assert classify(stub, text).results[0] == wanted
        ids = stub.Tokenize(pb.TokenizeRequest(text=text), timeout=PATIENCE_S).token_ids
        by_ids = pb.ClassifyRequest(model="intents@1", inputs=[pb.EmbedInput(token_ids=pb.TokenIds(ids=ids))])
        assert stub.Classify(by_ids, timeout=PATIENCE_S).results[0] == wanted
    printed = json.loads(espalier("classify", "--model", model, "--adapter", folders["intents"], "--text", TEXTS[0]).stdout)
    assert printed["labels"] == LABELS and printed["label"] == LABELS[together[0].label]
    assert np.array_equal(np.float32(printed["logits"]), np.float32(together[0].logits))
    assert np.array_equal(np.float32(printed["scores"]), np.float32(together[0].scores))


def test_among_requests_for_tokens_nothing_changes(stub):
    wanted = classify(stub, *TEXTS)
    tokens = generate(stub, model="writer", prompt="Hello", max_tokens=30, ignore_eos=True).ids
    calls = [stub.Classify.future(pb.ClassifyRequest(model="intents", inputs=[pb.EmbedInput(text=t) for t in TEXTS]), timeout=PATIENCE_S)
             for _ in range(8)]
    assert generate(stub, model="writer", prompt="Hello", max_tokens=30, ignore_eos=True).ids == tokens
    for call in calls:
        assert list(call.result().results) == list(wanted.results)


def test_who_has_no_score_head_classifies_nothing(stub, refused, espalier, model, folders):
    for name in ("", "writer"):
        refused(lambda n=name: classify(stub, "Hello", model=n), STATUS.FAILED_PRECONDITION)
    refused(lambda: classify(stub, "Hello", model="nobody"), STATUS.NOT_FOUND)
    assert "no score head" in espalier("classify", "--model", model, "--adapter", folders["writer"], "--text", "x", code=78).stderr
    assert "none was given" in espalier("classify", "--model", model, "--text", "x", code=78).stderr


def test_what_cannot_be_is_refused(stub, refused):
    refused(lambda: classify(stub), STATUS.INVALID_ARGUMENT)
    refused(lambda: classify(stub, *["x"] * 257), STATUS.INVALID_ARGUMENT)
    refused(lambda: classify(stub, "x", priority=101), STATUS.INVALID_ARGUMENT)
    refused(lambda: classify(stub, "word " * 20000), STATUS.INVALID_ARGUMENT)
    assert classify(stub, "word " * 20000, truncate=True, priority=1).results[0].tokens > 1000
