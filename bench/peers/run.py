#!/usr/bin/env python3
"""Espalier beside its peers: every bar of cases.py, in rounds that alternate. Started by run.sh, which installs the peers.

Within a round the sides follow one another, so that a busy neighbour hits all of them; a ratio is that of neighbours in
time, and its median over the rounds is judged. Writes bench/results/peers-DATE.json; figures of cases that this run
did not measure stay in it.
"""
# SPDX-License-Identifier: Apache-2.0
import argparse
import datetime
import json
import math
import os
import signal
import statistics
import sys
import time

from cases import CASES, PEERS
from measure import KINDS, Bench
from processes import Failed

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.append(os.path.join(ROOT, "bench"))
from machine import commit, machine  # noqa: E402
SMALL = 1.1
"""A bar closer to 1 than this wants MANY rounds."""
MANY = 30
BUSY = 3
"""Load average before a case that makes its figures doubtful; a run's own last case leaves some of it behind."""


def load_average():
    with open("/proc/loadavg", encoding="ascii") as file:
        return float(file.read().split()[0])


def tell(text):
    print(f"{time.strftime('%H:%M:%S')}  {text}", file=sys.stderr, flush=True)


# ---- rounds ----

class Samples:
    """figures[side][name]: one value a round."""

    def __init__(self, case, bench):
        self.case = case
        self.sides = [side for side in case.sides() if bench.has(side)]
        self.figures = {side: {} for side in self.sides}
        self.failed = {}
        self.notes = {}

    def add(self, side, figures):
        for name, value in figures.items():
            if isinstance(value, (int, float)):
                self.figures[side].setdefault(name, []).append(value)
            else:
                self.notes[name] = value

    def drop(self, side, why):
        self.sides.remove(side)
        self.figures.pop(side)
        self.failed[side] = why


def one_round(bench, samples):
    for side in list(samples.sides):
        try:
            samples.add(side, KINDS[samples.case.kind](bench, side, samples.case))
        except (Failed, OSError, KeyError, IndexError, ValueError) as error:
            samples.drop(side, f"{type(error).__name__}: {error}")
            tell(f"{samples.case.name}: {side} failed and is left out: {error}")


def shown(samples):
    name = samples.case.bars[0].figure
    return ", ".join(f"{side} {figures[name][-1]:.4g}" for side, figures in samples.figures.items() if name in figures)


def measure(bench, case, rounds):
    samples = Samples(case, bench)
    rounds = min(rounds, case.rounds_max)
    for number in range(rounds):
        one_round(bench, samples)
        tell(f"{case.name}, round {number + 1} of {rounds}: {case.bars[0].figure}: {shown(samples)}")
    return samples


# ---- figures ----

def summary(values):
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "rounds": values}


def interval(values):
    """95% for the median, by the order of the values (binomial); the whole range of few."""
    values, count = sorted(values), len(values)
    rank = max(0, math.floor((count - 1.96 * math.sqrt(count)) / 2))
    return [values[rank], values[count - 1 - rank]]


def judge(bar, samples):
    """A row: the bar and what was measured, or None where a side is missing."""
    mine = samples.figures.get(bar.ours, {}).get(bar.figure)
    theirs = samples.figures.get(bar.peer, {}).get(bar.figure) if bar.peer else None
    if not mine or (bar.peer and not theirs):
        return None
    values = [a / b for a, b in zip(mine, theirs)] if theirs else mine
    median, bounds = statistics.median(values), interval(values)
    row = {"case": samples.case.name, "figure": bar.figure, "ours": bar.ours, "peer": bar.peer, "bar": bar.text(),
           "value": median, "interval95": bounds, "rounds": len(values), "met": None}
    if bar.text() != "-":
        limit = bar.least if bar.least is not None else bar.most
        narrow = bar.peer and 1 / SMALL < limit < SMALL and limit != 1
        # A bar of a few per cent is met when the whole interval is inside it, and only over many pairs.
        row["met"] = bar.met(bounds[0 if bar.least is not None else 1]) and len(values) >= MANY if narrow else bar.met(median)
    return row


def rows_of(samples):
    rows = [judge(bar, samples) for bar in samples.case.all_bars()]
    return [row for row in rows if row]


def cell(samples, side, figure):
    if not side:
        return "-"
    s = summary(samples.figures[side][figure])
    return f"{s['median']:.4g} ({s['min']:.3g}-{s['max']:.3g})"


VERDICT = {True: "met", False: "MISSED", None: ""}


