"""Writes hf_tokenizers.jsonl: small tokenizer.json files, one a rule, and what the `tokenizers` library makes of texts.

    make_hf_tokenizer_vectors.py            trains small models and writes the file, here
    make_hf_tokenizer_vectors.py --rules    the same, but keeps the file's sweeps, which take minutes

Needs: pip install tokenizers==0.22.2.

One object a line:
    {"model": NAME, "json": {...}}       a model that the rows below name
    {"texts": [...]}                     the texts of all rows
    {"rule": R, "model": NAME, "tokenizer": {...}, "ids": [[...], ...]}    ids of each text, special tokens recognised and the
                                         post-processor's added
    {"rule": R, "model": NAME, "tokenizer": {...}, "sweep": [first, last], "digest": D}    FNV-1a of the ids of sweep_text() of every
                                         code point as little-endian i32
"""
# SPDX-License-Identifier: Apache-2.0
import base64
import json
import os
import struct
import sys

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from make_kind_vectors import build_trie
from tokenizer_texts import CODE, SENTENCES, texts

HERE = os.path.dirname(os.path.abspath(__file__))
BYTES = [f"<0x{b:02X}>" for b in range(256)]
MARK = "▁"
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def fnv(data, state=0xCBF29CE484222325):
    for byte in data:
        state = (state ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return state


def model_of(tokenizer):
    return json.loads(tokenizer.to_str())["model"]


def trained(model, pre, trainer, corpus):
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre
    tokenizer.train_from_iterator(corpus, trainer)
    return model_of(tokenizer)


def char_model(marks, **options):
    """BPE of characters; marks: spaces are U+2581."""
    corpus = [t.replace(" ", MARK) if marks else t for t in SENTENCES + CODE]
    model = trained(models.BPE(), pre_tokenizers.Split(MARK if marks else " ", "merged_with_next"),
                    trainers.BpeTrainer(vocab_size=420, limit_alphabet=110, show_progress=False), corpus)
    shift = 3 + 256
    model["vocab"] = {**{t: i for i, t in enumerate(["<unk>", "<s>", "</s>"] + BYTES)},
                      **{t: i + shift for t, i in model["vocab"].items()}}
    model.update({"unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True, **options})
    return model


def byte_model():
    return trained(models.BPE(), pre_tokenizers.ByteLevel(add_prefix_space=False),
                   trainers.BpeTrainer(vocab_size=460, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False),
                   SENTENCES + CODE)


def unigram_model(fallback):
    model = trained(models.Unigram(), pre_tokenizers.Metaspace(),
                    trainers.UnigramTrainer(vocab_size=330, unk_token="<unk>", special_tokens=["<unk>", "<s>", "</s>"], show_progress=False),
                    SENTENCES[:8] + CODE)
    if fallback:
        model["vocab"] += [[b, -9.5] for b in BYTES]
        model["byte_fallback"] = True
    return model


def word_model():
    return trained(models.WordPiece(unk_token="[UNK]"), pre_tokenizers.BertPreTokenizer(),
                   trainers.WordPieceTrainer(vocab_size=400, special_tokens=["[UNK]", "[CLS]", "[SEP]"], limit_alphabet=120, show_progress=False),
                   [t.lower() for t in SENTENCES + CODE])


def charsmap():
    keys = {"Ａ": "A", "ｂ": "b", "½": "1/2", "\u3000": " ", "\t": " ", "\n": " ", "e\u0301": "é", "ﬁ": "fi", "①": "1", "\u200b": "",
            "が": "が", "👍": "+"}
    pool, values = b"", {}
    for key, text in keys.items():
        values[key.encode()] = len(pool)
        pool += text.encode() + b"\0"
    units = build_trie(values)
    return base64.b64encode(struct.pack("<I", 4 * len(units)) + struct.pack(f"<{len(units)}I", *units) + pool).decode()


def added(content, id, special=True, **rules):
    return {"id": id, "content": content, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
            "special": special, **rules}


def sequence(kind, *members):
    return {"type": "Sequence", {"normalizer": "normalizers", "pre": "pretokenizers", "decoder": "decoders", "post": "processors"}[kind]: list(members)}


def split(pattern, behavior, invert=False, literal=False):
    return {"type": "Split", "pattern": {"String" if literal else "Regex": pattern}, "behavior": behavior, "invert": invert}


BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
BYTE_REGEX = {**BYTE_LEVEL, "use_regex": True}
LLAMA = sequence("normalizer", {"type": "Prepend", "prepend": MARK}, {"type": "Replace", "pattern": {"String": " "}, "content": MARK})
SPM_DECODER = sequence("decoder", {"type": "Replace", "pattern": {"String": MARK}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
                       {"type": "Strip", "content": " ", "start": 1, "stop": 0})
SPECIALS = [added("<unk>", 0), added("<s>", 1), added("</s>", 2)]
WORD_SPECIALS = [added("[UNK]", 0), added("[CLS]", 1), added("[SEP]", 2)]


def template(*ids):
    first, last = ids
    special = lambda x: [{"SpecialToken": {"id": x[0], "type_id": 0}}] if x else []
    single = special(first) + [{"Sequence": {"id": "A", "type_id": 0}}] + special(last)
    return {"type": "TemplateProcessing", "single": single, "pair": single + [{"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {t: {"id": t, "ids": [i], "tokens": [t]} for t, i in (x for x in ids if x)}}


def metaspace(scheme, cut=True):
    return {"type": "Metaspace", "replacement": MARK, "prepend_scheme": scheme, "split": cut}


def rules(by_name):
    """(rule, model, the rest of the file)"""
    byte = lambda *stages: {"pre_tokenizer": sequence("pre", *stages, BYTE_LEVEL), "decoder": BYTE_LEVEL}
    for behavior in ("Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous"):
        for invert in (False, True):
            yield f"split-{behavior}{'-invert' if invert else ''}", "bytes", byte(split(r"[0-9!]|\s", behavior, invert))
        yield f"split-string-{behavior}", "bytes", byte(split(" ", behavior, literal=True))
        yield f"punctuation-{behavior}", "bytes", byte({"type": "Punctuation", "behavior": behavior})
    yield "split-empty-matches", "bytes", byte(split(r"(?<=[a-z])(?=[A-Z0-9])", "Isolated"))
    yield "split-lines", "bytes", byte(split(r"\s+$|^\s", "Isolated"))
    yield "split-words", "bytes", byte(split(r"\w+|\W", "Isolated"), {"type": "Digits", "individual_digits": False})
    yield "split-letters", "bytes", byte(split(r"\p{Lu}?[\p{Ll}\p{M}]+|\P{L}+", "Isolated"))
    yield "split-three-stages", "bytes", byte(split(r"\p{N}{1,3}", "Isolated"), split("[一-龥぀-ゟ゠-ヿ]+", "Isolated"), split(GPT2, "Removed", True))
    yield "byte-level", "bytes", {"pre_tokenizer": BYTE_REGEX, "decoder": BYTE_LEVEL}
    yield "byte-level-prefix", "bytes", {"pre_tokenizer": {**BYTE_REGEX, "add_prefix_space": True}, "decoder": BYTE_LEVEL}
    yield "digits-each", "bytes", {"pre_tokenizer": sequence("pre", {"type": "Digits", "individual_digits": True}, BYTE_REGEX), "decoder": BYTE_LEVEL}
    yield "digits-prefix", "bytes", {"pre_tokenizer": sequence("pre", {"type": "Digits", "individual_digits": True}, {**BYTE_REGEX, "add_prefix_space": True})}
    yield "delimiter", "bytes", byte({"type": "CharDelimiterSplit", "delimiter": "e"})
    yield "whitespace", "bytes", byte({"type": "Whitespace"})
    yield "whitespace-split", "bytes", byte({"type": "WhitespaceSplit"})
    yield "bert-pre-tokenizer", "bytes", byte({"type": "BertPreTokenizer"})
    yield "ignore-merges", "bytes-whole", byte(split(GPT2, "Isolated"))
    for form in ("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents"):
        yield f"normalizer-{form}", "bytes", {"normalizer": {"type": form}, **byte(split(GPT2, "Isolated"))}
    yield "normalizer-several", "bytes", {"normalizer": sequence("normalizer", {"type": "NFD"}, {"type": "Lowercase"}, {"type": "StripAccents"},
                                                                 {"type": "Strip", "strip_left": True, "strip_right": False}), **byte()}
    yield "strip-right", "bytes", {"normalizer": {"type": "Strip", "strip_left": False, "strip_right": True}, **byte()}
    yield "replace-regex", "bytes", {"normalizer": {"type": "Replace", "pattern": {"Regex": r"\s{2,}|[aeiou]"}, "content": "<>"}, **byte()}
    yield "llama-2", "chars", {"normalizer": LLAMA, "decoder": SPM_DECODER, "added_tokens": SPECIALS, "post_processor": template(("<s>", 1), None)}
    yield "gemma", "chars", {"normalizer": LLAMA["normalizers"][1], "pre_tokenizer": split(" ", "MergedWithPrevious", literal=True), "added_tokens": SPECIALS
                             + [added("\n\n", by_name["chars"]["vocab"]["\n\n"], special=False), added(MARK * 2, 901, special=False), added("<end_of_turn>", 902)],
                             "decoder": SPM_DECODER, "post_processor": template(("<s>", 1), ("</s>", 2))}
    for scheme in ("first", "always", "never"):
        yield f"metaspace-{scheme}", "chars", {"pre_tokenizer": metaspace(scheme), "added_tokens": SPECIALS, "decoder": {**metaspace(scheme)}}
    yield "metaspace-whole", "chars", {"pre_tokenizer": metaspace("first", False), "added_tokens": SPECIALS}
    yield "unknown-fused", "chars-unknown", {"normalizer": LLAMA, "added_tokens": SPECIALS}
    yield "unknown-each", "chars-unknown-each", {"normalizer": LLAMA, "added_tokens": SPECIALS}
    yield "unknown-dropped", "chars-no-unknown", {"pre_tokenizer": {"type": "Whitespace"}}
    yield "plain-spaces", "chars-plain", {"pre_tokenizer": sequence("pre", {"type": "WhitespaceSplit"}, {"type": "Punctuation", "behavior": "Isolated"})}
    yield "unigram", "unigram", {"normalizer": sequence("normalizer", {"type": "Precompiled", "precompiled_charsmap": charsmap()},
                                                        {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}),
                                 "pre_tokenizer": sequence("pre", {"type": "WhitespaceSplit"}, metaspace("always")), "added_tokens": SPECIALS,
                                 "post_processor": {"type": "RobertaProcessing", "sep": ["</s>", 2], "cls": ["<s>", 1], "trim_offsets": True, "add_prefix_space": False}}
    yield "unigram-bytes", "unigram-bytes", {"pre_tokenizer": metaspace("always"), "added_tokens": SPECIALS, "post_processor": template(None, ("</s>", 2))}
    bert = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True}
    yield "bert", "words", {"normalizer": bert, "pre_tokenizer": {"type": "BertPreTokenizer"}, "added_tokens": WORD_SPECIALS,
                            "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 2], "cls": ["[CLS]", 1]}}
    yield "bert-cased", "words", {"normalizer": {**bert, "lowercase": False}, "pre_tokenizer": {"type": "BertPreTokenizer"}, "added_tokens": WORD_SPECIALS}
    yield "word-piece-plain", "words", {"normalizer": {"type": "Lowercase"}, "pre_tokenizer": {"type": "Whitespace"}, "added_tokens": WORD_SPECIALS}
    marks = [added("<x>", 2000), added("<y>", 2001, lstrip=True), added("<z>", 2002, rstrip=True), added("<x><y>", 2003, lstrip=True, rstrip=True)]
    yield "added-strips", "bytes", {"added_tokens": marks, **byte(split(GPT2, "Isolated"))}
    words = [added("lamp", 2000, special=False, single_word=True), added("an", 2001, special=False, single_word=True), added("the", 2002, special=False),
             added("<x>", 2003, single_word=True)]
    yield "added-words", "bytes", {"added_tokens": words, **byte(split(GPT2, "Isolated"))}
    late = [added("éb", 2000, special=False, normalized=True), added("É é", 2001, special=False, normalized=True, lstrip=True), added("<x>", 2002),
            added("e\u0301<y>", 2003, special=False, normalized=True, rstrip=True)]
    yield "added-normalized", "bytes", {"added_tokens": late, "normalizer": {"type": "NFC"}, **byte(split(GPT2, "Isolated"))}
    yield "added-lowercase", "bytes", {"added_tokens": late, "normalizer": sequence("normalizer", {"type": "NFC"}, {"type": "Lowercase"}), **byte(split(GPT2, "Isolated"))}
    yield "added-no-normalizer", "bytes", {"added_tokens": [added("<x>", 2000, normalized=True), added("lamp", 2001, special=False, normalized=True)], **byte(split(GPT2, "Isolated"))}
    yield "processors", "bytes", {"added_tokens": marks, **byte(), "post_processor": sequence("post", BYTE_LEVEL, template(("<x>", 2000), ("<z>", 2002)))}


SWEEPS = [("NFC", {"type": "NFC"}), ("NFD", {"type": "NFD"}), ("NFKC", {"type": "NFKC"}), ("NFKD", {"type": "NFKD"}),
          ("Lowercase", {"type": "Lowercase"}), ("StripAccents", {"type": "StripAccents"})]
PATTERNS = [r"\w", r"\s", r"\d", r"\p{L}", r"\p{N}", r"\p{M}", r"\p{P}", r"\p{S}", r"\p{Lu}", r"\p{Ll}", r"\p{Lo}", r"\p{Lm}", r"\p{Nd}",
            r"\p{No}", r"\p{Po}", r"\p{So}", r"\p{Han}", r"\p{Hiragana}", r"\p{Katakana}", r"\p{Hangul}"]
RANGE = [0, 0x323FF]


def sweep_text(point):
    c = chr(point)
    return f"a{c} {c}1"


def sweep_rows(models_by_name):
    stages = [{"normalizer": n, "pre_tokenizer": BYTE_LEVEL} for _, n in SWEEPS]
    stages += [{"pre_tokenizer": sequence("pre", split(p, "Removed"), BYTE_LEVEL)} for p in PATTERNS]
    stages += [{"pre_tokenizer": sequence("pre", {"type": "Whitespace"}, BYTE_LEVEL)},
               {"pre_tokenizer": sequence("pre", {"type": "Digits", "individual_digits": True}, split("1", "Removed"), BYTE_LEVEL)},
               {"pre_tokenizer": sequence("pre", {"type": "Punctuation", "behavior": "Removed"}, BYTE_LEVEL)}]
    names = [f"sweep-{n}" for n, _ in SWEEPS] + [f"sweep-{p}" for p in PATTERNS] + ["sweep-whitespace", "sweep-digits", "sweep-punctuation"]
    for name, rest in zip(names, stages):
        tokenizer = build(models_by_name["bytes"], rest)
        state = fnv(b"")
        points = [p for p in range(RANGE[0], RANGE[1] + 1) if not 0xD800 <= p <= 0xDFFF]
        for encoding in tokenizer.encode_batch([sweep_text(p) for p in points], add_special_tokens=False):
            state = fnv(struct.pack(f"<{len(encoding.ids)}i", *encoding.ids), state)
        yield {"rule": name, "model": "bytes", "tokenizer": rest, "sweep": RANGE, "digest": f"{state:016x}"}


def number(model, rest):
    """Gives added tokens that the model does not have the ids that the library would give them."""
    rest = json.loads(json.dumps(rest))
    known = model["vocab"] if isinstance(model["vocab"], dict) else [t for t, _ in model["vocab"]]
    ids = {}
    for token in rest.get("added_tokens", []):
        if token["content"] not in known:
            token["id"] = ids[token["content"]] = len(known) + len(ids)
    for processor in rest.get("post_processor", {}).get("processors", [rest.get("post_processor", {})]):
        for name, special in processor.get("special_tokens", {}).items():
            special["ids"] = [ids.get(name, special["ids"][0])]
    return rest


def build(model, rest):
    whole = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None, "pre_tokenizer": None,
             "post_processor": None, "decoder": None, **rest, "model": model}
    return Tokenizer.from_str(json.dumps(whole))


def all_texts():
    marks = ["<x>", "<y>", "<z>", "<x><y>", "lamp", "the", "an", "<s>", "</s>", "<unk>", "[CLS]", "[SEP]", "é", "e\u0301<y>", "É é", "\n\n", "▁▁", "<end_of_turn>"]
    out = ["", " ", "  ", "a", " a", "a ", "▁", "a▁b", "fooBar9Baz", "x  \n y\n", "1234567 89", "Ａｂ ½ e\u0301ﬁ①\u200bが か\u3099", "lamps lamp alamp an-an _an the_the",
           "ÀÉÎ İI ǅ ΑΣ ß ẞ", "don't we're I'LL", "😀👍🏽 ok", "一二 三abc", "\u00a0\u2003x\u3000"]
    for m in marks:
        out += [f"a{m}b", f" {m}  {m}\n{m} c"]
    out += ["".join(marks), " ".join(marks)]
    return list(dict.fromkeys(out + SENTENCES[::6] + CODE[::6] + list(texts(320, seed=77))[-24:]))


def main():
    by_name = {"bytes": byte_model(), "chars": char_model(True), "chars-plain": char_model(False, byte_fallback=False),
               "unigram": unigram_model(False), "unigram-bytes": unigram_model(True), "words": word_model()}
    by_name["bytes-whole"] = {**by_name["bytes"], "ignore_merges": True, "merges": by_name["bytes"]["merges"][:120]}
    by_name["chars-unknown"] = char_model(True, byte_fallback=False)
    by_name["chars-unknown-each"] = char_model(True, byte_fallback=False, fuse_unk=False)
    by_name["chars-no-unknown"] = char_model(False, byte_fallback=False, unk_token=None)
    the_texts = all_texts()
    path = os.path.join(HERE, "hf_tokenizers.jsonl")
    kept = [json.loads(line) for line in open(path, encoding="utf-8")] if "--rules" in sys.argv else []
    with open(path, "w", encoding="utf-8") as out:
        put = lambda row: out.write(json.dumps(row, ensure_ascii=False, separators=(",", ":")).replace("\x7f", "\\u007f") + "\n")
        for name, model in by_name.items():
            put({"model": name, "json": model})
        put({"texts": the_texts})
        for rule, model, rest in rules(by_name):
            rest = number(by_name[model], rest)
            tokenizer = build(by_name[model], rest)
            put({"rule": rule, "model": model, "tokenizer": rest, "ids": [tokenizer.encode(t).ids for t in the_texts]})
        for row in [row for row in kept if "sweep" in row] or sweep_rows(by_name):
            put(row)


if __name__ == "__main__":
    main()
