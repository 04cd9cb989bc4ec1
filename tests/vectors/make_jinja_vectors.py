"""Writes jinja_features.jsonl and chat_templates.jsonl with jinja2 3.1 as transformers 4.57 sets it up.

    make_jinja_vectors.py TEMPLATES_FOLDER...     (needs: pip install jinja2 transformers)

jinja_features.jsonl: {"data": D}, then a row a template: {"template": T} and "text", "raises" or "refused".
chat_templates.jsonl: {"data": D, "own": O} a conversation; then for each NAME.jinja of the folders
{"name": NAME, "bytes": N, "digest": of its text} and, a conversation each, {"bytes": N, "digest": D} or {"raises": M}.
The templates themselves are their models' and are not copied (collect_chat_templates.py finds some). Digests are 64-bit FNV-1a.
"""
# SPDX-License-Identifier: Apache-2.0
import datetime
import glob
import json
import os
import sys

import jinja2
from transformers.utils.chat_template_utils import _compile_jinja_template

import jinja_conversations
import jinja_features

NOW = datetime.datetime(2025, 1, 15, 14, 34, 56, 123456)
HERE = os.path.dirname(os.path.abspath(__file__))


def fnv(data):
    state = 0xcbf29ce484222325
    for byte in data:
        state = (state ^ byte) * 0x100000001b3 & 0xFFFFFFFFFFFFFFFF
    return f"{state:016x}"


def rendered(template, variables):
    try:
        return {"text": template.render(strftime_now=NOW.strftime, **variables)}
    except Exception as error:  # whatever Python raises is what the engine says
        return {"raises": str(error)}


def feature(source):
    try:
        template = _compile_jinja_template(source)
    except (jinja2.TemplateError, SyntaxError):
        return {"template": source, "refused": True}
    return {"template": source, **rendered(template, jinja_features.DATA)}


def digest_of(row):
    if "raises" in row: return row
    data = row["text"].encode()
    return {"bytes": len(data), "digest": fnv(data)}


def chat_rows(folders):
    conversations = list(jinja_conversations.conversations())
    yield from ({"data": data, "own": own} for data, own in conversations)
    for path in sorted((p for f in folders for p in glob.glob(os.path.join(f, "*.jinja"))), key=os.path.basename):
        source = open(path, "rb").read()
        yield {"name": os.path.basename(path), "bytes": len(source), "digest": fnv(source)}
        template = _compile_jinja_template(source.decode())
        yield from (digest_of(rendered(template, {**data, **own})) for data, own in conversations)


def write(name, rows):
    with open(os.path.join(HERE, name), "w", encoding="utf-8") as out:
        for row in rows:
            out.write(json.dumps(row, ensure_ascii=True, separators=(",", ":")) + "\n")


write("jinja_features.jsonl", [{"data": jinja_features.DATA}, *map(feature, jinja_features.templates())])
write("chat_templates.jsonl", chat_rows(sys.argv[1:]))
