"""The measurements behind check.sh. Each bar is a function that yields rows (what, bar, measured, met)."""
# SPDX-License-Identifier: Apache-2.0
import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
CACHE = os.environ.get("ESPALIER_CACHE") or os.path.join(
    os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache")), "espalier")
MODEL = os.environ.get("ESPALIER_MODEL") or os.path.join(CACHE, "models", "SmolLM2-135M-Instruct.Q4_1.gguf")
ESPALIER = os.path.join(ROOT, "build", "release", "espalier")

START_BAR_S = 0.5
HEALTH_P99_BAR_MS = 50
MEMORY_BAR_MB = 60
BUILD_BAR_S = 120
LOAD_RATIO_BAR = 0.8
SHARED_RATIO_BAR = 0.5
LOAD_MEMORY_BAR, LOAD_MEMORY_EXTRA_MB = 1.1, 200
DECODE_LIMIT_BAR, PREFILL_LIMIT_BAR = 0.75, 0.45

KV_BYTES = 128 << 20
"""Small enough for the load to fill it, so that the memory bar counts every page."""
LOAD_STREAMS, HEALTH_SECONDS = 64, 20


def start_server(folder):
    from server import Server
    return Server(ESPALIER, MODEL, (), folder, kv_memory=str(KV_BYTES))


def start_to_serving(folder):
    """From the process's start to its first SERVING, with the file in the page cache."""
    with open(MODEL, "rb") as file:
        while file.read(1 << 22):
            pass
    times = []
    for _ in range(7):
        begin = time.monotonic()
        server = start_server(folder)
        server.wait_until_serving()
        times.append(time.monotonic() - begin)
        server.stop()
    median = statistics.median(times)
    yield ("start to SERVING, median of 7", f"<= {START_BAR_S} s", f"{median:.2f} s (worst {max(times):.2f})",
           median <= START_BAR_S)


class Threads:
    """run(0), run(1), ... at once while the block runs; each returns when self.stop is set."""

    def __init__(self, count):
        self.stop = threading.Event()
        self.threads = [threading.Thread(target=self.run, args=(i,), daemon=True) for i in range(count)]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        for thread in self.threads:
            thread.join()


class Load(Threads):
    """Streams that keep the engine full while the block runs: mixed prompts, each followed by another."""

    def __init__(self, server):
        super().__init__(LOAD_STREAMS)
        self.server = server

    def run(self, number):
        from calls import request
        with self.server.channel() as channel:
            stub = self.server.stub(channel)
            while not self.stop.is_set():
                fields = dict(ids=[100 + number] * (20 + 7 * number), max_tokens=64, ignore_eos=True)
                call = stub.Generate(request(**fields), timeout=600)
                for _ in call:
                    if self.stop.is_set():
                        call.cancel()
                        return

    def __enter__(self):
        super().__enter__()
        time.sleep(3)


def ask_health(address):
    """Prints the seconds that each Check took. Runs as a process of its own, away from the load's threads."""
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc
    times = []
    with grpc.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        stub.Check(health_pb2.HealthCheckRequest(), wait_for_ready=True)
        end = time.monotonic() + HEALTH_SECONDS
        while time.monotonic() < end:
            begin = time.monotonic()
            stub.Check(health_pb2.HealthCheckRequest(), timeout=30)
            times.append(time.monotonic() - begin)
            time.sleep(0.01)
    print(json.dumps(times))


def peak_resident_bytes(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM:"))


def under_load(folder):
    """Health latency while the engine is full, and the most memory that the process had by then."""
    server = start_server(folder)
    server.wait_until_serving()
    with Load(server):
        asked = subprocess.run([sys.executable, __file__, "--ask-health", server.address], check=True,
                               stdout=subprocess.PIPE, text=True)
        running, pages = server.metric("espalier_requests_running"), server.metric("espalier_kv_pages_used")
    times = sorted(json.loads(asked.stdout))
    p99 = times[int(len(times) * 0.99)] * 1e3
    yield (f"health p99, {running:.0f} running, {pages:.0f} pages", f"<= {HEALTH_P99_BAR_MS} ms",
           f"{p99:.1f} ms (p50 {times[len(times) // 2] * 1e3:.1f}, {len(times)} checks)", p99 <= HEALTH_P99_BAR_MS)
    extra = (peak_resident_bytes(server.process.pid) - os.path.getsize(MODEL) - KV_BYTES) / 1e6
    yield ("peak memory beyond file + KV pool", f"<= {MEMORY_BAR_MB} MB", f"{extra:.0f} MB", extra <= MEMORY_BAR_MB)
    server.stop()


def beside_a_busy_program(_):
    """Decode with two threads on two processors, of which another program keeps one busy, over decode with one thread there. One
    has a processor to itself; two wait for each other, whoever of them the program makes wait."""
    cpus = sorted(os.sched_getaffinity(0))[:2]
    if len(cpus) < 2:
        yield ("decode beside a busy program, 2 threads / 1", f">= {SHARED_RATIO_BAR} x", "skipped: one processor", None)
        return
    pinned = ["taskset", "-c", ",".join(map(str, cpus))]

    def decode(threads):
        command = [*pinned, ESPALIER, "bench", "--model", MODEL, "--json", "--concurrency", "1", "--requests", "4", "--prompt-tokens", "16",
                   "--threads", str(threads)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        return next(row["decode_tok_s"] for row in map(json.loads, done.stdout.splitlines()) if row["bench"] == "engine")

    with subprocess.Popen([*pinned, sys.executable, "-c", "while True: pass"]) as busy:
        try:
            rounds = [(decode(2), decode(1)) for _ in range(5)]
        finally:
            busy.kill()
    ratio = statistics.median(two / one for two, one in rounds)
    yield ("decode beside a busy program, 2 threads / 1", f">= {SHARED_RATIO_BAR} x",
           f"{ratio:.2f} x (tok/s: {', '.join(f'{two:.0f}/{one:.0f}' for two, one in rounds)})", ratio >= SHARED_RATIO_BAR)


def beside_llama_cpp(_):
    peers = os.path.join(CACHE, "peers")
    if not any(os.path.exists(os.path.join(peers, name, "bin", "llama-batched-bench"))
               for name in (os.listdir(peers) if os.path.isdir(peers) else [])):
        yield ("decode beside llama.cpp", "a bar", "skipped: bench/peers/build_llama_cpp.sh", None)
        return
    done = subprocess.run([os.path.join(ROOT, "bench", "peers", "run.sh"), "--case", "decode-1,decode-16", "--peers", "llama.cpp",
                           "--json"], stdout=subprocess.PIPE, text=True, check=False)
    for row in json.loads(done.stdout)["rows"]:
        yield (f"{row['case']} beside {row['peer']}", row["bar"], f"{row['value']:.2f} x", row["met"])


def builds(folder):
    """Configure and build from nothing, without a compiler cache, in a folder of its own."""
    for preset in ("release", "debug", "asan", "tsan"):
        tree = os.path.join(folder, preset)
        begin = time.monotonic()
        for command in (["cmake", "--preset", preset, "-B", tree], ["cmake", "--build", tree, "--parallel",
                                                                    str(os.cpu_count())]):
            subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL,
                           env=dict(os.environ, CCACHE_DISABLE="1"))
        took = time.monotonic() - begin
        shutil.rmtree(tree)
        yield (f"build from clean, {preset}, {os.cpu_count()} cores", f"<= {BUILD_BAR_S} s", f"{took:.0f} s",
               took <= BUILD_BAR_S)


def drop_from_cache(path):
    """Makes the next reading of a file a cold one."""
    file = os.open(path, os.O_RDONLY)
    os.fsync(file)
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(file)


def read_seconds(path):
    """One pass over a file that is not cached, in pieces of 8 MB."""
    drop_from_cache(path)
    piece, begin = bytearray(8 << 20), time.monotonic()
    file = os.open(path, os.O_RDONLY)
    while os.readv(file, [piece]):
        pass
    os.close(file)
    return time.monotonic() - begin


def load_seconds(model, weights, folder):
    """From a cold start to SERVING, and the most memory that the process had by then."""
    from server import Server
    drop_from_cache(weights)
    begin = time.monotonic()
    server = Server(ESPALIER, model, (), folder, kv_memory=str(KV_BYTES))
    server.wait_until_serving()
    took, memory = time.monotonic() - begin, peak_resident_bytes(server.process.pid)
    server.stop()
    return took, memory


def checkpoint():
    """The folder of the model of 1B's shape, made on the first call."""
    model = os.path.join(CACHE, "llama-3.2-1b-random")
    if not os.path.exists(model):
        subprocess.run([ESPALIER, "make-weights", "--shape", "llama-3.2-1b", "--out", model], check=True)
    return model


def loading(folder):
    """A cold start beside plain reading of the same file, in turns. The packed size of bf16 is the file's."""
    model = checkpoint()
    weights = os.path.join(model, "model.safetensors")
    size = os.path.getsize(weights)
    ratios, rates, peaks = [], [], []
    for _ in range(5):
        plain = read_seconds(weights)
        took, memory = load_seconds(model, weights, folder)
        ratios.append(plain / took)
        rates.append((size / plain / 1e9, size / took / 1e9))
        peaks.append(memory)
    ratio = statistics.median(ratios)
    shown = ", ".join(f"{loaded:.2f} of {read:.2f}" for read, loaded in rates)
    yield ("cold start beside reading, median of 5", f">= {LOAD_RATIO_BAR} x", f"{ratio:.2f} x (GB/s: {shown})",
           ratio >= LOAD_RATIO_BAR)
    bar = LOAD_MEMORY_BAR * size / 1e6 + LOAD_MEMORY_EXTRA_MB
    peak = max(peaks) / 1e6
    yield (f"peak memory of loading {size / 1e6:.0f} MB", f"<= {bar:.0f} MB", f"{peak:.0f} MB", peak <= bar)


def roofline_rounds(rounds, *arguments):
    """(limits, run) of each round: what the machine can do and what the engine did, in the same process."""
    for _ in range(rounds):
        done = subprocess.run([ESPALIER, "bench", *map(str, arguments), "--concurrency", "1", "--roofline", "--json"],
                              check=True, stdout=subprocess.PIPE, text=True)
        rows = {row["bench"]: row for row in map(json.loads, done.stdout.splitlines())}
        yield rows["roofline"], rows["engine"]


def limits(_):
    """One stream's decode beside the read bandwidth, and a prefill beside the matrix rate, of the same run."""
    rounds = list(roofline_rounds(5, "--model", MODEL, "--prompt-tokens", 128, "--output-tokens", 128, "--requests", 3))
    share = statistics.median(run["decode_mbu"] for _, run in rounds)
    speed = statistics.median(run["decode_tok_s"] for _, run in rounds)
    read = statistics.median(limit["read_weights"]["gb_s"] for limit, _ in rounds)
    size = rounds[0][0]["read_weights"]["bytes"]
    yield ("decode, 1 stream, of read bandwidth", f">= {DECODE_LIMIT_BAR:.0%}",
           f"{share:.1%} ({speed:.0f} tok/s of {size / 1e6:.1f} MB; {read:.1f} GB/s can be read)", share >= DECODE_LIMIT_BAR)

    rounds = list(roofline_rounds(3, "--model", checkpoint(), "--prompt-tokens", 512, "--output-tokens", 4,
                                  "--requests", 4, "--max-context", 1024))
    level = rounds[0][0]["level"]
    rate = {"amx": "amx_bf16", "avx512": "avx512_f32", "avx2": "avx2_f32"}[level]
    share = statistics.median(run["prefill_mfu"] for _, run in rounds)
    speed = statistics.median(run["prefill_tok_s"] for _, run in rounds)
    most = statistics.median(limit["gop_s"][rate] for limit, _ in rounds)
    # The bar is one of tiles; a machine without them shows its share of what it has.
    met = share >= PREFILL_LIMIT_BAR if level == "amx" else None
    yield (f"prefill of 512, 1B shape, of {rate}", f">= {PREFILL_LIMIT_BAR:.0%}",
           f"{share:.1%} ({speed:.0f} tok/s; {most / 1e3:.2f} Tflop/s can be computed)", met)


def load_helpers():
    """The end-to-end tests' server and calls, with stubs made on the spot."""
    sys.path.insert(0, os.path.join(ROOT, "tests", "e2e"))
    from conftest import TemporaryStubs
    stubs = TemporaryStubs()
    stubs.make()
    return stubs


def main():
    parser = argparse.ArgumentParser(description="every timed bar: bar, measured, verdict")
    parser.add_argument("--quick", action="store_true", help="without llama.cpp")
    parser.add_argument("--builds", action="store_true", help="time builds from clean too")
    parser.add_argument("--load", action="store_true", help="loading alone: a checkpoint of 2.5 GB, made on the first run")
    parser.add_argument("--limits", action="store_true", help="decode and prefill beside what this machine can do, alone")
    parser.add_argument("--ask-health", metavar="ADDRESS", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.ask_health:
        ask_health(options.ask_health)
        return 0
    stubs = load_helpers()
    bars = [loading] * options.load + [limits] * options.limits
    if not bars:
        bars = [start_to_serving, under_load, beside_a_busy_program] + [beside_llama_cpp] * (not options.quick) + [builds] * options.builds
    missed = 0
    print(f"{'bar':<44} {'wanted':>10}  {'verdict':<8} measured")
    for bar in bars:
        with tempfile.TemporaryDirectory() as folder:
            for what, wanted, measured, met in bar(folder):
                verdict = "skipped" if met is None else "met" if met else "MISSED"
                missed += met is False
                print(f"{what:<44} {wanted:>10}  {verdict:<8} {measured}", flush=True)
    stubs.folder.cleanup()
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
