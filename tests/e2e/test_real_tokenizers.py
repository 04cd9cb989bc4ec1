"""Published tokenizers: our ids are those of each one's own implementation, and ids give the text back.

5,000 mixed texts and Unicode's own test sets (Debian's package unicode-data) each, through the test program
ids_of_texts. The packages are installed into a folder of the cache, by hash; without a registry the tests say
"skipped: not downloaded".
"""
# SPDX-License-Identifier: Apache-2.0
import bz2
import hashlib
import os
import struct
import subprocess
import sys
import unicodedata

import pytest

import reference_tokenizers as references

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.append(os.path.join(os.path.dirname(HERE), "vectors"))
from tokenizer_texts import texts  # noqa: E402

TEXT_COUNT = 5000
UNICODE = os.environ.get("ESPALIER_UNICODE_DATA", "/usr/share/unicode")
REQUIREMENTS = ["requirements-tokenizers.txt", "requirements-references.txt"]
# Ours is Unicode 16, as the tokenizers library's; these references go by the tables of the Python they run in.
NEWER = "code points newer than this Python's Unicode are left out"


@pytest.fixture(scope="session")
def packages():
    """The references' packages on sys.path."""
    cache = os.environ.get("ESPALIER_CACHE", os.path.expanduser("~/.cache/espalier"))
    wanted = hashlib.sha256(b"".join(open(os.path.join(HERE, name), "rb").read() for name in REQUIREMENTS)
                            + sys.version.encode()).hexdigest()[:16]
    folder = os.path.join(cache, f"tokenizers-{wanted}")
    for name, options in zip(REQUIREMENTS, (["--no-deps", "--require-hashes"], [])):
        if os.path.exists(os.path.join(folder, name)):
            continue
        done = subprocess.run([sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--quiet", "--upgrade",
                               "--target", folder, *options, "-r", os.path.join(HERE, name)], capture_output=True, text=True)
        if done.returncode != 0:
            pytest.skip("skipped: not downloaded: " + done.stderr.strip()[-200:])
        open(os.path.join(folder, name), "w").close()
    sys.path.append(folder)  # behind this venv's own packages
    return folder


@pytest.fixture(scope="session")
def program(binary):
    path = os.path.join(os.path.dirname(binary), "tests", "ids_of_texts")
    assert os.path.exists(path), f"no {path}: build the tests"
    return path


def unicode_lines(name):
    path = os.path.join(UNICODE, name)
    for candidate, opened in ((path, open), (path + ".bz2", bz2.open)):
        if os.path.exists(candidate):
            with opened(candidate, "rt", encoding="utf-8") as lines:
                return [line.split("#")[0].strip() for line in lines]
    return []


def points(column):
    text = "".join(chr(int(p, 16)) for p in column.split())
    return text if text.isprintable() or not any("\ud800" <= c <= "\udfff" for c in text) else ""


def torture():
    """Normalisation, grapheme and word break tests, emoji sequences, every named character in a word."""
    out = []
    for line in unicode_lines("NormalizationTest.txt"):
        if line and not line.startswith("@"):
            out += ["a" + points(column) + "b" for column in line.split(";")[:5:4]]
    for name in ("auxiliary/GraphemeBreakTest.txt", "auxiliary/WordBreakTest.txt", "auxiliary/SentenceBreakTest.txt"):
        for line in unicode_lines(name):
            column = line.replace("÷", " ").replace("×", " ")
            if column.strip() and "D800" not in column:
                out.append(points(column))
    for name in ("emoji/emoji-sequences.txt", "emoji/emoji-zwj-sequences.txt"):
        out += [points(line.split(";")[0]) for line in unicode_lines(name) if line and ".." not in line]
    named = [int(line.split(";")[0], 16) for line in unicode_lines("UnicodeData.txt") if line]
    named = [p for p in named if not 0xD800 <= p <= 0xDFFF]
    out += ["x" + " y".join(map(chr, named[i:i + 16])) + "1" for i in range(0, len(named), 16)]
    return list(dict.fromkeys(t for t in out if t))


def ids_and_texts(program, folder, special, all_texts):
    coded = [t.encode() for t in all_texts]
    framed = b"".join(struct.pack("<I", len(t)) + t for t in coded)
    done = subprocess.run([program, folder] + ["--parse"] * special, input=framed, capture_output=True, timeout=1500)
    assert done.returncode == 0, done.stderr.decode()
    at = 0
    for _ in all_texts:
        count = struct.unpack_from("<I", done.stdout, at)[0]
        ids = list(struct.unpack_from(f"<{count}i", done.stdout, at + 4))
        at += 4 + 4 * count
        length = struct.unpack_from("<I", done.stdout, at)[0]
        yield ids, done.stdout[at + 4:at + 4 + length]
        at += 4 + length
    assert at == len(done.stdout)


def is_known(text):
    return all(unicodedata.category(c) != "Cn" for c in text)


@pytest.mark.parametrize("maker", references.MAKERS)
def test_ids_and_texts_are_the_references(maker, packages, program, tmp_path):
    mixed, hard = list(texts(TEXT_COUNT)), torture()
    if not hard:
        print("skipped: not there: " + UNICODE)
    for number, case in enumerate(references.MAKERS[maker]()):
        folder = tmp_path / str(number)
        folder.mkdir()
        case.write(str(folder))
        ours = mixed + hard
        if case.python_unicode:
            ours = [t for t in ours if is_known(t)] + [t for t in texts(2 * TEXT_COUNT)[TEXT_COUNT:] if is_known(t)]
        differ = []
        for text, (ids, back) in zip(ours, ids_and_texts(program, str(folder), case.special, ours)):
            wanted = list(case.reference(text))
            if ids != wanted or back != case.normal(text).encode():
                differ.append((text, ids, wanted, back))
        print(f"{case.name}: {len(ours)} texts, {len(differ)} differ{'; ' + NEWER if case.python_unicode else ''}")
        assert len(ours) >= TEXT_COUNT
        assert not differ, f"{case.name}: {len(differ)} of {len(ours)} differ, first: {differ[0]}"
