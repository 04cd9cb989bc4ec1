"""Tokenize and Detokenize over the wire."""
# SPDX-License-Identifier: Apache-2.0
import json
import os

import pytest

from calls import pb
from conftest import ROOT


def tokenizer_vectors(count):
    path = os.path.join(ROOT, "tests", "vectors", "smollm2_tokenizer.jsonl")
    with open(path, encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    rows = [row for row in rows if "text" in row and "\0" not in row["text"]]
    return rows[::max(1, len(rows) // count)]


@pytest.mark.smoke
def test_ids_are_those_of_the_tokenizers_library(stub):
    for row in tokenizer_vectors(200):
        reply = stub.Tokenize(pb.TokenizeRequest(text=row["text"], parse_special=row.get("special", False)))
        assert list(reply.token_ids) == row["ids"], row["text"]


@pytest.mark.parametrize("text", ["Hello, world!", "naïve café 🎉", "  two  spaces\n\n", "春眠不觉晓", "a" * 5000])
def test_detokenize_turns_ids_back_into_the_text(stub, text):
    ids = stub.Tokenize(pb.TokenizeRequest(text=text)).token_ids
    assert stub.Detokenize(pb.DetokenizeRequest(token_ids=ids)).text == text


def test_half_a_character_becomes_the_replacement_character(stub):
    ids = list(stub.Tokenize(pb.TokenizeRequest(text="觉")).token_ids)
    assert len(ids) > 1
    assert "\ufffd" in stub.Detokenize(pb.DetokenizeRequest(token_ids=ids[:1])).text


def test_special_tokens_are_parsed_and_shown_only_when_asked(stub):
    text = "<|im_start|>user"
    plain = list(stub.Tokenize(pb.TokenizeRequest(text=text)).token_ids)
    special = list(stub.Tokenize(pb.TokenizeRequest(text=text, parse_special=True)).token_ids)
    assert special[0] == 1 and len(special) < len(plain)
    detokenize = lambda ids, show: stub.Detokenize(pb.DetokenizeRequest(token_ids=ids, show_special=show)).text
    assert detokenize(special, True) == text
    assert detokenize(special, False) == "user"
    assert detokenize(plain, False) == text


def test_empty_text_and_no_ids_are_fine(stub):
    assert not stub.Tokenize(pb.TokenizeRequest(text="")).token_ids
    assert stub.Detokenize(pb.DetokenizeRequest()).text == ""
