#!/usr/bin/env python3
"""Writes the seed files of fuzz_tokenizer_json, fuzz_tekken and fuzz_sentencepiece: small valid files, and one for each kind
of damage, so that the fuzzer begins behind the first checks.

Needs nothing but Python; the output is committed and the same on every run.
"""
# SPDX-License-Identifier: Apache-2.0
import base64
import json
import pathlib
import struct

HERE = pathlib.Path(__file__).parent / "corpus"
MARK = "▁"


def save(target, name, data):
    folder = HERE / target
    folder.mkdir(parents=True, exist_ok=True)
    if not isinstance(data, (bytes, str)):
        data = json.dumps(data, ensure_ascii=False)
    (folder / name).write_bytes(data.encode() if isinstance(data, str) else data)


# ---- tokenizer.json

LEVEL = {"type": "ByteLevel", "add_prefix_space": True, "use_regex": True}


def bpe(pre=LEVEL, **more):
    return {"pre_tokenizer": pre, "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "Ġ": 3}, "merges": ["a b"], **more}}


def added(content, id, **rules):
    return {"id": id, "content": content, **rules}


def split(pattern, behavior="Isolated", kind="Regex"):
    return {"type": "Split", "pattern": {kind: pattern}, "behavior": behavior, "invert": False}


def tokenizer_jsons():
    chars = {t: i for i, t in enumerate(["<unk>", "<s>", MARK, "a", "b", "ab", MARK + "a"] + [f"<0x{b:02X}>" for b in range(256)])}
    yield "bpe", bpe()
    yield "bpe_added", {**bpe(), "added_tokens": [added("<s>", 4, special=True, lstrip=True), added("Hello", 5, single_word=True),
                                                  added("é", 6, normalized=True, rstrip=True)]}
    yield "llama", {"normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": MARK},
                    {"type": "Replace", "pattern": {"String": " "}, "content": MARK}]}, "added_tokens": [added("<unk>", 0), added("<s>", 1, special=True)],
                    "model": {"type": "BPE", "vocab": chars, "merges": [["a", "b"], [MARK, "a"]], "unk_token": "<unk>", "byte_fallback": True, "fuse_unk": True},
                    "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}}
    yield "unigram", {"normalizer": {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(struct.pack("<II", 4, 0) + b"x\0").decode()},
                      "pre_tokenizer": {"type": "Metaspace", "prepend_scheme": "first"},
                      "model": {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], [MARK, -2.0], ["a", -3.5], ["lo", -1e30]]}}
    yield "bert", {"normalizer": {"type": "BertNormalizer", "lowercase": True}, "pre_tokenizer": {"type": "BertPreTokenizer"},
                   "model": {"type": "WordPiece", "unk_token": "[UNK]", "vocab": {"[UNK]": 0, "hello": 1, "##l": 2, "w": 3}}}
    for behavior in ("Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous"):
        yield f"split_{behavior}", bpe({"type": "Sequence", "pretokenizers": [split(r"\s|(?=[A-Z])|\d+", behavior), {"type": "Punctuation"}, LEVEL]})
    yield "normalizers", {"normalizer": {"type": "Sequence", "normalizers": [{"type": t} for t in ("NFD", "NFKC", "NFKD", "NFC", "Lowercase", "StripAccents")]
                                         + [{"type": "Strip", "strip_left": True, "strip_right": True}]}, **bpe()}
    yield "replace_grows", {"normalizer": {"type": "Sequence", "normalizers": [{"type": "Replace", "pattern": {"Regex": "."}, "content": "xxxxxxxxxxxxxxxx"}] * 8}, **bpe()}
    yield "pattern_explodes", bpe(split(r"(\w+\s?)*$"))
    yield "pattern_nested", bpe(split("(" * 300 + ")" * 300))
    yield "pattern_repeats", bpe(split("((a{1000}){1000}){1000}"))
    yield "pattern_class", bpe(split("[a[b]]"))
    yield "pattern_property", bpe(split(r"\p{Script=Han}"))
    yield "pattern_cut", bpe(split("\\"))
    yield "sequence_deep", {"normalizer": __import__("functools").reduce(lambda inner, _: {"type": "Sequence", "normalizers": [inner]}, range(40), {"type": "NFC"}), **bpe()}
    yield "sequence_long", {"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}] * 100}, **bpe()}
    yield "merge_unknown", bpe(merges=["a z"])
    yield "merge_spaces", bpe(merges=["a b c"])
    yield "merge_numbers", bpe(merges=[[1, 2]])
    yield "ids_twice", bpe(vocab={"a": 0, "b": 0})
    yield "ids_huge", bpe(vocab={"a": 9007199254740993})
    yield "ids_holes", bpe(vocab={"a": 70000})
    yield "ids_negative", bpe(vocab={"a": -1})
    yield "token_long", bpe(vocab={"a" * 5000: 0}, merges=[])
    yield "token_nul", bpe(vocab={"a": 0}, merges=[], unk_token="\0")
    yield "added_hole", {**bpe(), "added_tokens": [added("x", 99)]}
    yield "added_other", {**bpe(), "added_tokens": [added("x", 0)]}
    yield "added_empty", {**bpe(), "added_tokens": [added("", 4), {}, 5]}
    yield "template", {**bpe(), "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "a"}}, {"Sequence": {"id": "A"}}],
                                                   "special_tokens": {"a": {"ids": [0]}}}}
    yield "template_twice", {**bpe(), "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "a"}}] * 2,
                                                         "special_tokens": {"a": {"ids": [-1]}}}}
    yield "keys_twice", '{"model":{"type":"BPE"},"model":{"type":"BPE"}}'
    yield "deep", '{"model":' + "[" * 10000 + "]" * 10000 + "}"
    yield "cut", json.dumps(bpe())[:60]
    yield "charsmap_lies", {"normalizer": {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(b"\xff\xff\xff\x7f" * 3).decode()}, **bpe()}


