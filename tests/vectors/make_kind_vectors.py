"""Writes token_kinds.jsonl: small vocabularies of the kinds llama, t5 and bert, and their reference's ids.

    make_kind_vectors.py                 trains the vocabularies with the `tokenizers` library and writes the file, here
    make_kind_vectors.py --gemma MODEL   writes gemma3_tokenizer.jsonl: llama.cpp's ids with Gemma 3's vocabulary
    make_kind_vectors.py --categories TOKENIZE MODEL.gguf TOKENIZER.json    the ranges of engine/text/older_unicode.h

Needs: pip install tokenizers==0.22.2 gguf xllamacpp.

One object a line: {"tokenizer": {...}} opens a vocabulary (the members are those of tok_source), then its rows follow:
    {"text": T, "ids": [...]}      "special": true where special tokens are recognised and the tokenizer's own are added
    {"repeat": U, "count": N, "id_count": M, "digest": D}    U repeated N times; FNV-1a of the ids as little-endian i32
    {"sweep": [first, last], "digest": D}                    ids of sweep_text() of every code point, one text each

llama, t5 and bert come from `tokenizers`; t5 with a charsmap from llama.cpp, because the library replaces whole graphemes
where SentencePiece replaces the longest key.
"""
# SPDX-License-Identifier: Apache-2.0
import json
import os
import struct
import subprocess
import sys
import tempfile
import unicodedata
import urllib.request

from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from tokenizer_texts import CODE, REPEATS, SENTENCES, texts

HERE = os.path.dirname(os.path.abspath(__file__))
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6
SPECIALS = {"llama": ["<unk>", "<s>", "</s>"], "t5": ["<unk>", "<s>", "</s>"], "bert": ["[UNK]", "[CLS]", "[SEP]"]}


def fnv(data, state=0xCBF29CE484222325):
    for byte in data:
        state = (state ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return state


def f32(value):
    return struct.unpack("<f", struct.pack("<f", value))[0]


def corpus():
    return SENTENCES + CODE + list(texts(300, seed=3))


def add_specials(tokenizer, kind):
    unk, bos, eos = SPECIALS[kind]
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in (unk, bos, eos)])
    ids = [(t, tokenizer.token_to_id(t)) for t in (bos, eos)]
    tokenizer.post_processor = processors.TemplateProcessing(f"{bos} $A {eos}", special_tokens=ids)
    return tokenizer


def llama_source():
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    trained.pre_tokenizer = pre_tokenizers.Split(Regex("(?<=[^▁])(?=▁)"), "isolated")
    trained.train_from_iterator(corpus(), trainers.BpeTrainer(vocab_size=1100, show_progress=False, limit_alphabet=300))
    pieces = [t for t, _ in sorted(trained.get_vocab().items(), key=lambda pair: pair[1])]
    merged = [t for t in pieces if len(t) > 1]
    single = [t for t in pieces if len(t) == 1]
    tokens = SPECIALS["llama"] + [f"<0x{b:02X}>" for b in range(256)] + merged + single
    scores = [0.0] * 259 + [-float(i) for i in range(len(merged) + len(single))]
    types = [UNKNOWN, CONTROL, CONTROL] + [BYTE] * 256 + [NORMAL] * (len(merged) + len(single))
    return {"kind": "llama", "tokens": tokens, "types": types, "scores": scores, "unknown": 0, "bos": 1, "eos": 2,
            "add_space_prefix": True}


def llama_reference(source):
    ids = {t: i for i, t in enumerate(source["tokens"])}
    text = {t for t, k in zip(source["tokens"], source["types"]) if k == NORMAL}
    splits = [(source["scores"][ids[t]], t[:i], t[i:]) for t in source["tokens"] if t in text
              for i in range(1, len(t)) if t[:i] in text and t[i:] in text]
    splits.sort(key=lambda row: -row[0])
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=[(a, b) for _, a, b in splits], unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return tokenizer


def t5_source():
    trained = Tokenizer(models.Unigram())
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    trained.train_from_iterator(corpus(), trainers.UnigramTrainer(vocab_size=1200, show_progress=False, unk_token="<unk>", special_tokens=SPECIALS["t5"]))
    vocab = [(t, f32(s)) for t, s in json.loads(trained.to_str())["model"]["vocab"]]
    return {"kind": "t5", "tokens": [t for t, _ in vocab], "types": [UNKNOWN, CONTROL, CONTROL] + [NORMAL] * (len(vocab) - 3),
            "scores": [s for _, s in vocab], "unknown": 0, "bos": 1, "eos": 2, "add_space_prefix": True, "collapse_spaces": True}


def t5_reference(source):
    tokenizer = Tokenizer(models.Unigram(list(zip(source["tokens"], source["scores"])), unk_id=0, byte_fallback=False))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Replace(Regex(r"\A +| +\z"), ""), normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    return tokenizer


