#!/usr/bin/env python3
"""Writes the seed files of fuzz_gguf into corpus/gguf: a valid tiny Llama model, the smallest valid
files, and one file for each kind of damage, so that the fuzzer begins behind the first checks.

Needs nothing but Python; the output is committed and the same on every run.
"""
# SPDX-License-Identifier: Apache-2.0
import pathlib
import struct

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
FORMATS = {U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "B",
           U64: "Q", I64: "q", F64: "d"}
DT_F32, DT_Q4_0 = 0, 2
ALIGNMENT = 32


def text(value):
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def scalar(kind, value):
    return text(value) if kind == STRING else struct.pack("<" + FORMATS[kind], value)


def pair(key, kind, value):
    return text(key) + struct.pack("<I", kind) + scalar(kind, value)


def array(key, kind, values, count=None):
    body = b"".join(scalar(kind, v) for v in values)
    n = len(values) if count is None else count
    return text(key) + struct.pack("<IIQ", ARRAY, kind, n) + body


def tensor(name, dims, kind, offset):
    return (text(name) + struct.pack("<I", len(dims)) + struct.pack(f"<{len(dims)}Q", *dims)
            + struct.pack("<IQ", kind, offset))


def pad(raw, alignment=ALIGNMENT):
    return raw + bytes(-len(raw) % alignment)


def gguf(pairs, tensors=(), data=b"", version=3, pair_count=None, tensor_count=None):
    head = b"GGUF" + struct.pack("<IQQ", version,
                                 len(tensors) if tensor_count is None else tensor_count,
                                 len(pairs) if pair_count is None else pair_count)
    return pad(head + b"".join(pairs) + b"".join(tensors)) + data


