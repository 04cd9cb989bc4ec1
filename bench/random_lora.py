#!/usr/bin/env python3
"""Random LoRA adapters of a model's shape: PEFT folders OUT/a0, OUT/a1, ...; with --gguf OUT/a0.gguf, ... of the same values, for llama.cpp.

  random_lora.py --model PATH --out DIR --count 8 [--rank 16,...] [--targets all|qv] [--seed 1] [--gguf] [--espalier BINARY]

Ranks are taken in turn. Adapter k of a seed is the same whatever the count. What they say is noise, small enough that
answers stay finite. The shape is read with `espalier inspect`; --gguf wants the gguf package and a model of family llama.
"""
# SPDX-License-Identifier: Apache-2.0
import argparse
import json
import os
import subprocess

import numpy as np

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
ATTENTION, MLP = "self_attn", "mlp"
GGUF = {"q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output", "gate_proj": "ffn_gate",
        "up_proj": "ffn_up", "down_proj": "ffn_down"}
CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"


def shape_of(espalier, model):
    done = subprocess.run([espalier, "inspect", model], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def targets(shape, which):
    """module -> (block, rows, columns)"""
    hidden, inner = shape["hidden"], shape["intermediate"]
    q, kv = shape["heads"] * shape["head_dim"], shape["kv_heads"] * shape["head_dim"]
    every = {"q_proj": (ATTENTION, q, hidden), "k_proj": (ATTENTION, kv, hidden), "v_proj": (ATTENTION, kv, hidden),
             "o_proj": (ATTENTION, hidden, q), "gate_proj": (MLP, inner, hidden), "up_proj": (MLP, inner, hidden),
             "down_proj": (MLP, hidden, inner)}
    return every if which == "all" else {name: every[name] for name in ("q_proj", "v_proj")}


def small(random, rows, columns, deviation):
    """Float32 values that bf16 and f16 hold exactly: six bits behind a power of two."""
    step = 2.0 ** (np.floor(np.log2(deviation)) - 4)
    return np.clip(np.round(random.standard_normal((rows, columns), dtype=np.float32) * (deviation / step)), -63, 63) * np.float32(step)


def updates(shape, which, rank, seed, number):
    """(layer, module) -> (A [rank, columns], B [rows, rank])"""
    random = np.random.default_rng((seed, number))
    return {(layer, module): (small(random, rank, columns, columns ** -0.5), small(random, rows, rank, 0.02))
            for layer in range(shape["layers"]) for module, (_, rows, columns) in targets(shape, which).items()}


def bf16(x):
    """Exact for values of small()."""
    return (np.ascontiguousarray(x, np.float32).view(np.uint32) >> 16).astype("<u2").tobytes()


def write_peft(folder, base, found, modules, rank):
    tensors = {}
    for (layer, module), (a, b) in found.items():
        name = f"base_model.model.model.layers.{layer}.{modules[module][0]}.{module}"
        tensors[name + ".lora_A.weight"], tensors[name + ".lora_B.weight"] = a, b
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name in sorted(tensors):
        begin, end = end, end + 2 * tensors[name].size
        header[name] = {"dtype": "BF16", "shape": list(tensors[name].shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, TENSORS), "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in sorted(tensors):
            file.write(bf16(tensors[name]))
    with open(os.path.join(folder, CONFIG), "w", encoding="utf-8") as file:
        json.dump({"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base, "r": rank, "lora_alpha": 2 * rank,
                   "lora_dropout": 0.0, "bias": "none", "target_modules": sorted(modules), "fan_in_fan_out": False,
                   "inference_mode": True}, file)


def interleaved(b, heads):
    """Rows of q and k as GGUF files of family llama have them: the halves of a head in turn."""
    return b.reshape(heads, 2, -1, b.shape[-1]).swapaxes(1, 2).reshape(b.shape)


def write_gguf(path, shape, found, rank):
    import gguf
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(2 * rank))
    heads = {"q_proj": shape["heads"], "k_proj": shape["kv_heads"]}
    for (layer, module), (a, b) in found.items():
        name = f"blk.{layer}.{GGUF[module]}.weight"
        rows = interleaved(b, heads[module]) if module in heads else b
        writer.add_tensor(name + ".lora_a", a.astype(np.float16))
        writer.add_tensor(name + ".lora_b", np.ascontiguousarray(rows).astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def make(shape, out, count, ranks, which="all", seed=1, also_gguf=False, base=""):
    """The PEFT folders' paths."""
    modules, paths = targets(shape, which), []
    for number in range(count):
        rank = ranks[number % len(ranks)]
        found = updates(shape, which, rank, seed, number)
        paths.append(os.path.join(out, f"a{number}"))
        write_peft(paths[-1], base, found, modules, rank)
        if also_gguf:
            write_gguf(paths[-1] + ".gguf", shape, found, rank)
    return paths


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--rank", default="16", help="one, or several to be taken in turn")
    parser.add_argument("--targets", choices=("all", "qv"), default="all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--gguf", action="store_true")
    parser.add_argument("--espalier", default=os.path.join(ROOT, "build", "release", "espalier"))
    o = parser.parse_args()
    ranks = [int(rank) for rank in o.rank.split(",")]
    make(shape_of(o.espalier, o.model), o.out, o.count, ranks, o.targets, o.seed, o.gguf)


if __name__ == "__main__":
    main()
