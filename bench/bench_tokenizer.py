#!/usr/bin/env python3
"""Our encoder beside the Rust `tokenizers` library, one thread each, on one text.

    bench_tokenizer.py FOLDER TEXT-FILE [BENCH]      FOLDER holds a tokenizer.json; BENCH is bench_tokenizer's binary

Prints one JSON row: MB/s of both on texts of 2 KiB and on the whole, and their ratio. Needs tokenizers==0.22.2.
"""
# SPDX-License-Identifier: Apache-2.0
import json
import os
import subprocess
import sys
import time

os.environ["RAYON_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
REQUEST_BYTES, TEXT_BYTES, ROUNDS = 2048, 1 << 20, 3


def megabytes_a_second(tokenizer, parts):
    best = min(timed(tokenizer, parts) for _ in range(ROUNDS))
    return sum(len(p.encode()) for p in parts) / best * 1e-6


def timed(tokenizer, parts):
    begin = time.perf_counter()
    for part in parts:
        tokenizer.encode(part, add_special_tokens=False)
    return time.perf_counter() - begin


def main():
    from tokenizers import Tokenizer
    folder, path = sys.argv[1:3]
    bench = sys.argv[3] if len(sys.argv) > 3 else os.path.join(os.path.dirname(__file__), "../build/release/bench/bench_tokenizer")
    ours = json.loads(subprocess.run([bench, folder, path], capture_output=True, text=True, check=True).stdout)
    text = open(path, "rb").read()[:TEXT_BYTES].decode(errors="ignore")
    tokenizer = Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
    parts = [text[i:i + REQUEST_BYTES] for i in range(0, len(text), REQUEST_BYTES)]
    rust = {"requests_mb_s": megabytes_a_second(tokenizer, parts), "one_text_mb_s": megabytes_a_second(tokenizer, [text])}
    row = {"bench": "tokenizer_ratio", "version": ours["version"], "device": "cpu", "model": ours["model"]}
    for key, value in rust.items():
        row |= {key: ours[key], f"rust_{key}": round(value, 1), f"{key.removesuffix('_mb_s')}_ratio": round(ours[key] / value, 1)}
    print(json.dumps(row))


if __name__ == "__main__":
    main()
