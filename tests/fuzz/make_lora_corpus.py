#!/usr/bin/env python3
"""Writes the seed files of fuzz_lora_config and fuzz_lora_gguf into corpus/lora_config and
corpus/lora_gguf: adapters for the tiny base of lora_fuzz.h, of each kind, and what a hostile or careless
writer makes of them.

Needs nothing but Python; the output is committed and the same on every run.
"""
# SPDX-License-Identifier: Apache-2.0
import json
import pathlib
import struct

HERE = pathlib.Path(__file__).parent / "corpus"
HIDDEN, QUERY, KEY, INNER = 64, 64, 32, 128
ROWS = {"q_proj": QUERY, "k_proj": KEY, "v_proj": KEY, "qkv_proj": QUERY + 2 * KEY, "o_proj": HIDDEN,
        "gate_proj": INNER, "up_proj": INNER, "gate_up_proj": 2 * INNER, "down_proj": HIDDEN}
CONFIG = dict(peft_type="LORA", task_type="CAUSAL_LM", r=1, lora_alpha=2, target_modules=["q_proj"],
              base_model_name_or_path="tiny/base")


def cols(name):
    return {"o_proj": QUERY, "down_proj": INNER}.get(name, HIDDEN)


def module(layer, name):
    return f"base_model.model.model.layers.{layer}.{'self_attn' if name[0] in 'qkvo' else 'mlp'}.{name}"


def update(layer, name, rank=1, **more):
    """One update, and vectors beside it by their endings."""
    at = module(layer, name)
    tensors = {f"{at}.lora_A.weight": [rank, cols(name)], f"{at}.lora_B.weight": [ROWS[name], rank]}
    tensors.update({f"{at}.{end.replace('__', '.')}": [ROWS[name]] for end in more})
    return tensors


def both(name, rank=1, **more):
    return {**update(0, name, rank, **more), **update(1, name, rank, **more)}


def floats(count, value=0.25):
    return b"".join(struct.pack("<f", value * (1 + i % 7) / 8) for i in range(count))


def safetensors(tensors, value=0.25):
    header, data = {}, b""
    for name, shape in tensors.items():
        count = 1
        for size in shape:
            count *= size
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + 4 * count]}
        data += floats(count, value)
    text = json.dumps(header, separators=(",", ":")).encode()
    return struct.pack("<Q", len(text)) + text + data


def folder(tensors, value=0.25, **config):
    text = json.dumps({**CONFIG, **config}, separators=(",", ":")).encode()
    return text + b"\0" + safetensors(tensors, value)


def gguf(tensors, **pairs):
    """Strings and one float as metadata."""
    keys = {"general.type": "adapter", "adapter.type": "lora", "general.architecture": "llama",
            "adapter.lora.alpha": 2.0, **pairs}

    def text(value):
        return struct.pack("<Q", len(value)) + value.encode()

    out = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys))
    for key, value in keys.items():
        out += text(key)
        out += struct.pack("<I", 8) + text(value) if isinstance(value, str) else struct.pack("<If", 6, value)
    data = b""
    for name, shape in tensors.items():
        data += bytes(-len(data) % 32)
        out += text(name) + struct.pack("<I", len(shape)) + b"".join(struct.pack("<Q", n) for n in reversed(shape))
        out += struct.pack("<IQ", 0, len(data))
        data += floats(shape[0] * shape[1])
    return out + bytes(-len(out) % 32) + data