def bert_source(uncased):
    trained = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    trained.normalizer = normalizers.BertNormalizer(lowercase=uncased)
    trained.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trained.train_from_iterator(corpus(), trainers.WordPieceTrainer(vocab_size=900, show_progress=False, special_tokens=SPECIALS["bert"], limit_alphabet=250))
    pieces = [t for t, _ in sorted(trained.get_vocab().items(), key=lambda pair: pair[1])]
    shown = [t if t in SPECIALS["bert"] else t[2:] if t.startswith("##") else "▁" + t for t in pieces]
    source = {"kind": "bert", "tokens": shown, "types": [CONTROL] * 3 + [NORMAL] * (len(pieces) - 3), "unknown": 0, "bos": 1, "eos": 2, "uncased": uncased}
    tokenizer = Tokenizer(models.WordPiece({t: i for i, t in enumerate(pieces)}, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer, tokenizer.pre_tokenizer = trained.normalizer, trained.pre_tokenizer
    return source, tokenizer


def sweep_text(point):
    c = chr(point)
    return f"a{c}b {c} x{c}"


SWEEPS = [(0, 0x33FFF), (0xE0000, 0xE01FF), (0x10FF00, 0x10FFFF)]  # the rest is unassigned or private use


def digest_of(lists):
    state = fnv(b"")
    for ids in lists:
        state = fnv(struct.pack(f"<{len(ids)}i", *ids), state)
    return f"{state:016x}"


def rows_of(source, tokenizer, count, sweeps, repeats):
    plain = lambda text: tokenizer.encode(text, add_special_tokens=False).ids
    all_texts = ["", " ", "   ", "▁", " ▁ a", "a\u2581b"][:3 if source["kind"] == "t5" else 6] + list(texts(count, seed=21))
    plain_ids = [plain(text) for text in all_texts]
    repeat_ids = [plain(unit * n) for unit, n in repeats]
    sweep_ids = [[plain(sweep_text(p)) for p in range(first, last + 1) if not 0xD800 <= p <= 0xDFFF] for first, last in sweeps]
    add_specials(tokenizer, source["kind"])
    yield {"tokenizer": source}
    for text, ids in zip(all_texts, plain_ids):
        yield {"text": text, "ids": ids}
    for text in all_texts[:60] + [f"{s}{t} {s} x{s}" for t in SENTENCES[:8] for s in SPECIALS[source["kind"]]]:
        yield {"text": text, "special": True, "ids": tokenizer.encode(text).ids}
    for (unit, n), ids in zip(repeats, repeat_ids):
        yield {"repeat": unit, "count": n, "id_count": len(ids), "digest": digest_of([ids])}
    for (first, last), lists in zip(sweeps, sweep_ids):
        yield {"sweep": [first, last], "digest": digest_of(lists)}


def build_trie(keys):
    """A Darts-clone double array over byte strings: {key: value} -> units."""
    units, used = [0] * 256, {0}

    def place(index, items, depth):
        edges = {}
        for key, value in items:
            edges.setdefault(key[depth] if depth < len(key) else 0, []).append((key, value))
        offset = next(o for o in range(1, 1 << 20) if all((index ^ o ^ c) not in used for c in edges))
        units.extend([0] * (max(index ^ offset ^ c for c in edges) + 256 - len(units)))
        units[index] |= offset << 10 | (1 << 8 if 0 in edges else 0)
        children = {c: index ^ offset ^ c for c in edges}
        used.update(children.values())
        for c, child in children.items():
            if c == 0:
                units[child] = 1 << 31 | edges[c][0][1]
            else:
                units[child] = c
                place(child, edges[c], depth + 1)
    place(0, sorted(keys.items()), 0)
    return units


def small_charsmap():
    """What NFKC says of the texts' characters, tabs and line ends as spaces, a two-character key and one to nothing."""
    changes = {c: unicodedata.normalize("NFKC", c) for text in corpus() for c in text if unicodedata.normalize("NFKC", c) != c}
    changes |= {"\t": " ", "\n": " ", "\r": " ", "\u200b": "", "e\u0301": "é", "\u00ad": ""}
    blob, keys = b"", {}
    for key, value in sorted(changes.items()):
        keys[key.encode()] = len(blob)
        blob += value.encode() + b"\0"
    units = build_trie(keys)
    return struct.pack(f"<I{len(units)}I", 4 * len(units), *units) + blob


def write_gguf(path, source):
    """A llama of zeros around the tokenizer, for llama.cpp."""
    import gguf
    import numpy as np
    w = gguf.GGUFWriter(path, "llama")
    w.add_context_length(256), w.add_embedding_length(32), w.add_block_count(1), w.add_feed_forward_length(32)
    w.add_head_count(2), w.add_head_count_kv(2), w.add_layer_norm_rms_eps(1e-5), w.add_rope_dimension_count(16)
    w.add_vocab_size(len(source["tokens"])), w.add_tokenizer_model(source["kind"]), w.add_tokenizer_pre("default")
    w.add_token_list(source["tokens"]), w.add_token_types(source["types"]), w.add_token_scores(source["scores"])
    w.add_unk_token_id(source["unknown"]), w.add_bos_token_id(source["bos"]), w.add_eos_token_id(source["eos"])
    w.add_add_space_prefix(True), w.add_remove_extra_whitespaces(True), w.add_precompiled_charsmap(bytes.fromhex(source["charsmap"]))
    zeros = lambda *shape: np.zeros(shape, np.float32)
    w.add_tensor("token_embd.weight", zeros(len(source["tokens"]), 32)), w.add_tensor("output_norm.weight", zeros(32))
    for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
        w.add_tensor(f"blk.0.{name}.weight", zeros(32, 32))
    w.add_tensor("blk.0.attn_norm.weight", zeros(32)), w.add_tensor("blk.0.ffn_norm.weight", zeros(32))
    w.write_header_to_file(), w.write_kv_data_to_file(), w.write_tensors_to_file(), w.close()


def llama_cpp(path):
    import xllamacpp
    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.port = path, 256, 18934
    server = xllamacpp.Server(params)

    def encode(text, special):
        body = json.dumps({"content": text, "add_special": special, "parse_special": special}).encode()
        request = urllib.request.Request(server.listening_address + "/tokenize", body, {"Content-Type": "application/json"})
        return json.load(urllib.request.urlopen(request))["tokens"]
    encode.server = server
    return encode


def charsmap_rows(source):
    source = source | {"charsmap": small_charsmap().hex()}
    yield {"tokenizer": source}
    with tempfile.TemporaryDirectory() as folder:
        write_gguf(os.path.join(folder, "t5.gguf"), source)
        encode = llama_cpp(os.path.join(folder, "t5.gguf"))
        for text in texts(350, seed=22):
            if "\0" not in text:  # its trie ends at one
                yield {"text": text, "ids": encode(text, False)}


def gemma_rows(path):
    encode = llama_cpp(path)
    for text in texts(700, seed=23):
        yield {"text": text, "ids": encode(text, False)}
    for text in [f"<start_of_turn>user\n{t}<end_of_turn>\n<start_of_turn>model\n" for t in SENTENCES + CODE]:
        yield {"text": text, "special": True, "ids": encode(text, True)}


def write(name, rows):
    with open(os.path.join(HERE, name), "w", encoding="utf-8") as out:
        for row in rows:
            out.write(json.dumps(row, ensure_ascii=False, separators=(",", ":")).replace("\x7f", "\\u007f") + "\n")


REPEATED = [r for r in REPEATS if r[0] in ("a", " ", "漢字仮名交じり文", "e\u0301", " x", "the quick brown fox ", "-=")]


def kind_rows():
    llama, t5 = llama_source(), t5_source()
    yield from rows_of(llama, llama_reference(llama), 350, [], REPEATED)
    yield from rows_of(t5, t5_reference(t5), 350, [], REPEATED)
    yield from rows_of(*bert_source(True), 300, SWEEPS, [r for r in REPEATED if r[0] != " "])
    yield from rows_of(*bert_source(False), 200, SWEEPS, [])
    yield from charsmap_rows(t5)


def print_categories(tokenize, model, reference):
    """Code points that the reference takes otherwise than TOKENIZE MODEL, which reads {"text": T} and prints ids, line by line."""
    tokenizer = Tokenizer.from_file(reference)
    tokenizer.no_truncation(), tokenizer.no_padding()
    points = [p for first, last in SWEEPS for p in range(first, last + 1) if not 0xD800 <= p <= 0xDFFF]
    lines = "".join(json.dumps({"text": sweep_text(p)}) + "\n" for p in points)
    answer = subprocess.run([tokenize, model], input=lines.encode(), capture_output=True, check=True).stdout.decode().splitlines()
    print(*[f"{p:X}" for p, ids in zip(points, answer) if json.loads(ids) != tokenizer.encode(sweep_text(p), add_special_tokens=False).ids])


if __name__ == "__main__":
    if "--categories" in sys.argv:
        print_categories(*sys.argv[2:5])
    elif "--gemma" in sys.argv:
        write("gemma3_tokenizer.jsonl", gemma_rows(sys.argv[2]))
    else:
        write("token_kinds.jsonl", kind_rows())
    sys.stdout.flush()
    os._exit(0)  # llama.cpp's server has no other end
