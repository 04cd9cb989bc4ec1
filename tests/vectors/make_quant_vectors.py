"""Writes quant_blocks.jsonl with gguf-py (0.19): what blocks of every quantised format mean.

    make_quant_vectors.py     (needs: pip install gguf)

A line {"format": F, "blocks": hex, "weights": hex} holds some blocks as in a file and their weights, float32 little-endian.
Codes and small scales are random bytes; the f16 scales are normal, subnormal or zero and of either sign.
"""
# SPDX-License-Identifier: Apache-2.0
import json
import os

import gguf
import numpy as np

# Where a block has its f16 scales.
HALVES = {"Q8_0": [0], "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "IQ4_NL": [0],
          "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "IQ4_XS": [0]}


def half(r, block):
    if block == 0:
        return np.float16(0.0)
    if block == 1:
        return np.float16(r.choice([-1, 1]) * r.integers(1, 1024) * 2.0**-24)
    return np.float16(r.choice([-1, 1]) * np.exp2(r.uniform(-12, 2)))


def blocks_of(r, name, count):
    _, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]]
    blocks = r.integers(0, 256, (count, size), dtype=np.uint8)
    blocks[2], blocks[3] = 0x00, 0xFF
    for i in range(count):
        for at in HALVES[name]:
            blocks[i, at:at + 2] = np.frombuffer(half(r, i).tobytes(), np.uint8)
    return blocks


def main():
    r = np.random.default_rng(20)
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "quant_blocks.jsonl")
    with open(path, "w") as out:
        for name in HALVES:
            kind = gguf.GGMLQuantizationType[name]
            elements, _ = gguf.GGML_QUANT_SIZES[kind]
            blocks = blocks_of(r, name, 7 if elements == 256 else 12)
            weights = gguf.quants.dequantize(blocks, kind).astype("<f4")
            out.write(json.dumps({"format": name, "blocks": blocks.tobytes().hex(), "weights": weights.tobytes().hex()}) + "\n")


if __name__ == "__main__":
    main()
