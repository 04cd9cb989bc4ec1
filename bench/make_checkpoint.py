"""Writes a folder with a random bf16 model of Llama 3.2 1B's shape (2.5 GB) and a tokenizer of the 256 bytes.

For measuring how fast a checkpoint loads; what the model says is noise.
"""
# SPDX-License-Identifier: Apache-2.0
import json
import os
import struct
import sys

import numpy as np

HIDDEN, INNER, VOCAB, KEY, LAYERS = 2048, 8192, 128256, 512, 16
PIECE = 1 << 24


def tensors():
    """name -> shape, in the order of the names, as the safetensors library writes them."""
    shapes = {"model.embed_tokens.weight": (VOCAB, HIDDEN), "model.norm.weight": (HIDDEN,)}
    for layer in range(LAYERS):
        for name, shape in (("input_layernorm", (HIDDEN,)), ("post_attention_layernorm", (HIDDEN,)),
                            ("self_attn.q_proj", (HIDDEN, HIDDEN)), ("self_attn.k_proj", (KEY, HIDDEN)),
                            ("self_attn.v_proj", (KEY, HIDDEN)), ("self_attn.o_proj", (HIDDEN, HIDDEN)),
                            ("mlp.gate_proj", (INNER, HIDDEN)), ("mlp.up_proj", (INNER, HIDDEN)),
                            ("mlp.down_proj", (HIDDEN, INNER))):
            shapes[f"model.layers.{layer}.{name}.weight"] = shape
    return dict(sorted(shapes.items()))


def write_weights(path):
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in tensors().items():
        begin, end = end, end + 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    random = np.random.default_rng(1)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for shape in tensors().values():
            left = int(np.prod(shape))
            while left:
                count = min(PIECE, left)
                values = random.standard_normal(count, dtype=np.float32) * np.float32(0.02)
                file.write((values.view(np.uint32) >> 16).astype(np.uint16).tobytes())
                left -= count


def byte_symbols():
    """The byte-level alphabet: the visible characters of Latin-1 stand for themselves."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = iter(range(256, 512))
    return [chr(b) if b in visible else chr(next(hidden)) for b in range(256)]


def write_json(folder, name, value):
    with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
        json.dump(value, file)


def main():
    folder = sys.argv[1]
    os.makedirs(folder, exist_ok=True)
    write_json(folder, "config.json", {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": INNER,
        "num_hidden_layers": LAYERS, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64,
        "vocab_size": VOCAB, "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
        "hidden_act": "silu", "tie_word_embeddings": True, "bos_token_id": 0, "eos_token_id": 0})
    write_json(folder, "tokenizer.json", {
        "version": "1.0", "added_tokens": [], "normalizer": None, "post_processor": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "vocab": {symbol: i for i, symbol in enumerate(byte_symbols())}, "merges": []}})
    write_weights(os.path.join(folder, "model.safetensors"))


if __name__ == "__main__":
    main()
