"""Writes the tokenizer vectors from the `tokenizers` library (0.22.2), rebuilt from the model file.

    make_tokenizer_vectors.py MODEL.gguf              smollm2_tokenizer.jsonl and pretokenizer.jsonl, here
    make_tokenizer_vectors.py MODEL.gguf --xllamacpp  compares the vectors with llama.cpp instead of writing
    make_tokenizer_vectors.py --pre                   pretokenizer.jsonl alone, which needs no model
    make_tokenizer_vectors.py --unicode               the code points that engine/text/newer_unicode.h lists

Needs: pip install tokenizers==0.22.2 gguf (and xllamacpp).

smollm2_tokenizer.jsonl, one object a line:
    {"text": T, "ids": [...]}                   special-token text is plain text; add "special": true where it is recognised
    {"repeat": U, "count": N, "id_count": M, "digest": D}    U repeated N times; FNV-1a of the ids as little-endian i32
pretokenizer.jsonl:
    {"pre": ROW, "text": T, "bytes": [...]}     lengths of the pieces (of T in form NFC where the row has "nfc": T')
    {"pre": ROW, "sweep": [first, last], "digest": D}    FNV-1a of the pieces' lengths over every code point, see sweep_text

Compared with llama.cpp (xllamacpp 2026.10.11549): 2,425 encodings, 2 differ, both where a byte without a token stands
between two that have one ("\\x16" after "|>", the byte f1 of U+4BF26): the library drops the byte and may merge its
neighbours, llama.cpp drops it afterwards. We do as the library does.

SmolLM2 has no token for the bytes 04 06 13 14 16 1d c0 c1 f1 f2 f5..ff.
"""
# SPDX-License-Identifier: Apache-2.0
import json
import os
import struct
import sys
import unicodedata

from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

from tokenizer_texts import REPEATS, texts

HERE = os.path.dirname(os.path.abspath(__file__))
CL100K = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
WORD = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]%s[\p{Ll}\p{Lm}\p{Lo}\p{M}]%s"
CASED = f"{WORD % ('*', '+')}SUFFIX|{WORD % ('+', '*')}SUFFIX" + r"|\p{N}DIGITS| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
DEEPSEEK = [r"\p{N}{1,3}", "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
            r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""]
ROWS = ("smollm", "gpt-2", "llama-bpe", "qwen2", "tekken", "gpt-4o", "deepseek-v3")  # deepseek-r1-qwen cuts as qwen2 does
CONTROL, USER_DEFINED = 3, 4


def fnv(data, state=0xCBF29CE484222325):
    for byte in data:
        state = (state ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return state


def pre_tokenizer(name):
    level = lambda use: pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use)
    split = lambda *stages: pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(p), "isolated") for p in stages] + [level(False)])
    cased = lambda suffix, digits: split(CASED.replace("SUFFIX", suffix).replace("DIGITS", digits))
    return {"smollm": lambda: pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), level(True)]),
            "gpt-2": lambda: level(True),
            "llama-bpe": lambda: split(CL100K % "{1,3}"),
            "qwen2": lambda: split(CL100K % ""),
            "tekken": lambda: cased("", ""),
            "gpt-4o": lambda: cased("(?i:'s|'t|'re|'ve|'m|'ll|'d)?", "{1,3}"),
            "deepseek-v3": lambda: split(*DEEPSEEK)}[name]()


def read_gguf(path):
    from gguf import GGUFReader
    fields = GGUFReader(path).fields
    get = lambda key: fields["tokenizer.ggml." + key].contents()
    assert get("model") == "gpt2" and get("pre") == "smollm"
    return get("tokens"), get("token_type"), get("merges")


def build(path, special):
    tokens, types, merges = read_gguf(path)
    model = models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=[tuple(m.split(" ")) for m in merges])
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizer("smollm")
    if special:
        tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False)
                                      for t, k in zip(tokens, types) if k == CONTROL])
    return tokenizer


def write(name, rows):
    with open(os.path.join(HERE, name), "w", encoding="utf-8") as out:
        for row in rows:
            out.write(json.dumps(row, ensure_ascii=False, separators=(",", ":")).replace("\x7f", "\\u007f") + "\n")


def token_rows(path):
    plain, special = build(path, False), build(path, True)
    for text in texts(2000):
        ids = plain.encode(text, add_special_tokens=False).ids
        other = special.encode(text, add_special_tokens=False).ids
        yield {"text": text, "ids": ids}
        if other != ids:
            yield {"text": text, "special": True, "ids": other}
    for unit, count in REPEATS:
        for tokenizer in (plain, special):
            ids = tokenizer.encode(unit * count, add_special_tokens=False).ids
            digest = fnv(struct.pack(f"<{len(ids)}i", *ids))
            yield {"repeat": unit, "count": count, "special": tokenizer is special, "id_count": len(ids), "digest": f"{digest:016x}"}
            if "<" not in unit:
                break


