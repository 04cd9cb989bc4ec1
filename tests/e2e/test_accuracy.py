"""The engine's numbers against transformers' (vectors/smollm2_logits.npz) and against float32 on real text."""
# SPDX-License-Identifier: Apache-2.0
import json
import os

import numpy as np
import pytest

from conftest import ROOT
from llama_numpy import Llama

VECTORS = np.load(os.path.join(ROOT, "tests", "vectors", "smollm2_logits.npz"))
NAMES = [str(name) for name in VECTORS["names"]]
REF_BAR = 2e-3
# Mean KL, share of equal likeliest ids. Of int8 these guard against a fault: what the mode is held to is llama.cpp's
# KL in the same run (bench/peers/run.sh --case quality --int8).
BARS = {"bf16": (3e-4, 0.985), "int8": (4e-3, 0.95)}


def comma(ids):
    return ",".join(str(int(i)) for i in ids)


def log_softmax(logits):
    logits = logits - logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


@pytest.fixture(scope="module")
def reference(model):
    return Llama(model)


@pytest.fixture(scope="module")
def engine_logits(espalier, model, tmp_path_factory):
    def run(ids, device, activations="bf16"):
        path = tmp_path_factory.mktemp("logits") / "out.npy"
        espalier("logits", "--model", model, "--device", device, "--activations", activations, "--ids", comma(ids),
                 "--out", path)
        logits = np.load(path)
        path.unlink()
        return logits

    return run


@pytest.mark.parametrize("name", NAMES)
def test_ref_has_the_logits_of_transformers(engine_logits, name):
    logits = engine_logits(VECTORS["ids_" + name], "ref")
    assert logits.dtype == np.float32 and logits.shape == (len(VECTORS["ids_" + name]), 49152)
    assert np.abs(logits[-1] - VECTORS["last_" + name]).max() <= REF_BAR
    assert np.abs(logits[:, VECTORS["columns"]] - VECTORS["sample_" + name]).max() <= REF_BAR
    top = logits.max(-1).astype(np.float64)
    lse = top + np.log(np.exp(logits - top[:, None]).sum(-1))
    assert np.abs(lse - VECTORS["lse_" + name]).max() <= REF_BAR


@pytest.mark.parametrize("name", NAMES)
def test_ref_picks_the_tokens_of_transformers(espalier, model, name):
    done = espalier("generate", "--model", model, "--device", "ref", "--ids", comma(VECTORS["ids_" + name]),
                    "--max-tokens", 32, "--temperature", 0, "--ignore-eos", "--json")
    ids, wanted = json.loads(done.stdout)["ids"], VECTORS["greedy_" + name].tolist()
    # From a step on where two tokens are closer than the tolerance either continuation is right.
    close = np.flatnonzero(VECTORS["margin_" + name] <= 2 * REF_BAR)
    count = int(close[0]) if len(close) else len(wanted)
    assert count >= 4 and len(ids) == 32
    assert ids[:count] == wanted[:count]


@pytest.mark.parametrize("name", NAMES)
def test_the_numpy_reference_has_the_logits_of_transformers(reference, name):
    logits = reference.logits(VECTORS["ids_" + name])
    assert np.abs(logits[-1] - VECTORS["last_" + name]).max() <= REF_BAR / 10
    assert np.abs(logits[:, VECTORS["columns"]] - VECTORS["sample_" + name]).max() <= REF_BAR / 10


def cpu_levels():
    with open("/proc/cpuinfo", encoding="ascii") as file:
        flags = next(line for line in file if line.startswith("flags")).split()
    levels = ["cpu:avx2"]
    if "avx512bw" in flags and "avx512vl" in flags:
        levels.append("cpu:avx512")
        if "amx_bf16" in flags and "avx512_bf16" in flags:
            levels.append("cpu:amx")
    return levels


def cpu_modes():
    levels = cpu_levels()
    # With int8 the linears of whole-number weights give the same bits at all levels (tests/unit/test_linear_integer.c).
    return [(device, "bf16") for device in levels] + [(device, "int8") for device in sorted({levels[0], levels[-1]})]


@pytest.fixture(scope="module")
def text_agreement(reference, engine_logits):
    """{(device, activations): (KL divergence, same likeliest id) at each position of tests/vectors/texts.txt}."""
    found = {mode: ([], []) for mode in cpu_modes()}
    for name in sorted(n for n in VECTORS.files if n.startswith("texts_")):
        truth = reference.logits(VECTORS[name])
        p, best = log_softmax(truth), truth.argmax(-1)
        weight = np.exp(p)
        for mode, (kl, same) in found.items():
            ours = engine_logits(VECTORS[name], *mode)
            kl.append((weight * (p - log_softmax(ours))).sum(-1, dtype=np.float64))
            same.append(best == ours.argmax(-1))
    return {mode: tuple(map(np.concatenate, lists)) for mode, lists in found.items()}


@pytest.mark.parametrize("device, activations", cpu_modes())
def test_cpu_is_close_to_float32_on_real_text(text_agreement, device, activations):
    kl, same = text_agreement[device, activations]
    print(f"{device}, {activations}: {len(kl)} positions, mean KL {kl.mean():.2e}, top-1 {same.mean():.4f}")
    assert len(kl) >= 2000
    kl_bar, top1_bar = BARS[activations]
    assert kl.mean() <= kl_bar
    assert same.mean() >= top1_bar
