#!/usr/bin/env python3
"""Every bar of adapters: what mixed batches cost, paging, thousands of names, loads, and loads and unloads for hours.

  bench_lora.py [--case speed,working-set,many,load,cycles] [--pairs 10] [--cycles 10000] [--model PATH] [--large]

Adapters are random, of ranks 8 to 64. Speeds are ratios of neighbours in time. --large measures speed on the bf16 checkpoint of a
1B shape too. Run it with the test client's Python (bench/check.sh --lora does), on a quiet machine. Exit 1 when a bar is missed.
"""
# SPDX-License-Identifier: Apache-2.0
import argparse
import datetime
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time

import check
import random_lora
from machine import commit, machine
from soak import resident_bytes

CLIENT = os.path.join(check.ROOT, "build", "release", "bench", "load_client")
MAKER = os.path.join(check.ROOT, "build", "release", "bench", "make_adapters")
MIXED = [8, 16, 32, 64]
DECODE_BAR, MIXED_BAR, PREFILL_BAR, UNUSED_BAR = 0.85, 0.80, 0.85, 0.99
WORKING_SET_BAR, MANY_BAR = 3, 0.9
DISK_BAR_MS, HOST_BAR_MS, REGISTER_BAR_MS = 50, 5, 5
CYCLES_MEMORY_BAR = 0.01


# ---- what mixed batches cost ----