def show(samples):
    for row in rows_of(samples):
        ratio = f"{row['value']:.3g}" if row["peer"] else ""
        print(f"{row['case']:<19} {row['figure']:<13} {row['ours']:<9} {cell(samples, row['ours'], row['figure']):>24} "
              f"{row['peer'] or '':<9} {cell(samples, row['peer'], row['figure']):>24} {ratio:>7} {row['bar']:>8}  {VERDICT[row['met']]}", flush=True)
    for side, why in samples.failed.items():
        print(f"{samples.case.name:<19} skipped: {side}: {why}", flush=True)


def heading():
    print(f"{'case':<19} {'figure':<13} {'ours':<9} {'median (least-most)':>24} {'peer':<9} {'median (least-most)':>24} {'ratio':>7} {'bar':>8}")


def as_json(samples, load):
    return {"rows": rows_of(samples), "load_average": load, "failed": samples.failed, **samples.notes,
            "sides": {side: {name: summary(values) for name, values in figures.items()} for side, figures in samples.figures.items()}}


def result_path(options):
    return options.out or os.path.join(ROOT, "bench", "results", f"peers-{datetime.date.today().isoformat()}.json")


def write(options, found):
    """After every case, so that a run that is stopped keeps what it measured."""
    path, before = result_path(options), {}
    if os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            before = json.load(file).get("cases", {})
    result = {"bench": "peers", "date": datetime.date.today().isoformat(), "commit": commit(), "threads": options.threads, "ours_flags": options.ours,
              "machine": machine(), "peers": {side: os.path.basename(path) for side, path in (("llama.cpp", os.path.dirname(options.llama)),
                                                                                    ("vllm", options.vllm)) if path},
              "cases": {**before, **{name: dict(case, commit=commit()) for name, case in found.items()}}}
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path + ".partial", "w", encoding="utf-8") as file:
        json.dump(result, file, indent=1)
        file.write("\n")
    os.replace(path + ".partial", path)


# ---- all ----

def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", default=",".join(case.name for case in CASES), help="NAME,...; default: all, in this order: %(default)s")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peers", default=",".join(PEERS), help="default: %(default)s")
    parser.add_argument("--int8", action="store_true", help="ours with --activations int8 too, as a second column")
    parser.add_argument("--ours", default="", metavar="FLAGS", help="further flags of ours, as in --ours=\"--step-tokens 1024\"; kept in the result")
    parser.add_argument("--json", action="store_true", help="the rows on stdout, no table, no file")
    parser.add_argument("--out", help="default: bench/results/peers-DATE.json")
    for name in ("cache", "espalier", "client", "llama", "vllm", "bf16", "numpy"):
        parser.add_argument("--" + name, default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.case = options.case.split(",")
    unknown = set(options.case) - {case.name for case in CASES}
    if unknown or options.rounds < 1:
        parser.error(f"--case {','.join(unknown)}: there are {', '.join(case.name for case in CASES)}" if unknown else "--rounds is at least 1")
    return options


def paths(options):
    logs = os.path.join(options.cache, "peers", "logs")
    os.makedirs(logs, exist_ok=True)
    return {"espalier": options.espalier, "client": options.client, "models": os.path.join(options.cache, "models"), "logs": logs,
            "work": os.path.join(options.cache, "peers", "work"), "llama.cpp": options.llama, "vllm": options.vllm,
            "bf16": options.bf16 if options.vllm else "", "numpy": options.numpy}


def missing(bench, case):
    """Why a case can't run at all, or None."""
    if not os.path.exists(os.path.join(bench.paths["models"], case.model)):
        return f"{case.model} is not in {bench.paths['models']}: scripts/fetch_models.sh"
    return "no Python with numpy" if case.kind == "quality" and not bench.paths["numpy"] else None


def run(bench, options):
    found, missed = {}, 0
    if not options.json:
        heading()
    for case in (case for case in CASES if case.name in options.case):
        why, load = missing(bench, case), load_average()
        if why:
            tell(f"{case.name}: skipped: {why}")
            continue
        if load > BUSY:
            tell(f"{case.name}: the load average is {load}: absolute figures will say little, small ratios nothing")
        if case.kind != "offline" and bench.worker or case.kind not in ("offline", "serve"):
            bench.close()
        samples = measure(bench, case, options.rounds)
        found[case.name] = as_json(samples, load)
        missed += sum(row["met"] is False for row in rows_of(samples))
        if not options.json:
            show(samples)
            write(options, {case.name: found[case.name]})
    if options.json:
        print(json.dumps({"rows": [row for case in found.values() for row in case["rows"]]}))
    else:
        print(f"written: {os.path.relpath(result_path(options))}; bars missed: {missed}")
    return missed


def main():
    options = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    bench = Bench(options, paths(options))
    try:
        missed = run(bench, options)
    finally:
        bench.close()
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
