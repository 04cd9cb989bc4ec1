#!/usr/bin/env python3
"""Writes corpus/hf_config: configs of each family, and what a hostile or careless writer makes of them."""
# SPDX-License-Identifier: Apache-2.0
import json
import pathlib

HERE = pathlib.Path(__file__).parent / "corpus" / "hf_config"
SHAPE = dict(hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
             vocab_size=304, max_position_embeddings=256, rms_norm_eps=1e-5)
LLAMA3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32)
LONG = dict(type="longrope", short_factor=[1.0] * 8, long_factor=[2.0] * 8)


def config(name, **more):
    return {"architectures": [name], **SHAPE, **more}


LLAMA = config("LlamaForCausalLM", rope_scaling=LLAMA3, rope_theta=500000.0)
PHI = config("Phi3ForCausalLM", rope_scaling=LONG, original_max_position_embeddings=64)
GEMMA3 = {"architectures": ["Gemma3ForConditionalGeneration"], "vision_config": {},
          "text_config": {**SHAPE, "model_type": "gemma3_text", "sliding_window": 20}}

VALID = {
    "llama": LLAMA,
    "mistral": config("MistralForCausalLM", sliding_window=20),
    "ministral": config("MinistralForCausalLM", layer_types=["sliding_attention", "full_attention"]),
    "phi3": PHI,
    "gemma2": config("Gemma2ForCausalLM", head_dim=32, query_pre_attn_scalar=24),
    "gemma3": GEMMA3,
    "qwen2": config("Qwen2ForCausalLM", use_sliding_window=True, max_window_layers=1),
    "qwen3": config("Qwen3ForCausalLM", head_dim=32, rope_parameters=dict(rope_type="yarn", factor=4.0, rope_theta=1e6)),
    "gemma3_new": {"architectures": ["Gemma3ForCausalLM"], **SHAPE, "head_dim": 16, "rope_parameters": {
        "full_attention": dict(rope_type="linear", factor=8.0, rope_theta=1e6),
        "sliding_attention": dict(rope_type="default", rope_theta=1e4)}},
}
WRONG = {
    "unknown_class": config("MixtralForCausalLM"),
    "classes_number": {**LLAMA, "architectures": 7},
    "classes_nested": {**LLAMA, "architectures": [["LlamaForCausalLM"]]},
    "rope_dynamic": {**LLAMA, "rope_scaling": dict(rope_type="dynamic", factor=2.0)},
    "rope_list": {**LLAMA, "rope_scaling": [1]},
    "rope_zero": {**LLAMA, "rope_scaling": {**LLAMA3, "factor": 0}},
    "rope_high_is_low": {**LLAMA, "rope_scaling": {**LLAMA3, "high_freq_factor": 1.0}},
    "rope_original_negative": {**LLAMA, "rope_scaling": {**LLAMA3, "original_max_position_embeddings": -1}},
    "lists_short": {**PHI, "rope_scaling": {**LONG, "short_factor": [1.0]}},
    "lists_long": {**PHI, "rope_scaling": {**LONG, "long_factor": [1.0] * 5000}},
    "lists_zero": {**PHI, "rope_scaling": {**LONG, "long_factor": [0] * 8}},
    "rotary_odd": {**PHI, "partial_rotary_factor": 0.2},
    "activation": {**LLAMA, "hidden_act": "relu"},
    "heads_do_not_divide": {**LLAMA, "num_key_value_heads": 3},
    "heads_zero": {**LLAMA, "num_attention_heads": 0},
    "heads_text": {**LLAMA, "num_attention_heads": "4"},
    "layers_negative": {**LLAMA, "num_hidden_layers": -2},
    "layers_huge": {**LLAMA, "num_hidden_layers": 2**62},
    "hidden_real": {**LLAMA, "hidden_size": 64.5},
    "head_dim_huge": {**LLAMA, "head_dim": 2**31},
    "layer_types_mixed": config("Qwen2ForCausalLM", layer_types=["full_attention", 7]),
    "layer_types_many": config("Qwen2ForCausalLM", layer_types=["full_attention"] * 5000),
    "text_config_list": {**LLAMA, "text_config": []},
    "text_config_other": {**GEMMA3, "text_config": {**SHAPE, "model_type": "other"}},
    "packed": {**LLAMA, "quantization_config": {"quant_method": {"a": 1}}},
    "list": [1, 2],
}
TEXTS = {
    "duplicate": b'{"architectures":["LlamaForCausalLM"],"hidden_size":64,"hidden_size":96}',
    "infinite": json.dumps(LLAMA).replace("500000.0", "1e999").encode(),
    "integer_too_big": b'{"hidden_size":123456789012345678901234567890}',
    "nested_10000": b'{"a":' + b"[" * 10000 + b"]" * 10000 + b"}",
    "objects_10000": b'{"a":' * 10000 + b"1" + b"}" * 10000,
    "nan": b'{"rope_theta":NaN}',
    "nul": b'{"model_type":"a\\u0000b"}',
    "not_utf8": b'{"model_type":"\xff\xfe"}',
    "controls": b'{"architectures":["\\u001b[31m\\u0007"]}',
    "two": b"{} {}",
    "empty": b"",
    "cut": json.dumps(LLAMA).encode()[:200],
}


def main():
    HERE.mkdir(parents=True, exist_ok=True)
    for name, value in {**VALID, **WRONG}.items():
        (HERE / name).write_text(json.dumps(value))
    for name, value in TEXTS.items():
        (HERE / name).write_bytes(value)


main()
