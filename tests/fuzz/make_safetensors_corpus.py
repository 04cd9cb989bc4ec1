#!/usr/bin/env python3
"""Writes the seed files of fuzz_safetensors and fuzz_shard_index into corpus/safetensors and
corpus/shard_index: small valid files, and one file for each kind of damage.

Needs nothing but Python; the output is committed and the same on every run.
"""
# SPDX-License-Identifier: Apache-2.0
import json
import pathlib
import struct

TYPES = {"F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


def raw(header, data=b"", length=None):
    if not isinstance(header, bytes):
        header = json.dumps(header, separators=(",", ":")).encode()
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def entry(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def every_type():
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, size in TYPES.items():
        header[name] = entry(name, [2, 3], end, end + 6 * size)
        end += 6 * size
    return raw(header, bytes(end))


def one(dtype="F32", shape=(2,), begin=0, end=8, data=8):
    return raw({"a": entry(dtype, list(shape), begin, end)}, bytes(range(data)))


def two(first, second, data):
    return raw({"a": entry("F32", [2], *first), "b": entry("F32", [2], *second)}, bytes(data))


SAFETENSORS = {
    "valid_one_tensor": one(),
    "valid_every_type": every_type(),
    "valid_scalar": one(shape=(), end=4, data=4),
    "valid_unaligned": raw({"a": entry("I8", [1], 0, 1), "b": entry("F32", [1], 1, 5)}, bytes(5)),
    "valid_empty": raw({}),
    "valid_out_of_order": two((8, 16), (0, 8), 16),
    "length_beyond_file": raw({}, length=3),
    "length_over_limit": raw({}, length=100000001),
    "length_wraps": raw({}, length=2**64 - 8),
    "cut_in_header": one()[:30],
    "cut_in_data": one()[:-1],
    "no_json": raw(b"{\"a\":"),
    "no_object": raw(b"[1]"),
    "not_utf8": raw(b"{\"\xff\":1}"),
    "nul_in_name": raw(b"{\"a\\u0000\":1}"),
    "duplicate_name": raw(b"{" + b",".join([b'"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}'] * 2) + b"}", b"x"),
    "duplicate_key": raw(b'{"a":{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}}', b"x"),
    "nested_10000": raw(b'{"a":' + b"[" * 10000 + b"]" * 10000 + b"}"),
    "nested_objects": raw(b'{"a":' * 10000 + b"1" + b"}" * 10000),
    "unknown_type": one(dtype="F64"),
    "shape_negative": one(shape=(-2,)),
    "shape_zero": one(shape=(0,), end=0, data=0),
    "shape_real": raw(b'{"a":{"dtype":"U8","shape":[1.0],"data_offsets":[0,1]}}', b"x"),
    "shape_wraps": one(shape=(2**62, 4), end=0, data=0),
    "shape_wraps_late": one(shape=(2**32, 2**31, 2), end=0, data=0),
    "bytes_wrap": one(shape=(2**62,), end=0, data=0),
    "integer_too_big": raw(b'{"a":{"dtype":"U8","shape":[99999999999999999999],"data_offsets":[0,1]}}', b"x"),
    "five_dims": one(shape=(1, 1, 1, 1, 2)),
    "span_too_short": one(end=4, data=4),
    "offsets_reversed": one(begin=8, end=0),
    "offsets_negative": one(begin=-8, end=0),
    "offsets_beyond_file": one(begin=2**62, end=2**62 + 8),
    "overlap": two((0, 8), (4, 12), 12),
    "overlap_whole": two((0, 8), (0, 8), 8),
    "gap": two((0, 8), (12, 20), 20),
    "gap_first": one(begin=4, end=12, data=12),
    "bytes_left_over": one(data=9),
    "metadata_number": raw({"__metadata__": {"a": 1}}),
    "metadata_array": raw({"__metadata__": []}),
}


def index(files, **others):
    return json.dumps({**others, "weight_map": files}).encode()


SHARD_INDEX = {
    "valid_two": index({"a": "model-1.safetensors", "b": "model-2.safetensors"}, metadata={"total_size": 8}),
    "valid_one": index({"a": "model.safetensors"}),
    "parent": index({"a": "../model.safetensors"}),
    "absolute": index({"a": "/etc/passwd"}),
    "nested_path": index({"a": "x/model.safetensors"}),
    "dots": index({"a": ".."}),
    "backslash": index({"a": "..\\model.safetensors"}),
    "percent": index({"a": "%2e%2e%2fmodel.safetensors"}),
    "long_name": index({"a": "m" * 256}),
    "empty_name": index({"a": ""}),
    "nul_in_name": b'{"weight_map":{"a":"m\\u0000.safetensors"}}',
    "number": index({"a": 1}),
    "surplus": index({"a": "m1", "b": "m2", "c": "m2"}),
    "swapped": index({"a": "m2", "b": "m1"}),
    "no_map": b"{}",
    "empty_map": index({}),
    "map_is_array": index([]),
    "duplicate_tensor": b'{"weight_map":{"a":"m","a":"m"}}',
    "array": b"[]",
    "cut": index({"a": "model.safetensors"})[:-1],
    "nested_10000": b'{"weight_map":' + b"[" * 10000 + b"]" * 10000 + b"}",
    "many_files": index({f"t{i}": f"m{i}" for i in range(4097)}),
}


def main():
    corpus = pathlib.Path(__file__).parent / "corpus"
    for folder, files in (("safetensors", SAFETENSORS), ("shard_index", SHARD_INDEX)):
        (corpus / folder).mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (corpus / folder / name).write_bytes(content)


if __name__ == "__main__":
    main()
