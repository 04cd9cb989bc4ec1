"""A real adapter, trained on BANKING77's 77 intents, on the Q4_1 file: peft's ids and its accuracy.

ESPALIER_BANKING77 is the adapter's folder with expected.jsonl: for each message the prompt's ids, the ids that
peft gave in float32, and the smallest margin between the two likeliest ids on the way.
ESPALIER_BANKING77_REF=1: all messages on ref too, not every tenth (minutes)."""
# SPDX-License-Identifier: Apache-2.0
import json
import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from calls import generate

FOLDER = os.environ.get("ESPALIER_BANKING77", "")
MARGIN = 0.2  # below it two ids are so close that either is right
POINTS = 1.0  # of accuracy

pytestmark = pytest.mark.skipif(not FOLDER, reason="skipped: ESPALIER_BANKING77 names no adapter")


@pytest.fixture(scope="module")
def expected():
    with open(os.path.join(FOLDER, "expected.jsonl"), encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def ask(start_server, rows, *flags, model="banking77"):
    server = start_server("--adapter", f"banking77={FOLDER}", *flags)
    with server.channel() as channel, ThreadPoolExecutor(32) as pool:
        stub = server.stub(channel)
        answers = list(pool.map(lambda row: generate(stub, ids=row["prompt_ids"], model=model, max_tokens=16,
                                                     timeout=1800), rows))
    assert server.stop() == 0
    return answers


def right(answers, rows):
    """Per cent of messages whose label is named exactly."""
    return 100 * sum(a.text.strip() == row["label"] for a, row in zip(answers, rows)) / len(rows)


def peft_right(rows):
    return 100 * sum(row["output"].strip() == row["label"] for row in rows) / len(rows)


def test_ref_gives_pefts_ids_wherever_the_margin_is_clear(start_server, expected):
    rows = expected if os.environ.get("ESPALIER_BANKING77_REF") else expected[::10]
    answers = ask(start_server, rows, "--device", "ref")
    clear = [(a, row) for a, row in zip(answers, rows) if row["min_margin"] >= MARGIN]
    differing = [row["message"] for a, row in clear if list(a.ids) != row["output_ids"]]
    print(f"ref: {len(clear) - len(differing)} of {len(clear)} equal to peft's, {len(rows) - len(clear)} unclear; "
          f"{right(answers, rows):.1f}% right, peft {peft_right(rows):.1f}%")
    assert len(clear) > 0.9 * len(rows)
    assert not differing


@pytest.mark.parametrize("flags", [(), ("--activations", "int8")], ids=["bf16", "int8"])
def test_cpu_is_right_as_often_as_peft(start_server, expected, flags):
    answers = ask(start_server, expected, *flags)
    ours, theirs = right(answers, expected), peft_right(expected)
    equal = sum(list(a.ids) == row["output_ids"] for a, row in zip(answers, expected))
    print(f"cpu {' '.join(flags)}: {ours:.1f}% right, peft {theirs:.1f}%; {equal} of {len(expected)} answers equal")
    assert abs(ours - theirs) <= POINTS


def test_the_base_alone_knows_no_intents(start_server, expected):
    answers = ask(start_server, expected, model="")
    print(f"the base alone: {right(answers, expected):.1f}% right")
    assert right(answers, expected) < 20