# ---- tekken.json

def tekken(vocab=None, **config):
    ranks = [{"rank": b, "token_bytes": base64.b64encode(bytes([b])).decode()} for b in range(256)]
    ranks += [{"rank": 256 + i, "token_bytes": base64.b64encode(t).decode()} for i, t in enumerate((b"lo", b"el", b" w", b"llo", b"rld"))]
    return {"config": {"pattern": r" ?\p{L}+|\s+|.", "default_vocab_size": 4 + 261, "default_num_special_tokens": 4, "version": "v3", **config},
            "vocab": ranks if vocab is None else vocab}


def tekkens():
    yield "small", tekken()
    yield "named", {**tekken(), "special_tokens": [{"rank": 0, "token_str": "<unk>"}, {"rank": 1, "token_str": "<s>"}]}
    yield "named_twice", {**tekken(), "special_tokens": [{"rank": 0, "token_str": "<unk>"}] * 2}
    yield "named_beyond", {**tekken(), "special_tokens": [{"rank": 4, "token_str": "x"}, {"rank": -1}, 7]}
    yield "fewer", tekken(default_vocab_size=100)
    yield "more", tekken(default_vocab_size=10 ** 6)
    yield "huge", tekken(default_vocab_size=2 ** 63 - 1, default_num_special_tokens=2 ** 32)
    yield "special_only", tekken(default_vocab_size=4)
    yield "anchor", tekken(pattern="a$")
    yield "pattern", tekken(pattern="(")
    yield "base64", tekken([{"rank": 0, "token_bytes": "A"}], default_vocab_size=5)
    yield "base64_cut", tekken([{"rank": 0, "token_bytes": "AAA"}], default_vocab_size=5)
    yield "base64_empty", tekken([{"rank": 0, "token_bytes": ""}], default_vocab_size=5)
    yield "ranks_twice", tekken([{"rank": 0, "token_bytes": "AA=="}] * 2, default_vocab_size=6)
    yield "token_long", tekken([{"rank": 0, "token_bytes": base64.b64encode(b"a" * 300).decode()}], default_vocab_size=5)
    yield "types", {"config": [], "vocab": {}}


# ---- tokenizer.model

def varint(n):
    n &= (1 << 64) - 1
    out = b""
    while n > 127:
        out, n = out + bytes([n & 127 | 128]), n >> 7
    return out + bytes([n])


def field(number, value):
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def piece(text, score, kind):
    return field(1, field(1, text.encode()) + field(2, score) + field(3, kind))


def sentencepiece(kind=2, trainer=b"", normalizer=b"", more=b""):
    out = piece("<unk>", 0.0, 2) + piece("<s>", 0.0, 3) + piece("</s>", 0.0, 3)
    out += b"".join(piece(f"<0x{b:02X}>", 0.0, 6) for b in range(256))
    out += b"".join(piece(t, -float(i), 1) for i, t in enumerate((MARK, "l", "o", "lo", MARK + "w", "H")))
    return out + more + field(2, field(3, kind) + trainer) + field(3, field(1, b"identity") + normalizer)


def models():
    yield "bpe", sentencepiece()
    yield "unigram", sentencepiece(1)
    yield "word", sentencepiece(3)
    yield "user_defined", sentencepiece(more=piece("Hello", 0.0, 4))
    yield "unused", sentencepiece(more=piece("x", 0.0, 5))
    yield "type_beyond", sentencepiece(more=piece("x", 0.0, 1 << 40))
    yield "no_number", sentencepiece(more=piece("x", float("nan"), 1))
    yield "empty_piece", sentencepiece(more=piece("", 0.0, 1))
    yield "bad_byte", sentencepiece(more=piece("byte", 0.0, 6))
    yield "same_piece", sentencepiece(more=piece("lo", -1.0, 1) * 3)
    yield "suffix", sentencepiece(trainer=field(24, 1))
    yield "ids_negative", sentencepiece(trainer=field(40, -1) + field(41, -1) + field(42, 1 << 40))
    yield "spaces", sentencepiece(normalizer=field(3, 0) + field(4, 0))
    yield "no_escape", sentencepiece(normalizer=field(5, 0))
    yield "charsmap", sentencepiece(1, normalizer=field(2, struct.pack("<II", 4, 0) + b"x\0"))
    yield "charsmap_lies", sentencepiece(1, normalizer=field(2, b"\xff\xff\xff\x7f"))
    yield "cut", sentencepiece()[:900]
    yield "long_field", b"\n" + varint(1 << 62) + b"x"
    yield "long_varint", b"\n" + b"\xff" * 12
    yield "field_zero", b"\n\x00\x00\x00"
    yield "group", b"\n\x03\n\x01a\x0b\x0c"
    yield "ranks", b"".join(base64.b64encode(bytes([b])) + b" %d\n" % b for b in range(256))
    yield "ranks_none", b"AA==\n"


for target, seeds in (("tokenizer_json", tokenizer_jsons()), ("tekken", tekkens()), ("sentencepiece", models())):
    for name, data in seeds:
        save(target, name, data)
