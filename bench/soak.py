#!/usr/bin/env python3
"""A server under steady load for minutes: does its memory grow, does it get slower?

  soak.py [--minutes 15] [--streams 32] [--model PATH]

Streams of mixed lengths, each followed by another, over gRPC. Every five seconds the server's resident memory and
the tokens it generated are read. Prints the slope of both with its 95% interval and writes
bench/results/soak-DATE.json. The first tenth, at least 20 seconds, is left out: pages are first touched then. Run
it with the test client's Python (bench/check.sh --soak does). Exit 1 when a slope is more than it may be, or a request failed.
"""
# SPDX-License-Identifier: Apache-2.0
import argparse
import datetime
import itertools
import json
import math
import os
import random
import statistics
import sys
import tempfile
import threading
import time

import check
from machine import commit, machine

SAMPLE_S, WARM_SHARE, WARM_S = 5, 0.1, 20
DRIFT_BAR = 0.01
"""Of the mean, over the whole run: a slope is flat when its interval reaches zero or lies within this."""


class Clients(check.Threads):
    """Streams that never pause while the block runs; what fails is counted."""

    def __init__(self, server, streams):
        super().__init__(streams)
        self.server, self.failed = server, 0

    def run(self, number):
        from calls import request
        choose = random.Random(number)
        with self.server.channel() as channel:
            stub = self.server.stub(channel)
            while not self.stop.is_set():
                ids = [choose.randrange(100, 20000) for _ in range(choose.randrange(16, 256))]
                call = stub.Generate(request(ids=ids, max_tokens=choose.randrange(16, 192), ignore_eos=True), timeout=600)
                self.read(call)

    def read(self, call):
        import grpc
        try:
            for _ in call:
                if self.stop.is_set():
                    call.cancel()
                    return
        except grpc.RpcError:
            self.failed += not self.stop.is_set()


def resident_bytes(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmRSS:"))


def sample(server, seconds):
    """(seconds since the begin, resident bytes, tokens a second since the sample before)."""
    begin = last = time.monotonic()
    tokens = server.metric("espalier_output_tokens_total")
    for number in itertools.count(1):
        time.sleep(max(0, begin + number * SAMPLE_S - time.monotonic()))
        now, total = time.monotonic(), server.metric("espalier_output_tokens_total")
        yield now - begin, resident_bytes(server.process.pid), (total - tokens) / (now - last)
        last, tokens = now, total
        if now - begin >= seconds:
            return


def quantile_95(freedom):
    """Student's t, two-sided, by its expansion in 1 / freedom (Abramowitz and Stegun 26.7.5)."""
    z = statistics.NormalDist().inv_cdf(0.975)
    return (z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
            + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3))


def trend(times, values):
    """Least squares: slope a minute with its 95% interval, and the drift over the run as a share of the mean."""
    line = statistics.linear_regression(times, values)
    spread = sum((t - statistics.fmean(times)) ** 2 for t in times)
    rest = sum((v - line.intercept - line.slope * t) ** 2 for t, v in zip(times, values))
    half = quantile_95(len(times) - 2) * math.sqrt(rest / (len(times) - 2) / spread)
    mean, span = statistics.fmean(values), times[-1] - times[0]
    drift = [(line.slope + side * half) * span / mean if mean else 0.0 for side in (-1, 1)]
    return {"mean": mean, "slope_per_minute": line.slope * 60,
            "interval_per_minute": [(line.slope - half) * 60, (line.slope + half) * 60], "drift_interval": drift}


def is_flat(found):
    low, high = found["drift_interval"]
    return low <= 0 <= high or max(abs(low), abs(high)) <= DRIFT_BAR


def show(name, unit, scale, found):
    low, high = (v / scale for v in found["interval_per_minute"])
    drift = " to ".join(f"{share:+.2%}" for share in found["drift_interval"])
    print(f"{name:<12} mean {found['mean'] / scale:9.1f} {unit}   slope {found['slope_per_minute'] / scale:+.3f} "
          f"[{low:+.3f}, {high:+.3f}] {unit} a minute   over the run {drift}   {'flat' if is_flat(found) else 'NOT FLAT'}")


def soak(options):
    samples = []
    with tempfile.TemporaryDirectory() as folder:
        from server import Server
        server = Server(check.ESPALIER, options.model, ("--max-seqs", options.streams), folder,
                        kv_memory=str(check.KV_BYTES))  # which the load fills, so that no page is new later
        try:
            server.wait_until_serving()
            with Clients(server, options.streams) as clients:
                for at, resident, speed in sample(server, options.minutes * 60):
                    samples.append({"s": round(at, 2), "resident_bytes": resident, "tok_s": round(speed, 1)})
                    if sys.stderr.isatty():
                        print(f"{at:6.0f} s  {resident / 1e6:8.1f} MB  {speed:8.1f} tok/s", file=sys.stderr)
            server.stop()
        finally:
            server.close()
    return samples, clients.failed


def main():
    parser = argparse.ArgumentParser(description="a server under steady load: the trend of its memory and its throughput")
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--model", default=check.MODEL)
    options = parser.parse_args()
    if options.minutes < 1:
        parser.error("--minutes is less than 1: too few samples for a slope")
    stubs = check.load_helpers()
    samples, failed = soak(options)
    stubs.folder.cleanup()
    warm = max(WARM_S, WARM_SHARE * options.minutes * 60)
    kept = [s for s in samples if s["s"] > warm]
    found = {name: trend([s["s"] for s in kept], [s[name] for s in kept]) for name in ("resident_bytes", "tok_s")}
    show("resident", "MB", 1e6, found["resident_bytes"])
    show("throughput", "tok/s", 1, found["tok_s"])
    print(f"{failed} requests failed")
    date = datetime.date.today().isoformat()
    path = os.path.join(check.ROOT, "bench", "results", f"soak-{date}.json")
    with open(path, "w", encoding="utf-8") as file:
        json.dump({"bench": "soak", "date": date, "commit": commit(), "model": os.path.basename(options.model),
                   "streams": options.streams, "minutes": options.minutes, "machine": machine(), "failed": failed,
                   "left_out_s": warm, "trend": found, "samples": samples}, file, indent=1)
        file.write("\n")
    print(f"wrote {os.path.relpath(path, os.getcwd())}")
    return 0 if failed == 0 and all(map(is_flat, found.values())) else 1


if __name__ == "__main__":
    sys.exit(main())
