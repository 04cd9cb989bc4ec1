#!/usr/bin/env python3
"""Writes corpus/store_name and corpus/store_manifest: small files of the adapter store and references,
most of them wrong in one place."""
# SPDX-License-Identifier: Apache-2.0
import copy
import hashlib
import json
import os
import shutil

HERE = os.path.dirname(os.path.abspath(__file__))
HEX = [hashlib.sha256(bytes([i])).hexdigest() for i in range(8)]


def changed(good, path, value):
    """A copy with the value at a path of keys; None takes the key away."""
    other = copy.deepcopy(good)
    at = other
    for key in path[:-1]:
        at = at[key]
    if value is None:
        del at[path[-1]]
    else:
        at[path[-1]] = value
    return json.dumps(other)


def version(number, digest):
    return {"version": number, "digest": "sha256:" + digest, "imported": "2026-11-21T10:00:00Z"}


NAME = {"format": "espalier.adapter-name.v1", "alias": 2, "next": 6,
        "versions": [version(1, HEX[0]), version(2, HEX[1]), version(5, HEX[2])]}

NAMES = {
    "good": json.dumps(NAME, indent=1),
    "other_format": changed(NAME, ["format"], "espalier.adapter-name.v2"),
    "no_format": changed(NAME, ["format"], None),
    "alias_absent": changed(NAME, ["alias"], None),
    "alias_other": changed(NAME, ["alias"], 3),
    "alias_text": changed(NAME, ["alias"], "2"),
    "alias_zero": changed(NAME, ["alias"], 0),
    "alias_large": changed(NAME, ["alias"], 2**32),
    "alias_negative": changed(NAME, ["alias"], -1),
    "next_low": changed(NAME, ["next"], 5),
    "next_huge": changed(NAME, ["next"], 2**63),
    "next_real": changed(NAME, ["next"], 6.0),
    "versions_none": changed(NAME, ["versions"], []),
    "versions_object": changed(NAME, ["versions"], {}),
    "versions_text": changed(NAME, ["versions", 0], "sha256"),
    "versions_many": changed(NAME, ["versions"], [1] * 1025),
    "versions_fall": changed(NAME, ["versions", 0, "version"], 2),
    "version_zero": changed(NAME, ["versions", 0, "version"], 0),
    "digest_twice": changed(NAME, ["versions", 0, "digest"], "sha256:" + HEX[1]),
    "digest_short": changed(NAME, ["versions", 0, "digest"], "sha256:" + HEX[0][:63]),
    "digest_long": changed(NAME, ["versions", 0, "digest"], "sha256:" + HEX[0] + "0"),
    "digest_upper": changed(NAME, ["versions", 0, "digest"], "sha256:" + HEX[0].upper()),
    "digest_path": changed(NAME, ["versions", 0, "digest"], "sha256:../../../../" + HEX[0][:52]),
    "digest_prefix": changed(NAME, ["versions", 0, "digest"], "sha512:" + HEX[0]),
    "digest_absent": changed(NAME, ["versions", 0, "digest"], None),
    "time_long": changed(NAME, ["versions", 0, "imported"], "2" * 24),
    "time_odd": changed(NAME, ["versions", 0, "imported"], "\x1b[2J\u0430"),
    "time_nul": changed(NAME, ["versions", 0, "imported"], "a\0b"),
    "twice": '{"format": "espalier.adapter-name.v1", "alias": 1, "alias": 1}',
    "array": "[]", "empty": "{}", "cut": json.dumps(NAME)[:99], "blank": " ", "deep": "[" * 3000,
    "reference": "name", "reference_version": "name@3", "reference_digest": "name@sha256:" + HEX[0],
    "reference_prefix": "name@sha256:" + HEX[0][:12], "reference_short": "name@sha256:" + HEX[0][:11],
    "reference_path": "../name@3", "reference_large": "name@4294967296", "reference_at": "name@@",
    "reference_nul": "na\0me@3", "reference_long": "n" * 300, "reference_dots": "a..b",
}

MANIFEST_FILES = [{"name": "adapter_config.json", "bytes": 1189, "sha256": HEX[0]},
                  {"name": "adapter_model.safetensors", "bytes": 9823216, "sha256": HEX[1]}]


def digest(files):
    lines = "".join(f"{f['sha256']}  {f['name']}\n" for f in sorted(files, key=lambda f: f["name"]))
    return "sha256:" + hashlib.sha256(lines.encode()).hexdigest()


MANIFEST = {"format": "espalier.adapter.v1", "digest": digest(MANIFEST_FILES),
            "imported": "2026-11-21T10:00:00Z", "files": MANIFEST_FILES, "parameters": 230400, "rank_min": 8,
            "rank_max": 8, "targets": "q_proj, v_proj", "base": "HuggingFaceTB/SmolLM2-135M-Instruct"}
GGUF = [{"name": "adapter.gguf", "bytes": 10, "sha256": HEX[3]}]
THREE = MANIFEST_FILES + [{"name": "config.json", "bytes": 5, "sha256": HEX[4]}]

MANIFESTS = {
    "good": json.dumps(MANIFEST, indent=1),
    "good_gguf": json.dumps(MANIFEST | {"files": GGUF, "digest": digest(GGUF)}),
    "good_three": json.dumps(MANIFEST | {"files": THREE, "digest": digest(THREE)}),
    "other_format": changed(MANIFEST, ["format"], "x"),
    "other_digest": changed(MANIFEST, ["digest"], "sha256:" + HEX[5]),
    "digest_short": changed(MANIFEST, ["digest"], "sha256:"),
    "files_none": changed(MANIFEST, ["files"], []),
    "files_many": changed(MANIFEST, ["files"], MANIFEST_FILES * 2),
    "files_absent": changed(MANIFEST, ["files"], None),
    "file_name": changed(MANIFEST, ["files", 0, "name"], "../../names/a.json"),
    "file_name_long": changed(MANIFEST, ["files", 0, "name"], "a" * 32),
    "file_bytes": changed(MANIFEST, ["files", 0, "bytes"], 1 << 40),
    "file_bytes_negative": changed(MANIFEST, ["files", 0, "bytes"], -1),
    "file_hash": changed(MANIFEST, ["files", 0, "sha256"], HEX[0][:63] + "g"),
    "file_hash_short": changed(MANIFEST, ["files", 0, "sha256"], HEX[0][:63]),
    "parameters_huge": changed(MANIFEST, ["parameters"], 2**64),
    "parameters_text": changed(MANIFEST, ["parameters"], "8"),
    "rank_negative": changed(MANIFEST, ["rank_min"], -8),
    "rank_huge": changed(MANIFEST, ["rank_max"], 2**32),
    "rank_most": changed(MANIFEST, ["rank_max"], 2**32 - 1),
    "targets_long": changed(MANIFEST, ["targets"], "q" * 512),
    "base_odd": changed(MANIFEST, ["base"], "\u001b]0;\u0007\u00e9"),
    "base_absent": changed(MANIFEST, ["base"], None),
    "time_absent": changed(MANIFEST, ["imported"], None),
    "array": "[]", "cut": json.dumps(MANIFEST)[:150], "empty": "{}",
}

for folder, files in (("store_name", NAMES), ("store_manifest", MANIFESTS)):
    out = os.path.join(HERE, "corpus", folder)
    shutil.rmtree(out, ignore_errors=True)
    os.makedirs(out)
    for name, text in files.items():
        with open(os.path.join(out, name), "w", encoding="utf-8") as file:
            file.write(text)
