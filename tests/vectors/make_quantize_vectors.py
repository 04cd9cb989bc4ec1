"""Writes quantize.jsonl: weights, the Q8_0 blocks that gguf-py (0.19) makes of them, and the mean
squared error of the Q4_K blocks that llama.cpp makes of them.

    make_quantize_vectors.py     (needs: pip install gguf xllamacpp)
"""
# SPDX-License-Identifier: Apache-2.0
import ctypes
import glob
import json
import os

import gguf
import numpy as np
import xllamacpp

Q4_K = gguf.GGMLQuantizationType.Q4_K
OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "quantize.jsonl")


def llama_q4_k(weights):
    library = glob.glob(os.path.join(os.path.dirname(xllamacpp.__file__), "*.so"))[0]
    quantize = ctypes.CDLL(library).ggml_quantize_chunk
    quantize.restype = ctypes.c_size_t
    blocks = np.zeros((weights.size // 256, 144), np.uint8)
    quantize(ctypes.c_int(12), ctypes.c_void_p(weights.ctypes.data), ctypes.c_void_p(blocks.ctypes.data),
             ctypes.c_int64(0), ctypes.c_int64(weights.size // 256), ctypes.c_int64(256), None)
    return gguf.quants.dequantize(blocks, Q4_K).reshape(-1)


def cases():
    r = np.random.default_rng(31)
    yield "normal", r.normal(0, 0.02, 4096)
    yield "long tails", r.standard_t(4, 2048) * 0.02
    yield "uniform", r.uniform(-1, 1, 1024)
    yield "positive", r.uniform(0.2, 1, 512)
    yield "sparse", r.normal(0, 1, 1024) * (r.random(1024) < 0.05)
    yield "halves", np.arange(-128, 128) / 2.0  # ties of Q8_0
    yield "zeros", np.zeros(256)


def main():
    with open(OUT, "w") as out:
        for name, weights in cases():
            weights = np.ascontiguousarray(weights, np.float32)
            q8_0 = gguf.quants.quantize(weights.reshape(-1, 32), gguf.GGMLQuantizationType.Q8_0)
            error = float(np.mean((llama_q4_k(weights).astype(np.float64) - weights) ** 2))
            out.write(json.dumps({"name": name, "weights": weights.tobytes().hex(),
                                  "q8_0": q8_0.tobytes().hex(), "q4_k_error": error}) + "\n")


if __name__ == "__main__":
    main()