def engine_row(model, adapters, *flags):
    words = [word for i, path in enumerate(adapters) for word in ("--adapter", f"a{i}={path}")]
    done = subprocess.run([check.ESPALIER, "bench", "--model", model, *words, "--concurrency", "16", "--requests", "32", "--json",
                           *flags], check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return next(row for row in map(json.loads, done.stdout.splitlines()) if row["bench"] == "engine")


def ratio_row(what, bar, mine, base, figure):
    ratios = [a[figure] / b[figure] for a, b in zip(mine, base)]
    ratio, speed = statistics.median(ratios), statistics.median(row[figure] for row in mine)
    return (what, f">= {bar:.0%}", f"{ratio:.1%} ({min(ratios):.0%} to {max(ratios):.0%}; {speed:.0f} tok/s)", ratio >= bar)


def speed(folder, options):
    models = [options.model] + [check.checkpoint()] * options.large
    for number, model in enumerate(models):
        shape = random_lora.shape_of(check.ESPALIER, model)
        eight = random_lora.make(shape, os.path.join(folder, f"eight{number}"), 8, [16])
        sixteen = random_lora.make(shape, os.path.join(folder, f"sixteen{number}"), 16, MIXED, seed=2)
        base, alone, rows8, rows16 = [], [], [], []
        for _ in range(options.pairs):
            base.append(engine_row(model, []))
            rows8.append(engine_row(model, eight))
            rows16.append(engine_row(model, sixteen))
        unasked = os.path.join(folder, f"unasked{number}")
        if options.unused:
            make_store(unasked, model, 1, "8", "q,v")
        for _ in range(max(30, options.pairs) if options.unused else 0):
            alone.append((engine_row(model, []), engine_row(model, [], "--adapter-store", unasked)))
        name = os.path.basename(model)[:18]
        yield ratio_row(f"{name}: decode, 8 adapters of rank 16", DECODE_BAR, rows8, base, "decode_tok_s")
        yield ratio_row(f"{name}: decode, 16 of ranks 8 to 64", MIXED_BAR, rows16, base, "decode_tok_s")
        yield ratio_row(f"{name}: prefill, 8 adapters of rank 16", PREFILL_BAR, rows8, base, "prefill_tok_s")
        if alone:
            yield ratio_row(f"{name}: decode, adapters on but unused", UNUSED_BAR, [b for _, b in alone], [a for a, _ in alone],
                            "decode_tok_s")


# ---- servers ----

class Served:
    """A server over a store, and its Control."""

    def __init__(self, folder, options, store, *flags, kv_memory="512M"):
        import grpc
        from espalier.v1 import control_pb2, control_pb2_grpc
        from server import ANY_PORT, Server
        os.makedirs(folder, exist_ok=True)
        self.server = Server(check.ESPALIER, options.model, ("--adapter-store", store, "--control", ANY_PORT, *flags), folder, kv_memory=kv_memory)
        self.server.wait_until_serving()
        self.channel = grpc.insecure_channel(self.server.control)
        self.pb, self.control = control_pb2, control_pb2_grpc.ControlStub(self.channel)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.channel.close()
        self.server.stop()
        self.server.close()

    def load(self, reference):
        stored = self.pb.StoredAdapter(adapter=reference)
        return self.control.LoadAdapter(iter([self.pb.LoadAdapterRequest(stored=stored)]), timeout=600).adapter

    def unload(self, reference, end=False):
        users = self.pb.USERS_END if end else self.pb.USERS_WAIT
        self.control.UnloadAdapter(self.pb.UnloadAdapterRequest(adapter=reference, users=users), timeout=600)

    def ask(self, names, requests, *flags, clients=16, seed=1):
        """The load client's row; names go into a file."""
        with tempfile.NamedTemporaryFile("w", suffix=".names") as file:
            file.write("\n".join(names) + "\n")
            file.flush()
            done = subprocess.run([CLIENT, "--protocol", "grpc", "--address", self.server.address, "--clients", str(clients), "--requests",
                                   str(requests), "--seed", str(seed), "--models", file.name, *flags], check=True,
                                  stdout=subprocess.PIPE, text=True)
        return json.loads(done.stdout)


def make_store(folder, model, count, rank, targets, seed=1):
    """The names of the store's adapters."""
    subprocess.run([MAKER, "--model", model, "--store", folder, "--count", str(count), "--rank", rank, "--targets", targets, "--seed",
                    str(seed), "--name", "lora"], check=True, stdout=subprocess.DEVNULL)
    return sorted(name.removesuffix(".json") for name in os.listdir(os.path.join(folder, "names")))


def working_set(folder, options):
    """Time to first token with twice as many adapters in turn as the device holds, beside half as many."""
    store = os.path.join(folder, "store")
    names = make_store(store, options.model, 64, "16", "all")
    with Served(os.path.join(folder, "probe"), options, store) as probe:
        probe.ask(names[:4], 16, "--output-tokens", "8")
        frames, total = probe.server.metric("espalier_adapter_frames"), probe.server.metric("espalier_kv_pages_total")
    one = frames / 4 / total * (512 << 20)  # bytes of the arena that one takes
    memory = str(int(2 * 32 * one))         # adapters may hold half of it: 32 of them
    with Served(os.path.join(folder, "served"), options, store, kv_memory=memory) as served:
        fits, twice = [], []
        for turn in range(max(3, options.pairs // 3)):
            served.ask(names[:16], 32, seed=10 * turn)
            fits.append(served.ask(names[:16], 64, seed=10 * turn + 1))
            served.ask(names, 64, seed=10 * turn + 2)
            twice.append(served.ask(names, 128, seed=10 * turn + 3))
        moved = served.server.metric("espalier_adapter_evictions_total")
    ratio = statistics.median(b["ttft_p50_ms"] / a["ttft_p50_ms"] for a, b in zip(fits, twice))
    slow = statistics.median(row["ttft_p99_ms"] for row in twice)
    yield ("p50 TTFT, twice the adapters that fit", f"<= {WORKING_SET_BAR} x", f"{ratio:.2f} x (p99 {slow:.0f} ms; {moved:.0f} evictions)",
           ratio <= WORKING_SET_BAR and moved > 0)


def many(folder, options):
    """Two thousand names by Zipf's law beside five."""
    store = os.path.join(folder, "store")
    begin = time.monotonic()
    names = make_store(store, options.model, 2000, "8", "q,v")
    made = (time.monotonic() - begin) / len(names) * 1e3
    random.Random(1).shuffle(names)
    yield ("registering one of 2,000", f"<= {REGISTER_BAR_MS} ms", f"{made:.2f} ms, making it included", made <= REGISTER_BAR_MS)
    with Served(os.path.join(folder, "served"), options, store) as served:
        five, all_of_them = [], []
        served.ask(names[:5], 64)
        served.ask(names, 512, "--zipf", "1")
        for turn in range(max(3, options.pairs // 3)):
            five.append(served.ask(names[:5], 192, seed=10 * turn))
            all_of_them.append(served.ask(names, 192, "--zipf", "1", seed=10 * turn + 1))
    yield ratio_row("output of 2,000 by Zipf, beside 5", MANY_BAR, all_of_them, five, "output_tok_s")


def load(folder, options):
    """From the disk, by the megabyte; from memory to the device."""
    store = os.path.join(folder, "store")
    names = make_store(store, options.model, 24, "16", "all")
    size = sum(entry.stat().st_size for blob in os.scandir(os.path.join(store, "blobs", "sha256")) for entry in os.scandir(blob.path)) / 24
    with Served(os.path.join(folder, "served"), options, store) as served:
        disk, host = [], []
        for name in names:
            begin = time.perf_counter()
            served.load(name)
            disk.append((time.perf_counter() - begin) * 1e3 / (size / 1e7))
        for name in names:
            begin = time.perf_counter()
            served.control.Pin(served.pb.PinRequest(adapter=name, pinned=True), timeout=60)
            while served.control.ListAdapters(served.pb.ListAdaptersRequest(name=name), timeout=60).adapters[0].tier != served.pb.ADAPTER_TIER_DEVICE:
                time.sleep(0.0005)  # who asks without a pause takes the processors from what it waits for
            host.append((time.perf_counter() - begin) * 1e3)
            served.control.Pin(served.pb.PinRequest(adapter=name, pinned=False), timeout=60)
    yield ("load from disk, each 10 MB, median of 24", f"<= {DISK_BAR_MS} ms", f"{statistics.median(disk):.1f} ms (worst {max(disk):.1f})",
           statistics.median(disk) <= DISK_BAR_MS)
    yield (f"memory to device, {size / 1e6:.1f} MB, median of 24", f"<= {HOST_BAR_MS} ms",
           f"{statistics.median(host):.1f} ms, two calls included (worst {max(host):.1f})", statistics.median(host) <= HOST_BAR_MS)


# ---- loads and unloads without end ----

class Traffic(check.Threads):
    """Clients that know what each name must answer; a name that is unloaded just then may be refused."""

    def __init__(self, served, names, may_go):
        from calls import generate
        super().__init__(6)
        self.generate, self.served, self.may_go = generate, served, set(may_go)
        self.asked, self.wrong, self.failed = 0, 0, 0
        with served.server.channel() as channel:
            stub = served.server.stub(channel)
            self.wanted = {name: self.answer(stub, name) for name in names}

    def answer(self, stub, name):
        return self.generate(stub, model=name, ids=[1000, 2000, 3000, 4000], max_tokens=8, ignore_eos=True).ids

    def run(self, number):
        import grpc
        choose = random.Random(number)
        with self.served.server.channel() as channel:
            stub = self.served.server.stub(channel)
            while not self.stop.is_set():
                name = choose.choice(list(self.wanted))
                try:
                    self.asked += 1
                    self.wrong += self.answer(stub, name) != self.wanted[name]
                except grpc.RpcError as error:
                    going = name in self.may_go and error.code() in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.ABORTED)
                    self.failed += not going


def cycles(folder, options):
    store = os.path.join(folder, "store")
    names = make_store(store, options.model, 12, "8", "q,v")
    stay, go = names[:4], names[4:]
    with Served(os.path.join(folder, "served"), options, store, kv_memory="64M") as served:
        with Traffic(served, ["", *stay, *go], go) as traffic:
            resident = []
            for number in range(options.cycles):
                name = go[number % len(go)]
                served.unload(name, end=number % 2 == 0)
                served.load(name)
                if number >= options.cycles // 5:  # what is touched first is touched by then
                    resident.append(resident_bytes(served.server.process.pid))
        wait_until = time.monotonic() + 60
        while any(served.server.load().values()) and time.monotonic() < wait_until:
            time.sleep(0.05)
        for name in names:
            served.unload(name, end=True)
        while served.server.metric("espalier_adapter_frames") and time.monotonic() < wait_until:
            time.sleep(0.05)
        left = served.server.metric("espalier_adapter_frames"), served.server.metric("espalier_kv_pages_used")
    tenth = max(1, len(resident) // 10)
    growth = statistics.median(resident[-tenth:]) / statistics.median(resident[:tenth]) - 1
    yield (f"memory over {options.cycles} loads and unloads", f"within {CYCLES_MEMORY_BAR:.0%}", f"{growth:+.2%}", growth <= CYCLES_MEMORY_BAR)
    yield ("frames and pages left", "0", f"{left[0]:.0f} and {left[1]:.0f}", left == (0, 0))
    yield (f"wrong answers and failures of {traffic.asked}", "0", f"{traffic.wrong} and {traffic.failed}", traffic.wrong + traffic.failed == 0)


CASES = {"speed": speed, "working-set": working_set, "many": many, "load": load, "cycles": cycles}


def write(found):
    date = datetime.date.today().isoformat()
    path = os.path.join(check.ROOT, "bench", "results", f"lora-{date}.json")
    rows = [{"bar": what, "wanted": wanted, "measured": measured, "met": met} for what, wanted, measured, met in found]
    with open(path, "w", encoding="utf-8") as file:
        json.dump({"bench": "lora", "date": date, "commit": commit(), "machine": machine(), "rows": rows}, file, indent=1)
        file.write("\n")
    print(f"wrote {os.path.relpath(path, os.getcwd())}")


def main():
    parser = argparse.ArgumentParser(description="every bar of adapters: bar, measured, verdict")
    parser.add_argument("--case", default=",".join(CASES), help="default: %(default)s")
    parser.add_argument("--pairs", type=int, default=10, help="rounds of a ratio")
    parser.add_argument("--cycles", type=int, default=10000)
    parser.add_argument("--model", default=check.MODEL)
    parser.add_argument("--large", action="store_true", help="speed on the checkpoint of a 1B shape too (2.5 GB, made on the first run)")
    parser.add_argument("--unused", action="store_true", help="30 pairs of the base beside the base with adapters on")
    options = parser.parse_args()
    if set(options.case.split(",")) - set(CASES):
        parser.error(f"--case: there are {', '.join(CASES)}")
    stubs, found = check.load_helpers(), []
    print(f"{'bar':<48} {'wanted':>10}  {'verdict':<8} measured")
    for name in options.case.split(","):
        with tempfile.TemporaryDirectory() as folder:
            for row in CASES[name](folder, options):
                found.append(row)
                print(f"{row[0]:<48} {row[1]:>10}  {'met' if row[3] else 'MISSED':<8} {row[2]}", flush=True)
    stubs.folder.cleanup()
    write(found)
    return 0 if all(row[3] for row in found) else 1


if __name__ == "__main__":
    sys.exit(main())
