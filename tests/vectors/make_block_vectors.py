#!/usr/bin/env python3
"""Makes tests/vectors/families/blocks.gguf: a tiny random model whose matrices are in all block formats
of GGUF and in its 16-bit types, and the logits that the reference implementation gives for the
dequantised weights.

gguf-py packs Q4_0 Q4_1 Q5_0 Q5_1 Q8_0. The blocks of the others, for which it has no packer, are random
bytes, with scales that make the weights as large as any; gguf-py says what they mean. For each format
there is a spoiled twin, in which the weights of each 32 columns stand in the reverse order.

Needs transformers 4.57, torch, gguf, numpy:  python make_block_vectors.py
"""
# SPDX-License-Identifier: Apache-2.0
import json

import gguf
import numpy as np
import torch
import transformers as tf

import make_family_vectors as base
import make_folder_vectors as folders
from make_quant_vectors import HALVES

KIND = gguf.GGMLQuantizationType
FORMATS = {
    "token_embd": "Q6_K",
    "blk.0.attn_q": "Q2_K", "blk.0.attn_k": "Q3_K", "blk.0.attn_v": "Q4_K", "blk.0.attn_output": "Q5_1",
    "blk.0.ffn_gate": "Q5_K", "blk.0.ffn_up": "IQ4_XS", "blk.0.ffn_down": "IQ4_NL",
    "blk.1.attn_q": "Q3_K", "blk.1.attn_k": "Q8_0", "blk.1.attn_v": "BF16", "blk.1.attn_output": "Q4_1",
    "blk.1.ffn_gate": "Q4_0", "blk.1.ffn_up": "Q5_0", "blk.1.ffn_down": "F16",
}
PACKED_BY_LIBRARY = {"Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "F16", "BF16"}
FAMILY = dict(name="blocks", arch="llama", seed=9, tied=True, model=tf.LlamaForCausalLM, config_class=tf.LlamaConfig,
              config=dict(hidden_size=256, intermediate_size=256, num_attention_heads=2, num_key_value_heads=1,
                          head_dim=64, rope_theta=10000.0), keys=lambda w, c: None)


def set_halves(blocks, at, values):
    blocks[:, at:at + 2] = values.astype(np.float16).reshape(-1, 1).view(np.uint8)


def random_blocks(name, rows, cols, std, random):
    """Codes of any bytes; the scales set so that weights have mean 0 and the deviation wanted."""
    elements, size = gguf.GGML_QUANT_SIZES[KIND[name]]
    blocks = random.integers(0, 256, (rows * cols // elements, size), dtype=np.uint8)
    count = len(blocks)
    scale = random.choice([-1.0, 1.0], count) * random.uniform(0.5, 1.5, count)

    def weights_with(*halves):
        for at, half in zip(HALVES[name], halves):
            set_halves(blocks, at, half)
        return gguf.quants.dequantize(blocks, KIND[name])

    zero = np.zeros(count)
    mean = weights_with(scale, zero).mean(axis=1)
    least = weights_with(zero, np.ones(count)).mean(axis=1) if len(HALVES[name]) == 2 else -np.ones(count)
    minimum = -mean / least
    size_of_all = weights_with(scale, minimum).std()
    weights_with(scale * std / size_of_all, minimum * std / size_of_all)
    return blocks.reshape(rows, -1)


def pack(name, values, random):
    rows, cols = values.shape
    if name in PACKED_BY_LIBRARY:
        return gguf.quants.quantize(np.ascontiguousarray(values), KIND[name])
    return random_blocks(name, rows, cols, values.std(), random)


def apart(weight, heads):
    """Undoes base.interleave."""
    rows, cols = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, cols).swapaxes(1, 2).reshape(rows, cols)


class Blocks:
    """Packs each matrix of a model, once and for all, and puts the weights that the blocks mean in."""

    def __init__(self):
        self.packed = {}

    def __call__(self, model):
        random = np.random.default_rng(99)
        for name, weight in model.named_parameters():
            if weight.dim() != 2:
                continue
            heads = {"q_proj": 2, "k_proj": 1}.get(name.split(".")[-2], 0)
            values = weight.numpy()
            name = base.tensor_name(name, False)
            kind = FORMATS[name.removesuffix(".weight")]
            blocks = pack(kind, base.interleave(values, heads) if heads else values, random)
            self.packed[name] = blocks, KIND[kind]
            meant = gguf.quants.dequantize(blocks, KIND[kind]).reshape(values.shape)
            weight.copy_(torch.from_numpy(np.ascontiguousarray(apart(meant, heads) if heads else meant)))


def reversed_columns(kind):
    def spoil(model):
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if weight.dim() == 2 and FORMATS[base.tensor_name(name, False).removesuffix(".weight")] == kind:
                    rows, cols = weight.shape
                    weight.copy_(weight.reshape(rows, cols // 32, 32).flip(2).reshape(rows, cols))
    return spoil


def main():
    lines, blocks = [], Blocks()
    family = {**FAMILY, "finish": blocks}
    model = base.make_model(family)
    base.write_gguf(family, model, blocks.packed)
    folders.make_cases(family, "blocks", base.prompt(70, 60),
                       {f"{kind} reversed": reversed_columns(kind) for kind in FORMATS.values()}, lines)
    (base.HERE / "block_cases.jsonl").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
