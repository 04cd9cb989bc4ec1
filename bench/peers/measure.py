"""How each side is measured: one function a kind of case, one method a side inside it."""
# SPDX-License-Identifier: Apache-2.0
import json
import os
import select
import subprocess

from cases import LLAMA, OURS, OURS_BF16, OURS_INT8, SMOL, VLLM
from processes import START_S, Failed, Program, Server, free_port, peak_resident_mb, rows

QUALITY_S = 1800
WARM, PER_CLIENT = 1, {1: 8, 16: 4, 32: 3}
"""Requests of a client in a serving case, so that a round takes some ten seconds."""


class Bench:
    """What is installed, and the programs that outlive one measurement."""

    def __init__(self, options, paths):
        self.options, self.paths = options, paths
        self.worker, self.servers, self.seed = None, {}, 0
        self.judged = {}

    def has(self, side):
        """Whether what the side needs is there; ours needs nothing but a build that knows the format."""
        if side in (LLAMA, VLLM):
            return bool(self.paths[side])
        return side == OURS or (self.options.int8 if side == OURS_INT8 else bool(self.paths["bf16"]))

    def close(self):
        for program in list(self.servers.values()) + [self.worker] * bool(self.worker):
            program.stop()
        self.servers, self.worker = {}, None

    def model(self, side, name):
        if side in (OURS_BF16, VLLM):
            return self.paths["bf16"]
        return os.path.join(self.paths["models"], name)

    def adapters(self, side, case):
        """Their paths, and a file with the names by which the side's clients ask for them; made when they are not there."""
        folder = os.path.join(self.paths["work"], f"lora-{case.adapters}")
        if not os.path.exists(os.path.join(folder, "names")):
            if not self.paths["numpy"]:
                raise Failed("adapters need numpy and gguf")
            script = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "random_lora.py")
            subprocess.run([self.paths["numpy"], script, "--espalier", self.paths["espalier"], "--model", self.model(OURS, case.model),
                            "--out", folder, "--count", str(case.adapters), "--rank", "16", "--gguf"], check=True)
            for name, pattern in (("numbers", "{}"), ("names", "a{}")):
                with open(os.path.join(folder, name), "w", encoding="ascii") as file:
                    file.writelines(pattern.format(i) + "\n" for i in range(case.adapters))
        end = ".gguf" if side == LLAMA else ""
        return ([os.path.join(folder, f"a{i}{end}") for i in range(case.adapters)],
                os.path.join(folder, "numbers" if side == LLAMA else "names"))

    def log(self, side):
        return os.path.join(self.paths["logs"], f"{side}.log")

    def ours_flags(self, side, case):
        flags = ["--model", self.model(side, case.model), "--threads", str(self.options.threads)]
        return flags + ["--activations", "int8"] * (side == OURS_INT8) + self.options.ours.split()

    def llama(self, program):
        return os.path.join(self.paths[LLAMA], program)

    def vllm_env(self):
        venv = self.paths[VLLM]
        preload = ":".join(os.path.join(venv, "lib", name) for name in ("libtcmalloc_minimal.so.4", "libiomp5.so"))
        return dict(os.environ, LD_PRELOAD=preload, VLLM_CPU_OMP_THREADS_BIND=f"0-{self.options.threads - 1}",
                    VLLM_CPU_KVCACHE_SPACE="1", VLLM_CACHE_ROOT=os.path.join(os.path.dirname(venv), "vllm-cache"),
                    VLLM_NO_USAGE_STATS="1", DO_NOT_TRACK="1", HF_HUB_OFFLINE="1")

    def vllm_python(self):
        return os.path.join(self.paths[VLLM], "bin", "python")


# ---- offline: no network ----

def offline_ours(bench, side, case):
    flags = ["--prompt-tokens", str(case.prompt), "--output-tokens", str(case.output), "--concurrency", str(case.streams),
             "--requests", str(case.streams if case.streams > 1 else 4), "--json"]
    row = rows([bench.paths["espalier"], "bench"] + bench.ours_flags(side, case) + flags)[0]
    return {name: row[name] for name in ("prefill_tok_s", "decode_tok_s")}


