#!/usr/bin/env python3
"""Writes tests/fuzz/corpus/flag_file: config files of `serve --config`, whole and spoiled."""
# SPDX-License-Identifier: Apache-2.0
import pathlib

OUT = pathlib.Path(__file__).parent / "corpus" / "flag_file"

BOMB = b"a: &a [x, x]\n" + b"".join(
    b"%c: &%c [*%c, *%c, *%c, *%c]\n" % (n + 1, n + 1, n, n, n, n) for n in range(97, 105))


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    files = {
        "valid": b"# one option a line\nmodel: /models/m.gguf\nmax-seqs: 64\nkv-memory: 512M\n"
                 b"insecure: true\nname: \"two words\"\ndevice: cpu:avx2\nhttp: off\n",
        "valid_flow": b"{model: m, max-seqs: 4, kv-dtype: f32, quantize: q4_k}\n",
        "valid_folded": b"--- !!map\nmodel: >-\n  a\n  b\nname: |+\n  n\n\n...\n",
        "valid_escapes": b"model: \"\\x41\\u00e9\\L\\P\\U0001F600\"\nname: 'it''s'\n",
        "escaped_nul": b"model: \"m\\0x\"\n\"name\\x00y\": n\n",
        "twice": b"model: m\nmodel: n\nmax-seqs: 1\nmax-seqs: 2\nmodel: o\n",
        "twice_then_bad": b"model: m\nmodel: n\nmodel: [\n",
        "good_then_bad": b"model: m\nname: n\nkv-memory: 4G\nno-such: 1\n",
        "nested": b"model: {a: {b: {c: [d, {e: f}]}}}\n",
        "nested_block": b"model:\n" + b"".join(b" " * n + b"a:\n" for n in range(1, 40)),
        "key_list": b"? [model, m]\n: m\n",
        "key_none": b": m\n",
        "value_none": b"model:\nname: ~\nmax-seqs: null\n",
        "brackets": b"model: " + b"[" * 1500 + b"\n",
        "braces": b"{" * 1500,
        "dashes": b"- " * 700,
        "questions": b"? " * 700,
        "alias": b"name: &x m\nmodel: *x\n",
        "alias_self": b"model: &x [*x]\n",
        "alias_unknown": b"model: *x\n",
        "alias_bomb": BOMB,
        "anchors": b"model: &a m\nname: &a n\n",
        "merge": b"<<: {model: m}\n",
        "numbers_huge": b"model: m\nmax-seqs: 99999999999999999999999999\n",
        "number_exponent": b"model: m\nmax-seqs: 1e9\n",
        "number_negative": b"model: m\nmax-seqs: -1\n",
        "number_nan": b"model: m\nkv-memory: nan\n",
        "number_hex": b"model: m\nmax-seqs: 0x10\n",
        "bytes_huge": b"model: m\nkv-memory: 99999999999999999999T\n",
        "bytes_wrap": b"model: m\nkv-memory: 16777216T\n",
        "float_huge": b"model: m\nkv-memory: 1e999G\n",
        "switch_word": b"model: m\ninsecure: maybe\n",
        "later": b"model: m\ntp: 2\n",
        "sequence": b"- model\n- m\n",
        "scalar": b"model\n",
        "documents": b"model: m\n---\nmodel: n\n---\n- x\n",
        "directive": b"%YAML 9.9\n%TAG ! tag:x,2000:\n---\nmodel: !y m\n",
        "nul": b"model: m\0\nname: n\0\n",
        "utf16": "\ufeffmodel: m\n".encode("utf-16-le"),
        "utf8_bom": "\ufeffmodel: m\n".encode(),
        "utf8_cut": b"model: \xf0\x9f\x98",
        "utf8_bad": b"model: \xc0\x80\xed\xa0\x80\n",
        "junk": b"\xff\xfe\x00\x01model: m",
        "tab": b"model:\tm\n\tname: n\n",
        "open_quote": b"model: \"m\nname: n\n",
        "long_key": b"k" * 1400 + b": m\n",
        "long_value": b"model: " + b"v" * 1400 + b"\n",
        "long_number": b"model: m\nmax-seqs: " + b"9" * 1400 + b"\n",
        "many_keys": b"model: m\n" + b"".join(b"name: %d\n" % n for n in range(150)),
        "comments": b"#" * 1500 + b"\nmodel: m # m\n",
        "empty": b"",
        "lines": b"\n" * 500,
    }
    for name, data in files.items():
        (OUT / name).write_bytes(data)


if __name__ == "__main__":
    main()
