"""Gemma 3 270M and Qwen2.5-Coder 0.5B: llama.cpp's greedy text, and how far the numbers are from float32.

vectors/real_models.jsonl (make_real_models.py) has, for ten prompts each, the greedy tokens of

    llama_f32   llama.cpp on the dequantised weights, float32 activations and cache: our tokens are its tokens
    llama       llama.cpp on the file itself; its activations are rounded to 8 bits, so it leaves float32's path
                where two tokens are close: where we differ, float32 is on our side or the two are close
    float32     transformers on the dequantised weights
"""
# SPDX-License-Identifier: Apache-2.0
import json
import os

import numpy as np
import pytest

from conftest import ROOT
from decoder_numpy import Decoder

WANTED_STEPS, POSITIONS_MIN = 48, 1000
KL_BAR, TOP1_BAR = 5e-4, 0.97
# Two tokens whose logits are nearer than this in float32 are a tie for bf16 activations.
OUR_TIE, NUMPY_BAR = 0.05, 2e-3


def read_vectors():
    found = {}
    with open(os.path.join(ROOT, "tests", "vectors", "real_models.jsonl"), encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            found.setdefault(row["model"], []).append(row)
    return {name: (rows[0], rows[1:]) for name, rows in found.items()}


VECTORS = read_vectors()


@pytest.fixture(scope="module", params=list(VECTORS))
def real(request):
    """(name, path, head row, prompt rows)"""
    with open(os.path.join(ROOT, "scripts", "models.txt"), encoding="utf-8") as file:
        rows = [line.split() for line in file if not line.startswith("#")]
    (file, size), = [(row[1], int(row[2])) for row in rows if row[0] == request.param]
    path = os.path.join(os.path.dirname(os.environ["ESPALIER_MODEL"]), file)
    if not os.path.exists(path):
        pytest.skip(f"skipped: not downloaded: {path} (scripts/fetch_models.sh {request.param})")
    assert os.path.getsize(path) == size
    return (request.param, path, *VECTORS[request.param])


@pytest.fixture(scope="module")
def answers(real, espalier):
    """Our greedy answer to each prompt."""
    _, path, _, rows = real
    return [json.loads(espalier("generate", "--model", path, "--ids", ",".join(map(str, row["ids"])), "--max-tokens",
                                WANTED_STEPS, "--max-context", 1024, "--max-seqs", 1, "--temperature", 0,
                                "--json").stdout) for row in rows]


def split_of(a, b):
    """First index at which they differ, or None; the shorter one ended."""
    return next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), None)


def test_prompts_have_the_ids_of_llama_cpp(real, espalier):
    _, path, _, rows = real
    for row in rows:
        done = espalier("tokenize", "--model", path, "--parse-special", stdin=row["prompt"])
        assert json.loads(done.stdout) == row["ids"]


def test_greedy_tokens_are_those_of_float32(real, answers):
    """Until the first tie: from there on either continuation is right."""
    name, _, _, rows = real
    for row, answer in zip(rows, answers):
        split = split_of(answer["ids"], row["float32"])
        if split is not None:
            print(f"{name}: {row['prompt'][:30]!r} leaves float32 at {split}, gap {row['margins'][split]}")
            assert row["margins"][split] <= OUR_TIE


def compare(real, answers, key):
    """How many texts are equal; a split must be a tie of float32's, or float32 has our token there."""
    name, _, _, rows = real
    equal = 0
    for row, answer in zip(rows, answers):
        split = split_of(answer["ids"], row[key])
        if split is None:
            assert len(row[key]) >= WANTED_STEPS or len(row[key]) in (len(answer["ids"]), len(answer["ids"]) - 1)
            equal += 1
            continue
        ours = answer["ids"][: split + 1] == row["float32"][: split + 1]
        print(f"{name}: {row['prompt'][:30]!r} differs from {key} at {split}; float32 has "
              f"{'our' if ours else 'its'} token, gap {row['margins'][split]}")
        assert ours or row["margins"][split] <= OUR_TIE
    print(f"{name}: {equal} of {len(rows)} texts equal to {key}'s")
    return equal


def test_greedy_text_is_llama_cpps_on_the_same_weights(real, answers):
    assert compare(real, answers, "llama_f32") >= len(real[3]) - 2
    for row, answer in zip(real[3], answers):
        if answer["ids"] == row["llama_f32"]:
            assert answer["text"] == row["llama_f32_text"]


def test_greedy_text_leaves_llama_cpps_only_with_float32_or_at_a_tie(real, answers):
    assert compare(real, answers, "llama") >= 1


@pytest.fixture(scope="module")
def reference(real):
    return Decoder(real[1])


def log_sum_exp(logits):
    top = logits.max(-1, keepdims=True).astype(np.float64)
    return (top + np.log(np.exp(logits - top).sum(-1, keepdims=True)))[:, 0]


def test_the_numpy_reference_has_the_logits_of_transformers(real, reference):
    _, _, head, rows = real
    checked = [row for row in rows if "lse" in row]
    assert len(checked) >= 3
    for row in checked:
        for first, logits in reference.logits(row["ids"]):
            wanted = np.array(row["lse"][first : first + len(logits)])
            assert np.abs(log_sum_exp(logits) - wanted).max() <= NUMPY_BAR
        assert np.abs(logits[-1][head["columns"]] - np.array(row["picks"])).max() <= NUMPY_BAR


def texts(espalier, path):
    """The sections of texts.txt in two sequences, the first longer than Gemma's window."""
    with open(os.path.join(ROOT, "tests", "vectors", "texts.txt"), encoding="utf-8") as file:
        sections = file.read().split("\n%%\n")
    for part in ("\n\n".join(sections[:3]), "\n\n".join(sections[4:])):
        done = espalier("tokenize", "--model", path, stdin=part)
        yield json.loads(done.stdout)[:700]


def test_cpu_is_close_to_float32_on_real_text(real, reference, espalier, tmp_path):
    name, path, _, _ = real
    kl, same = [], []
    for ids in texts(espalier, path):
        file = tmp_path / "logits.npy"
        espalier("logits", "--model", path, "--device", "cpu", "--max-context", 1024, "--max-seqs", 1, "--ids",
                 ",".join(map(str, ids)), "--out", file)
        ours = np.load(file, mmap_mode="r")
        for first, truth in reference.logits(ids):
            block = np.asarray(ours[first : first + len(truth)])
            p = truth - log_sum_exp(truth)[:, None]
            q = block - log_sum_exp(block)[:, None]
            kl.append((np.exp(p) * (p - q)).sum(-1))
            same.append(truth.argmax(-1) == block.argmax(-1))
        file.unlink()
    kl, same = np.concatenate(kl), np.concatenate(same)
    print(f"{name}: {len(kl)} positions, mean KL {kl.mean():.2e}, largest {kl.max():.2e}, top-1 {same.mean():.4f}")
    assert len(kl) >= POSITIONS_MIN
    assert kl.mean() <= KL_BAR
    assert same.mean() >= TOP1_BAR
