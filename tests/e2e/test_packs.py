"""Packs: what one start wrote the next one uses, to the same bits; and nothing about them fails a start."""
# SPDX-License-Identifier: Apache-2.0
import os
import shutil
import subprocess

import numpy as np
import pytest

from calls import generate
from gguf_edit import TEXT, rewrite
from server import wait_for

IDS = "1,504,3575,282,4649,314,19"
NOWHERE = "/proc/espalier-packs"
"""Where nobody can write, not even root."""


def packs_in(folder):
    """Names of whole packs; none is left half-way."""
    names = os.listdir(folder) if os.path.isdir(folder) else []
    assert not [n for n in names if n.endswith(".new")]
    return [n for n in names if n.endswith(".espalier-pack")]


@pytest.fixture
def logits(espalier, tmp_path):
    """logits(model, pack) -> (the bits of a prefill's logits, what was logged)"""

    def compute(model, pack):
        out = tmp_path / "logits.npy"
        done = espalier("logits", "--model", model, "--ids", IDS, "--out", out, "--pack", pack)
        return np.load(out).tobytes(), done.stderr

    return compute


def test_the_second_start_uses_the_first_ones_pack(logits, model, tmp_path):
    folder = tmp_path / "packs"
    plain, log = logits(model, "off")
    assert "pack" not in log
    first, log = logits(model, folder)
    assert "event=pack_kept" in log and len(packs_in(folder)) == 1
    second, log = logits(model, folder)
    assert "event=pack_used" in log and "pack_kept" not in log
    assert plain == first == second


def test_a_damaged_pack_is_named_and_replaced(logits, model, tmp_path):
    folder = tmp_path / "packs"
    plain, _ = logits(model, folder)
    path = folder / packs_in(folder)[0]
    with open(path, "r+b") as file:
        file.seek(os.path.getsize(path) // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 16]))
    again, log = logits(model, folder)
    assert again == plain and log.count("event=pack_ignored") == 1 and "event=pack_kept" in log
    os.truncate(path, 100_000)
    again, log = logits(model, folder)
    assert again == plain and log.count("event=pack_ignored") == 1 and "event=pack_kept" in log
    again, log = logits(model, folder)
    assert again == plain and "event=pack_used" in log


def test_another_model_in_its_place_has_another_pack(logits, model, tmp_path):
    """The same weights under other metadata are another model; the same bytes with another time are not."""
    folder, path = tmp_path / "packs", tmp_path / "m.gguf"
    shutil.copyfile(model, path)
    plain, _ = logits(path, folder)
    os.utime(path)
    same, log = logits(path, folder)
    assert same == plain and "event=pack_used" in log
    rewrite(model, tmp_path / "other.gguf", ["general.name"], [("general.name", TEXT, "another")])
    os.replace(tmp_path / "other.gguf", path)
    other, log = logits(path, folder)
    assert other == plain and "is of another model" in log and "event=pack_kept" in log
    assert len(packs_in(folder)) == 1


def test_where_nothing_can_be_written_it_is_said_once(logits, model):
    plain, _ = logits(model, "off")
    again, log = logits(model, NOWHERE)
    assert again == plain and len(log.splitlines()) == 1
    assert "event=pack_not_kept" in log and "level=info" in log


def test_two_starts_at_once_leave_one_pack(binary, model, tmp_path):
    folder = tmp_path / "packs"
    command = [binary, "logits", "--model", model, "--ids", IDS, "--pack", folder, "--out"]
    outs = [tmp_path / f"{i}.npy" for i in range(3)]
    started = [subprocess.Popen([*command, out], stderr=subprocess.DEVNULL) for out in outs]
    assert [process.wait(timeout=900) for process in started] == [0] * len(outs)
    assert len({out.read_bytes() for out in outs}) == 1
    assert len(packs_in(folder)) == 1


def test_a_server_writes_its_pack_while_it_serves(start_server, tmp_path):
    folder = tmp_path / "packs"
    answers = []
    for event in ("pack_kept", "pack_used"):
        server = start_server("--pack", folder)
        with server.channel() as channel:
            answers.append(generate(server.stub(channel), prompt="The capital of France is", max_tokens=12).ids)
        wait_for(lambda: f"event={event}" in server.log(), event)
        assert server.stop() == 0, server.log()
    assert answers[0] == answers[1] and len(packs_in(folder)) == 1


def test_quantising_a_quantised_model_is_refused(espalier, model, tmp_path):
    done = espalier("generate", "--model", model, "--prompt", "x", "--quantize", "q8_0", "--pack", tmp_path, code=65)
    assert "--quantize would change nothing" in done.stderr and packs_in(tmp_path) == []