Q = both("q_proj")
FOLDERS = {
    "plain": folder(Q),
    "all": folder({k: v for name in ("q_proj", "o_proj", "down_proj") for k, v in both(name).items()},
                  target_modules=["q_proj", "o_proj", "down_proj"]),
    "fused": folder({**both("qkv_proj"), **both("gate_up_proj")}, target_modules="all-linear"),
    "fused_and_split": folder({**both("qkv_proj"), **Q}, target_modules="all-linear"),
    "dora": folder(both("q_proj", lora_magnitude_vector=1), use_dora=True),
    "dora_of_nothing": folder(both("q_proj", lora_magnitude_vector=1), 0.0, use_dora=True),
    "second_bias": folder(both("q_proj", lora_B__bias=1), lora_bias=True),
    "bias": folder(both("q_proj", base_layer__bias=1), bias="all"),
    "rank_pattern": folder({**update(0, "q_proj", 2), **update(1, "q_proj")}, rank_pattern={r"layers\.0\..*q_proj": 2},
                           alpha_pattern={"q_proj": 3}, use_rslora=True),
    "pattern": folder(Q, target_modules=r".*\.(q|k)_proj"),
    "pattern_steps": folder(Q, rank_pattern={r"((.|.)*)*[!?]": 1}),
    "pattern_wrong": folder(Q, target_modules="(((("),
    "layers": folder(update(1, "q_proj"), layers_to_transform=[1], layers_pattern=["layers", "h"]),
    "layer_alone": folder(update(1, "q_proj"), layers_to_transform=1),
    "layer_numbers": folder(Q, layers_to_transform=[0, 1, -1, 99999999999]),
    "exclude": folder(update(0, "q_proj"), exclude_modules=r".*layers\.1\..*"),
    "missing": folder(update(0, "q_proj")),
    "alpha_0": folder(Q, lora_alpha=0),
    "rank_0": folder(Q, r=0),
    "rank_600": folder(Q, r=600),
    "unknown_key": folder(Q, use_something={"a": 1}),
    "pissa": folder(Q, init_lora_weights="pissa_niter_4"),
    "score": folder({**Q, "base_model.model.score.weight": [3, HIDDEN]}, task_type="SEQ_CLS",
                    id2label={"0": "a", "1": "b", "2": "c"}),
    "labels_wrong": folder({**Q, "base_model.model.score.weight": [2, HIDDEN]}, id2label={"0": 1}),
    "table_short": folder({**Q, "base_model.model.lm_head.weight": [3, HIDDEN]}),
    "layer_511": folder(update(511, "q_proj")),
    "layer_huge": folder(update(99999, "q_proj")),
    "no_tensors": folder({}),
    "infinite": folder(Q, float("inf")),
    "config_nested": b'{"peft_type":' + b"[" * 3000,
}
A, B = "blk.0.attn_q.weight.lora_a", "blk.0.attn_q.weight.lora_b"
GGUFS = {
    "plain": gguf({A: [1, HIDDEN], B: [QUERY, 1]}),
    "all": gguf({A: [1, HIDDEN], B: [QUERY, 1], "blk.1.ffn_down.weight.lora_a": [2, INNER],
                 "blk.1.ffn_down.weight.lora_b": [HIDDEN, 2]}),
    "fused": gguf({"blk.0.attn_qkv.weight.lora_a": [1, HIDDEN], "blk.0.attn_qkv.weight.lora_b": [QUERY + 2 * KEY, 1]}),
    "phi": gguf({"blk.0.ffn_up.weight.lora_a": [1, HIDDEN], "blk.0.ffn_up.weight.lora_b": [2 * INNER, 1]},
                **{"general.architecture": "phi3"}),
    "alone": gguf({A: [1, HIDDEN]}),
    "rank": gguf({A: [2, HIDDEN], B: [QUERY, 1]}),
    "alpha_nan": gguf({A: [1, HIDDEN], B: [QUERY, 1]}, **{"adapter.lora.alpha": float("nan")}),
    "alpha_text": gguf({A: [1, HIDDEN], B: [QUERY, 1]}, **{"adapter.lora.alpha": "2"}),
    "model": gguf({A: [1, HIDDEN], B: [QUERY, 1]}, **{"general.type": "model"}),
    "unknown_key": gguf({A: [1, HIDDEN], B: [QUERY, 1]}, **{"adapter.other.alpha": 1.0}),
    "layer": gguf({"blk.77.attn_q.weight.lora_a": [1, HIDDEN], "blk.77.attn_q.weight.lora_b": [QUERY, 1]}),
    "name": gguf({"output_norm.weight": [1, HIDDEN]}),
    "embedding": gguf({"token_embd.weight.lora_a": [292, 1], "token_embd.weight.lora_b": [HIDDEN, 1]}),
    "empty": gguf({}),
}


def main():
    for name, files in (("lora_config", FOLDERS), ("lora_gguf", GGUFS)):
        (HERE / name).mkdir(parents=True, exist_ok=True)
        for stem, content in files.items():
            (HERE / name / stem).write_bytes(content)
        cut = files["plain"]
        (HERE / name / "cut").write_bytes(cut[:len(cut) * 2 // 3])


if __name__ == "__main__":
    main()