def piece_bytes(pre, text):
    # ByteLevel turns every byte into one character, so a piece has as many characters as it had bytes.
    return [len(piece) for piece, _ in pre.pre_tokenize_str(text)]


def sweep_text(point):
    c = chr(point)
    return f"a{c}a1{c}1 {c}'{c}s! {c}"


def sweep_digest(pre, first, last):
    state = fnv(b"")
    for block in range(first, last + 1, 256):
        points = [p for p in range(block, min(block + 256, last + 1)) if not 0xD800 <= p <= 0xDFFF]
        lengths = piece_bytes(pre, "".join(map(sweep_text, points))) if points else []
        state = fnv(b"".join(struct.pack("<H", n) for n in lengths), state)
    return f"{state:016x}"


SWEEPS = [(0, 0x33FFF), (0xE0000, 0xE01FF), (0x10FF00, 0x10FFFF)]  # the rest is unassigned or private use


def pre_rows():
    for name in ROWS:
        pre = pre_tokenizer(name)
        for text in texts(500, seed=11):
            row = {"pre": name, "text": text}
            if name == "qwen2":
                form = normalizers.NFC().normalize_str(text)
                assert form == unicodedata.normalize("NFC", text) or any(ord(c) > 0x300 for c in text)
                if form != text:
                    row["nfc"] = form
                text = form
            yield row | {"bytes": piece_bytes(pre, text)}
        for first, last in SWEEPS:
            yield {"pre": name, "sweep": [first, last], "digest": sweep_digest(pre, first, last)}


def print_newer_unicode():
    points = [c for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF]
    everything = "".join(map(chr, points))

    def matched(pattern):
        left = pre_tokenizers.Split(Regex(pattern), "removed").pre_tokenize_str(everything)
        return set(points) - {points[i] for _, (a, b) in left for i in range(a, b)}
    digit = pre_tokenizers.Digits(individual_digits=True)
    digits = {c for c in points if len(digit.pre_tokenize_str(f"a{chr(c)}a")) == 3}
    assert unicodedata.unidata_version == "14.0.0", "needs a Python with Unicode 14 (3.11) to compare with"
    in_14 = lambda letter: {c for c in points if unicodedata.category(chr(c)).startswith(letter)}
    for name, more in (("letters", matched(r"\p{L}") - in_14("L")), ("numbers", matched(r"\p{N}") - in_14("N")),
                       ("small", matched(r"\p{Ll}") - in_14("Ll")), ("capital", matched(r"[\p{Lu}\p{Lt}]") - in_14("Lu") - in_14("Lt")),
                       ("caseless", matched(r"[\p{Lm}\p{Lo}]") - in_14("Lm") - in_14("Lo")),
                       ("marks", matched(r"\p{M}") - in_14("M")), ("signs", matched(r"[\p{P}\p{S}]") - in_14("P") - in_14("S")),
                       ("digits only", digits - matched(r"\p{N}"))):
        print(name, " ".join(f"{c:X}" for c in sorted(more)))


def compare_with_llama_cpp(path):
    import urllib.request
    import xllamacpp
    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.port = path, 256, 18933
    server = xllamacpp.Server(params)

    def encode(text, special):
        body = json.dumps({"content": text, "add_special": False, "parse_special": special}).encode()
        request = urllib.request.Request(server.listening_address + "/tokenize", body, {"Content-Type": "application/json"})
        return json.load(urllib.request.urlopen(request))["tokens"]
    rows = [json.loads(line) for line in open(os.path.join(HERE, "smollm2_tokenizer.jsonl"), encoding="utf-8")]
    rows = [row for row in rows if "text" in row]
    different = [row for row in rows if encode(row["text"], row.get("special", False)) != row["ids"]]
    print(f"{len(rows)} encodings, {len(different)} differ")
    for row in different:
        print(ascii(row["text"]), row["ids"], encode(row["text"], row.get("special", False)))


if __name__ == "__main__":
    if "--unicode" in sys.argv:
        print_newer_unicode()
    elif "--xllamacpp" in sys.argv:
        compare_with_llama_cpp(sys.argv[1])
    elif "--pre" in sys.argv:
        write("pretokenizer.jsonl", pre_rows())
    else:
        write("smollm2_tokenizer.jsonl", token_rows(sys.argv[1]))
        write("pretokenizer.jsonl", pre_rows())