def byte_symbols():
    """The byte-level alphabet: the visible characters of Latin-1 stand for themselves."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = iter(range(256, 512))
    return [chr(b) if b in visible else chr(next(hidden)) for b in range(256)]


def metadata(hidden=32, heads=2, kv_heads=1, inner=32):
    return [
        pair("general.architecture", STRING, "llama"),
        pair("general.name", STRING, "seed"),
        pair("llama.block_count", U32, 1),
        pair("llama.context_length", U64, 64),
        pair("llama.embedding_length", U32, hidden),
        pair("llama.feed_forward_length", I32, inner),
        pair("llama.attention.head_count", U8, heads),
        pair("llama.attention.head_count_kv", U16, kv_heads),
        pair("llama.attention.layer_norm_rms_epsilon", F32, 1e-5),
        pair("llama.rope.freq_base", F64, 10000.0),
        pair("llama.rope.dimension_count", U32, 16),
        pair("llama.rope.scaling.type", STRING, "none"),
        pair("llama.attention.causal", BOOL, 1),
    ]


def tokenizer():
    tokens = ["<|endoftext|>", "<|im_end|>", *byte_symbols(), "\u0120t", "he", "\u0120the"]
    return [
        pair("tokenizer.ggml.model", STRING, "gpt2"),
        pair("tokenizer.ggml.pre", STRING, "smollm"),
        array("tokenizer.ggml.tokens", STRING, tokens),
        array("tokenizer.ggml.token_type", I32, [3, 3] + [1] * (len(tokens) - 2)),
        array("tokenizer.ggml.merges", STRING, ["\u0120 t", "h e", "\u0120t he"]),
        pair("tokenizer.ggml.eos_token_id", U32, 1),
        pair("tokenizer.ggml.add_bos_token", BOOL, 0),
        pair("tokenizer.chat_template", STRING, "{{ messages[0]['content'] }}"),
    ], len(tokens)


def weights(vocab, hidden=32, kv=16, inner=32):
    shapes = [("token_embd", [hidden, vocab]), ("output_norm", [hidden]),
              ("blk.0.attn_norm", [hidden]), ("blk.0.attn_q", [hidden, hidden]),
              ("blk.0.attn_k", [hidden, kv]), ("blk.0.attn_v", [hidden, kv]),
              ("blk.0.attn_output", [hidden, hidden]), ("blk.0.ffn_norm", [hidden]),
              ("blk.0.ffn_gate", [hidden, inner]), ("blk.0.ffn_up", [hidden, inner]),
              ("blk.0.ffn_down", [inner, hidden])]
    table, data = [], b""
    for name, dims in shapes:
        kind = DT_F32 if len(dims) == 1 else DT_Q4_0
        size = dims[0] * 4 if len(dims) == 1 else dims[0] * dims[1] // 32 * 18
        table.append(tensor(name + ".weight", dims, kind, len(data)))
        data = pad(data + bytes(i * 37 % 256 for i in range(size)))
    return table, data


def tiny_llama(more=(), **damage):
    tokens, vocab = tokenizer()
    table, data = weights(vocab)
    return gguf([*metadata(), *tokens, *more], table, data, **damage)


BERT_KEYS = {"block_count": 1, "context_length": 16, "embedding_length": 32,
             "feed_forward_length": 32, "attention.head_count": 2, "pooling_type": 1}
BERT_LAYER = {"attn_q": [32, 32], "attn_k": [32, 32], "attn_v": [32, 32], "attn_output": [32, 32],
              "attn_output_norm": [32], "ffn_up": [32, 32], "ffn_down": [32, 32],
              "layer_output_norm": [32]}


def tiny_bert(without=(), **changed):
    """An encoder; changed: keys of BERT_KEYS with "." as "_", None: left out. without: tensors."""
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "\u2581the", "\u2581cat", "s"]
    keys = {key: changed.get(key.replace(".", "_"), value) for key, value in BERT_KEYS.items()}
    pairs = [pair("general.architecture", STRING, "bert"),
             *[pair("bert." + key, U32, value) for key, value in keys.items() if value is not None],
             pair("bert.attention.layer_norm_epsilon", F32, 1e-12),
             pair("bert.attention.causal", BOOL, changed.get("causal", 0)),
             pair("tokenizer.ggml.model", STRING, "bert"),
             array("tokenizer.ggml.tokens", STRING, tokens),
             array("tokenizer.ggml.token_type", I32, [3] * 4 + [1] * 3),
             pair("tokenizer.ggml.unknown_token_id", U32, 1),
             pair("tokenizer.ggml.bos_token_id", U32, 2),
             pair("tokenizer.ggml.seperator_token_id", U32, 3)]
    shapes = {"token_embd.weight": [32, len(tokens)], "position_embd.weight": [32, 16],
              "token_types.weight": [32, 2], "token_embd_norm.weight": [32],
              "token_embd_norm.bias": [32]}
    for name, dims in BERT_LAYER.items():
        shapes |= {f"blk.0.{name}.weight": dims, f"blk.0.{name}.bias": [dims[-1]]}
    table, data = [], b""
    for name, dims in shapes.items():
        if name in without:
            continue
        kind = DT_F32 if len(dims) == 1 else DT_Q4_0
        size = dims[0] * 4 if len(dims) == 1 else dims[0] * dims[1] // 32 * 18
        table.append(tensor(name, dims, kind, len(data)))
        data = pad(data + bytes(size))
    return gguf(pairs, table, data)


def every_type():
    pairs = [pair(f"one.{kind}", kind, "text" if kind == STRING else 1)
             for kind in range(13) if kind != ARRAY]
    pairs += [array(f"many.{kind}", kind, ["a", ""] if kind == STRING else [0, 1, 1])
              for kind in range(13) if kind != ARRAY]
    return gguf(pairs)


def split(number, count, tensors):
    return [pair("split.no", U16, number), pair("split.count", U32, count),
            pair("split.tensors.count", I32, tensors)]


def files():
    one = [tensor("t", [16], DT_F32, 0)]
    sixteen = bytes(64)
    valid = tiny_llama()
    return {
        "valid_tiny_llama": valid,
        "valid_every_type": every_type(),
        "valid_v2_one_tensor": gguf([], one, sixteen, version=2),
        "valid_alignment_8": gguf([pair("general.alignment", U32, 8)], one, sixteen),
        "cut_in_metadata": valid[:3000],
        "cut_in_tensors": valid[:-1000],
        "big_endian": b"GGUF" + struct.pack(">IQQ", 3, 0, 0),
        "count_wraps": gguf([array("k", U64, [1], count=(1 << 61) + 1)]),
        "text_wraps": gguf([text("k") + struct.pack("<IQ", STRING, (1 << 64) - 8)]),
        "nested_array": gguf([text("k") + struct.pack("<IIQIQ", ARRAY, ARRAY, 1, U8, 0)]),
        "duplicate_key": gguf([pair("k", U32, 1), pair("k", U32, 2)]),
        "dims_wrap": gguf([], [tensor("t", [1 << 32, 1 << 32], DT_F32, 0)], sixteen),
        "offset_wraps": gguf([], one + [tensor("u", [8], DT_F32, (1 << 64) - 32)], sixteen),
        "overlap": gguf([], one + [tensor("u", [8], DT_F32, 32)], sixteen),
        "split_first": gguf(split(0, 2, 2), one, sixteen),
        "split_last": gguf(split(1, 2, 2), one, sixteen),
        "split_of_one": gguf(split(0, 1, 1), one, sixteen),
        "split_count_huge": gguf(split(0, (1 << 32) - 1, 1), one, sixteen),
        "split_model": tiny_llama(split(0, 3, 12)),
        "tensor_count_huge": gguf([], one, sixteen, tensor_count=1 << 62),
        "valid_tiny_bert": tiny_bert(),
        "bert_no_pooling": tiny_bert(pooling_type=None),
        "bert_ranks": tiny_bert(pooling_type=4),
        "bert_no_positions": tiny_bert(context_length=0),
        "bert_heads": tiny_bert(attention_head_count=3),
        "bert_causal": tiny_bert(causal=1),
        "bert_no_bias": tiny_bert(without=["blk.0.ffn_up.bias"]),
        "bert_no_types": tiny_bert(without=["token_types.weight"]),
    }


def main():
    folder = pathlib.Path(__file__).parent / "corpus" / "gguf"
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files().items():
        (folder / name).write_bytes(content)
        print(f"{len(content):6} {name}")


if __name__ == "__main__":
    main()
