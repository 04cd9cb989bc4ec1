#!/usr/bin/env python3
"""A GGUF Llama as a Hugging Face folder with bf16 weights: hf_folder.py MODEL.gguf FOLDER

vLLM's CPU build reads no GGUF, so both sides of the comparison in bf16 read this folder. Values are the file's,
dequantised and rounded to the nearest bf16; rows of q and k go back to the halves' order that folders have.
"""
# SPDX-License-Identifier: Apache-2.0
import json
import os
import sys

import gguf
import numpy as np

LAYER = {"attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
         "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm",
         "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
OUTSIDE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
CONTROL = 3
"""tokenizer.ggml.token_type of a control token."""


class Source:
    def __init__(self, path):
        self.reader = gguf.GGUFReader(path)

    def __getitem__(self, key):
        return self.reader.fields[key].contents()

    def shape(self, key):
        return self[f"llama.{key}"]


def config(source, tied):
    return {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "dtype": "bfloat16", "torch_dtype": "bfloat16",
            "hidden_size": source.shape("embedding_length"), "intermediate_size": source.shape("feed_forward_length"),
            "num_hidden_layers": source.shape("block_count"), "num_attention_heads": source.shape("attention.head_count"),
            "num_key_value_heads": source.shape("attention.head_count_kv"),
            "head_dim": source.shape("embedding_length") // source.shape("attention.head_count"),
            "rms_norm_eps": float(source.shape("attention.layer_norm_rms_epsilon")),
            "rope_theta": float(source.shape("rope.freq_base")), "rope_scaling": None, "hidden_act": "silu",
            "max_position_embeddings": source.shape("context_length"), "vocab_size": len(source["tokenizer.ggml.tokens"]),
            "bos_token_id": source["tokenizer.ggml.bos_token_id"], "eos_token_id": source["tokenizer.ggml.eos_token_id"],
            "attention_bias": False, "mlp_bias": False, "tie_word_embeddings": tied}


def tokenizer(source):
    """Byte-level BPE with single digits, the rule that the file names "smollm"."""
    if (source["tokenizer.ggml.model"], source["tokenizer.ggml.pre"]) != ("gpt2", "smollm"):
        sys.exit(f"hf_folder.py: the tokenizer is {source['tokenizer.ggml.pre']!r}; only smollm's is known here")
    tokens, types = source["tokenizer.ggml.tokens"], source["tokenizer.ggml.token_type"]
    added = [{"id": i, "content": tokens[i], "special": True, "normalized": False, "single_word": False,
              "lstrip": False, "rstrip": False} for i, kind in enumerate(types) if kind == CONTROL]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, level]},
            "post_processor": None, "decoder": level,
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                      "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                      "vocab": {token: i for i, token in enumerate(tokens)}, "merges": source["tokenizer.ggml.merges"]}}


def folder_name(name):
    part = name.removesuffix(".weight").split(".")
    if part[0] == "blk":
        return f"model.layers.{part[1]}.{LAYER[part[2]]}.weight"
    return OUTSIDE[part[0]] + ".weight"


def values(source, tensor):
    out = np.asarray(gguf.quants.dequantize(tensor.data, tensor.tensor_type), np.float32)
    for part, heads in (("attn_q", "head_count"), ("attn_k", "head_count_kv")):
        if f".{part}." in tensor.name:
            split = out.reshape(source.shape(f"attention.{heads}"), -1, 2, out.shape[-1])
            out = split.swapaxes(1, 2).reshape(out.shape)
    return out


def bf16_bytes(x):
    """Nearest, ties to even."""
    bits = np.ascontiguousarray(x).view(np.uint32)
    return ((bits + 0x7fff + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes()


def write_safetensors(path, tensors):
    header, begin = {}, 0
    for name, x in tensors.items():
        header[name] = {"dtype": "BF16", "shape": list(x.shape), "data_offsets": [begin, begin + 2 * x.size]}
        begin += 2 * x.size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for x in tensors.values():
            file.write(bf16_bytes(x))


def main():
    path, folder = sys.argv[1:]
    source = Source(path)
    if source["general.architecture"] != "llama":
        sys.exit(f"hf_folder.py: {path} is a {source['general.architecture']}; only llama is known here")
    tensors = {folder_name(t.name): values(source, t) for t in source.reader.tensors}
    partial = folder + ".partial"
    os.makedirs(partial, exist_ok=True)
    ends = source["tokenizer.ggml.tokens"][source["tokenizer.ggml.eos_token_id"]]
    texts = {"config.json": config(source, "lm_head.weight" not in tensors), "tokenizer.json": tokenizer(source),
             "tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": ends,
                                       "clean_up_tokenization_spaces": False, "add_prefix_space": False}}
    for name, value in texts.items():
        with open(os.path.join(partial, name), "w", encoding="utf-8") as file:
            json.dump(value, file, ensure_ascii=False)
    write_safetensors(os.path.join(partial, "model.safetensors"), tensors)
    os.rename(partial, folder)


if __name__ == "__main__":
    main()
