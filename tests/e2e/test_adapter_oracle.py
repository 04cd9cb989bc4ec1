"""Adapters against peft: every decoder family as bfloat16 folder and as quantised GGUF file, with every kind
of adapter, on ref; and merged folders as transformers reads them.

ESPALIER_ORACLE_PYTHON is a Python with peft 0.21, transformers 4.57, torch and gguf; without it nothing here runs."""
# SPDX-License-Identifier: Apache-2.0
import json
import os
import subprocess

import numpy as np
import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
PYTHON = os.environ.get("ESPALIER_ORACLE_PYTHON", "")
TOLERANCE = 1e-3  # of the logits' range
MERGED_RMS = 0.03  # what rounding to bfloat16 costs these small models
CASES_MIN = 250

pytestmark = pytest.mark.skipif(not PYTHON, reason="skipped: ESPALIER_ORACLE_PYTHON names no Python with peft")


def oracle(job, folder):
    done = subprocess.run([PYTHON, os.path.join(HERE, "adapter_oracle.py"), job, folder], capture_output=True,
                          text=True, timeout=1800)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(folder, cases)"""
    folder = tmp_path_factory.mktemp("oracle")
    oracle("make", folder)
    with open(folder / "cases.jsonl", encoding="utf-8") as file:
        return folder, [json.loads(line) for line in file]


def span_of(logits):
    return float(logits.max() - logits.min())


def test_ref_gives_pefts_logits_for_every_family_format_and_feature(made, espalier, tmp_path):
    folder, cases = made
    worst, wrong = 0.0, []
    for case in cases:
        out = tmp_path / "logits.npy"
        espalier("logits", "--model", case["base"], "--adapter", case["adapter"], "--device", "ref", "--max-context",
                 64, "--max-seqs", 1, "--ids", ",".join(map(str, case["ids"])), "--out", out)
        wanted = np.load(folder / f"{case['name']}.npy")
        far = np.abs(np.load(out) - wanted).max() / span_of(wanted)
        worst = max(worst, far)
        if not far <= TOLERANCE:
            wrong.append((case["name"], far))
    print(f"{len(cases)} cases, the worst {worst:.1e} of the range off")
    assert len(cases) >= CASES_MIN and not wrong, wrong


def test_transformers_reads_a_merged_folder(made, espalier, tmp_path):
    """Of each family, from a folder and from a file: what the merge writes is what others read."""
    folder, cases = made
    rows = []
    for case in cases:
        if not case["name"].endswith(("-dora", "-head", "-tables", "-biases", "-plain")) or "-q4_0-" in case["name"]:
            continue
        merged = str(tmp_path / case["name"])
        espalier("adapter", "merge", "--model", case["base"], "--adapter", case["adapter"], "--out", merged)
        rows.append(dict(name=case["name"], folder=merged, ids=case["ids"], out=merged + ".npy"))
    with open(tmp_path / "merged.jsonl", "w", encoding="utf-8") as file:
        file.write("\n".join(json.dumps(row) for row in rows) + "\n")
    oracle("load", tmp_path)
    wrong = []
    for row in rows:
        wanted, seen = np.load(folder / f"{row['name']}.npy"), np.load(row["out"])
        rms = np.sqrt(((seen - wanted) ** 2).mean() / (wanted ** 2).mean())
        if not rms <= MERGED_RMS:
            wrong.append((row["name"], float(rms)))
    assert len(rows) >= 60 and not wrong, wrong
