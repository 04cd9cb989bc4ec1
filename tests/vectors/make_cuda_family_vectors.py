#!/usr/bin/env python3
"""Makes tests/vectors/families-cuda: the logits of the reference implementation, in float32, on the very weights that
the CUDA backend's tests compute with. tests/cuda/test_cuda_families.c reads them.

    bf16   families/NAME.gguf with its float16 matrices rounded to bf16, as tests/cuda/bf16_model.h does
    w4     families-w4/NAME.gguf (make_w4_families.py), its Q4_0 blocks dequantised

The models and prompts are those of make_family_vectors.py; a row of cases.jsonl says which rows of a prompt's logits
lie in NAME-FORMAT.f32.

Needs transformers 4.57, torch, gguf, numpy:  python make_cuda_family_vectors.py
"""
# SPDX-License-Identifier: Apache-2.0
import json
import pathlib

import gguf
import numpy as np
import torch

import make_family_vectors as families

HERE = pathlib.Path(__file__).parent
OUT = HERE / "families-cuda"
NAMES = ("llama3", "qwen3", "gemma2", "mistral", "phi3")
FORMATS = {"bf16": "families", "w4": "families-w4"}


def deinterleave(weight, heads):
    """What families.interleave has done, undone."""
    rows, cols = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, cols).swapaxes(1, 2).reshape(rows, cols)


def matrix_of(tensor, fmt):
    if fmt == "bf16":
        values = torch.from_numpy(np.asarray(tensor.data, dtype=np.float32).copy())
        return values.to(torch.bfloat16).float().numpy()
    assert tensor.tensor_type == gguf.GGMLQuantizationType.Q4_0
    return gguf.dequantize(tensor.data, tensor.tensor_type)


def make_model(family, fmt):
    """The family's model with the matrices of the file."""
    model = families.make_model(family)
    file = gguf.GGUFReader(HERE / FORMATS[fmt] / f"{family['name']}.gguf")
    tensors = {t.name: t for t in file.tensors}
    heads = {"q_proj": model.config.num_attention_heads, "k_proj": model.config.num_key_value_heads}
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() != 2:
                continue
            values = matrix_of(tensors[families.tensor_name(name, family["arch"].startswith("gemma"))], fmt)
            part = name.split(".")[-2]
            if family["arch"] == "llama" and part in heads:
                values = deinterleave(values, heads[part])
            assert values.shape == tuple(weight.shape)
            moved = np.abs(values - weight.numpy()).max() / np.abs(weight.numpy()).max()
            assert moved < (0.005 if fmt == "bf16" else 0.13), f"{name}: {moved}"
            weight.copy_(torch.from_numpy(np.ascontiguousarray(values)))
    return model


def main():
    OUT.mkdir(exist_ok=True)
    lines = []
    by_name = {family["name"]: family for family in families.FAMILIES}
    for name in NAMES:
        ids = by_name[name]["prompts"][-1]
        rows = families.reference_rows(len(ids))
        for fmt in FORMATS:
            logits = families.logits_of(make_model(by_name[name], fmt), ids)
            (OUT / f"{name}-{fmt}.f32").write_bytes(logits[rows].astype("<f4").tobytes())
            lines.append(json.dumps({"model": name, "format": fmt, "ids": ids, "rows": rows}))
            print(f"{name}, {fmt}: {len(ids)} tokens, std {logits.std():.2f}")
    (OUT / "cases.jsonl").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
