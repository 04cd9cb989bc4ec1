#!/usr/bin/env python3
"""Writes corpus/record: small files of recorded requests, most of them wrong in one place."""
# SPDX-License-Identifier: Apache-2.0
import json
import os
import shutil

HERE = os.path.dirname(os.path.abspath(__file__))
OUT = os.path.join(HERE, "corpus", "record")

GOOD = {
    "format": "espalier.record.v1", "time": "2026-11-21T10:00:00.000Z", "model": "m", "model_path": "/models/m.gguf",
    "digest": "xxh3-128:00112233445566778899aabbccddeeff", "profile": "ref,act=f32,kv=f32,tp=1,numerics=1",
    "prompt": [1, 2, 3], "max_tokens": 4, "ignore_eos": False, "stop_hex": ["0a0a", "ff"],
    "seed": "18446744073709551615",
    "sampling": {"temperature": 0.8, "top_k": 40, "top_p": 0.9, "min_p": 0, "repetition_penalty": 1.1,
                 "presence_penalty": -0.5, "frequency_penalty": 0.25, "logit_bias": [[5, -100], [7, 0.5]]},
    "ids": [9, 8], "finish_reason": "stop", "logits_xxh3": "00112233445566778899aabbccddeeff",
}


def line(**changes):
    row = json.loads(json.dumps(GOOD))
    for key, value in changes.items():
        target = row["sampling"] if key in row["sampling"] else row
        if value is None:
            target.pop(key)
        else:
            target[key] = value
    return json.dumps(row, separators=(",", ":")) + "\n"


FILES = {
    "good": line(),
    "three": line() + line(prompt=[5], seed="0") + line(ids=[], logits_xxh3=""),
    "blank_lines": "\n\n" + line() + "\n",
    "cut_last": line() + line()[:200],
    "cut_middle": line()[:77] + "\n" + line(),
    "cut_only": line()[:77],
    "no_newline": line().rstrip("\n"),
    "not_json": "prompt: 1\n",
    "array": "[1,2]\n",
    "two_on_a_line": line().rstrip("\n") + line(),
    "two_profiles": line() + line(profile="cpu:avx2,act=bf16,kv=bf16,tp=1,numerics=1"),
    "two_models": line() + line(digest="xxh3-128:0"),
    "duplicate": line().replace('"ids"', '"prompt"'),
    "unknown_key": line(adapter="later"),
    "other_format": line(format="espalier.record.v2"),
    "long_profile": line(profile="x" * 400),
    "long_path": line(model_path="/" + "x" * 5000),
    "nul_in_text": line(model="a\0b"),
    "seed_number": line(seed=7),
    "seed_too_large": line(seed="18446744073709551616"),
    "seed_sign": line(seed="-1"),
    "seed_empty": line(seed=""),
    "ids_over_max": line(max_tokens=1),
    "max_zero": line(max_tokens=0),
    "max_huge": line(max_tokens=1 << 40),
    "prompt_empty": line(prompt=[]),
    "prompt_negative": line(prompt=[-1]),
    "prompt_nested": line(prompt=[[1]]),
    "prompt_over_vocab": line(prompt=[2**31 - 1]),
    "rows_short": line(logits_xxh3="00"),
    "rows_upper": line(logits_xxh3="F" * 32),
    "stops_odd": line(stop_hex=["abc"]),
    "stops_empty": line(stop_hex=[""]),
    "stops_long": line(stop_hex=["61" * 257]),
    "stops_many": line(stop_hex=["61"] * 17),
    "stops_most": line(stop_hex=["61" * 256] * 16),
    "bias_pair": line(logit_bias=[[1]]),
    "bias_range": line(logit_bias=[[1, 101]]),
    "bias_vocab": line(logit_bias=[[99999, 1]]),
    "temperature_text": line(temperature="1"),
    "temperature_range": line(temperature=11),
    "finish_none": line(finish_reason="none"),
    "deep": "[" * 3000 + "\n",
    "empty_object": "{}\n",
} | {f"without_{key}": line(**{key: None}) for key in GOOD if key not in ("time", "sampling")}

if __name__ == "__main__":
    shutil.rmtree(OUT, ignore_errors=True)
    os.makedirs(OUT)
    for name, text in FILES.items():
        with open(os.path.join(OUT, name + ".jsonl"), "w", encoding="utf-8") as file:
            file.write(text)