def offline_llama(bench, _, case):
    common = ["-m", bench.model(LLAMA, case.model), "-t", str(bench.options.threads), "-b", "2048", "-ub", "2048"]
    if case.streams == 1 and case.output == 1:  # its own program for that: warmed up, five times
        flags = ["-p", str(case.prompt), "-n", "0", "-r", "5", "-o", "jsonl"]
        return {"prefill_tok_s": rows([bench.llama("llama-bench")] + common + flags)[0]["avg_ts"]}
    context = max(512, case.streams * (case.prompt + case.output))
    row = rows([bench.llama("llama-batched-bench")] + common +
               ["-c", str(context), "-npp", str(case.prompt), "-ntg", str(case.output), "-npl", str(case.streams),
                "--output-format", "jsonl"])[-1]
    return {"prefill_tok_s": row["speed_pp"], "decode_tok_s": row["speed_tg"]}


def start_worker(bench):
    script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "vllm_worker.py")
    env = dict(bench.vllm_env(), VLLM_ENABLE_V1_MULTIPROCESSING="0")
    bench.worker = Program([bench.vllm_python(), script, bench.model(VLLM, SMOL)], bench.log("vllm-worker"), env,
                           stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    worker_answer(bench.worker)


def worker_answer(worker):
    ready, _, _ = select.select([worker.process.stdout], [], [], START_S)
    line = worker.process.stdout.readline() if ready else ""
    if not line:
        worker.stop()
        raise Failed(f"vLLM gave no answer: {worker.why()}")
    return json.loads(line)


def offline_vllm(bench, _, case):
    if not bench.worker:
        start_worker(bench)
    bench.worker.thaw()
    try:
        bench.worker.process.stdin.write(json.dumps({"prompt": case.prompt, "output": case.output, "streams": case.streams}) + "\n")
        bench.worker.process.stdin.flush()
    except OSError:
        raise Failed(f"vLLM is gone: {bench.worker.why()}") from None
    figures = worker_answer(bench.worker)
    bench.worker.freeze()
    return figures


def offline(bench, side, case):
    return {LLAMA: offline_llama, VLLM: offline_vllm}.get(side, offline_ours)(bench, side, case)


# ---- servers ----

def start_ours(bench, side, case, tight):
    port, http = free_port(), free_port()
    limits = ["--max-seqs", str(case.streams), "--max-context", str(case.prompt + case.output)] if tight else []
    paths, names = bench.adapters(side, case) if case.adapters else ([], None)
    limits += [f"--adapter=a{i}={path}" for i, path in enumerate(paths)]
    server = Server([bench.paths["espalier"], "serve"] + bench.ours_flags(side, case) +
                    ["--grpc", f"127.0.0.1:{port}", "--http", f"127.0.0.1:{http}"] + limits, bench.log(side), http, "/readyz")
    server.load = ["--protocol", "grpc", "--address", f"127.0.0.1:{port}"] + ["--models", names] * bool(names)
    return server


def start_llama(bench, _, case, tight):
    """Tuned: one slot a client, a ubatch that takes their prompts together, no copies of old prompts kept."""
    del tight
    port = free_port()
    paths, names = bench.adapters(LLAMA, case) if case.adapters else ([], None)
    lora = [word for path in paths for word in ("--lora", path)] + ["--lora-init-without-apply"] * bool(paths)
    server = Server([bench.llama("llama-server"), "-m", bench.model(LLAMA, case.model), "-t", str(bench.options.threads),
                     "-np", str(case.streams), "-c", str(case.streams * max(256, case.prompt + case.output)), "-b", "2048",
                     "-ub", "2048", "--cache-ram", "0", "--no-ui", "--host", "127.0.0.1", "--port", str(port), *lora],
                    bench.log(LLAMA), port, "/health")
    server.load = ["--protocol", "llama", "--address", f"127.0.0.1:{port}"] + ["--models", names] * bool(names)
    return server


def start_vllm(bench, _, case, tight):
    port = free_port()
    length = case.prompt + case.output if tight else 1024
    paths, names = bench.adapters(VLLM, case) if case.adapters else ([], None)
    lora = ["--enable-lora", "--max-loras", str(case.adapters), "--max-lora-rank", "16", "--lora-modules"] * bool(paths)
    lora += [f"a{i}={path}" for i, path in enumerate(paths)]
    server = Server([bench.vllm_python(), "-m", "vllm.entrypoints.openai.api_server", "--model", bench.model(VLLM, case.model),
                     "--served-model-name", "m", "--dtype", "bfloat16", "--max-model-len", str(length), "--max-num-seqs",
                     str(max(16, case.streams) if tight else 32), "--max-num-batched-tokens", "4096", "--no-enable-prefix-caching",
                     "--disable-log-stats", "--disable-uvicorn-access-log", "--host", "127.0.0.1", "--port", str(port), *lora],
                    bench.log(VLLM), port, "/health", bench.vllm_env())
    server.load = ["--protocol", "openai", "--address", f"127.0.0.1:{port}"] + (["--models", names] if names else ["--model", "m"])
    return server


def start_server(bench, side, case, key, tight=False):
    server = {LLAMA: start_llama, VLLM: start_vllm}.get(side, start_ours)(bench, side, case, tight)
    bench.servers[key] = server
    return server


def stop_server(bench, key):
    bench.servers.pop(key).stop()


def ask(bench, server, case, per_client):
    """One load; prompts that no load before had."""
    bench.seed += 1
    return rows([bench.paths["client"], *server.load, "--clients", str(case.streams), "--requests", str(per_client * case.streams),
                 "--prompt-tokens", str(case.prompt), "--output-tokens", str(case.output), "--seed", str(bench.seed)])[0]


def kept_server(bench, side, case):
    """The side's server of this case, thawed; a new one is warmed up. One vLLM serves all cases: it starts slowly."""
    key = (side, None if side == VLLM and not case.adapters else case.name)
    if key in bench.servers:
        bench.servers[key].thaw()
        return bench.servers[key]
    for other in [other for other in bench.servers if other[1] not in (None, case.name)]:
        stop_server(bench, other)
    server = start_server(bench, side, case, key)
    server.up()
    ask(bench, server, case, WARM)
    return server


def serve(bench, side, case):
    server = kept_server(bench, side, case)
    row = ask(bench, server, case, PER_CLIENT.get(case.streams, 4))
    server.freeze()
    return {name: row[name] for name in ("output_tok_s", "ttft_p50_ms", "ttft_p99_ms", "itl_p50_ms", "itl_p99_ms", "client_share")}


def start(bench, side, case):
    key = (side, case.name)
    try:
        return {"start_s": start_server(bench, side, case, key).up()}
    finally:
        stop_server(bench, key)


def memory(bench, side, case):
    key = (side, case.name)
    server = start_server(bench, side, case, key, tight=True)
    try:
        server.up()
        ask(bench, server, case, 1)
        return {"peak_rss_mb": peak_resident_mb(server.pid)}
    finally:
        stop_server(bench, key)


def quality(bench, side, case):
    """One pass over the text judges every side; the later ones find their row here."""
    if case.name not in bench.judged:
        sides = [other for other in case.sides() if bench.has(other)]
        script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "quality.py")
        command = [bench.paths["numpy"], script, "--espalier", bench.paths["espalier"], "--model", bench.model(side, case.model),
                   "--work", bench.paths["work"], "--threads", str(bench.options.threads), "--sides", ",".join(sides)]
        if LLAMA in sides:
            command += ["--llama", bench.llama("llama-perplexity")]
        bench.judged[case.name] = {row["side"]: row for row in rows(command, limit_s=QUALITY_S)}
    return {name: value for name, value in bench.judged[case.name][side].items() if name != "side"}


KINDS = {"offline": offline, "serve": serve, "start": start, "memory": memory, "quality": quality}
