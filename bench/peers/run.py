#!/usr/bin/env python3
"""Espalier beside llama.cpp: same file, threads, machine and minute; decode at 1 and 16 streams.

    bench/peers/run.py [--model FILE] [--rounds 5] [--threads 2] [--prompt 128] [--output 128] [--streams 1,16]

Prints medians, spreads and ratios, and writes bench/results/peers-DATE.json. The rounds alternate, so that a busy
neighbour hits both. llama.cpp: bench/peers/build_llama_cpp.sh, with --ubatch-size 2048, which suits it best.
"""
# SPDX-License-Identifier: Apache-2.0
import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
CACHE = os.environ.get("ESPALIER_CACHE") or os.path.join(
    os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache")), "espalier")
FIGURES = ("prefill_tok_s", "decode_tok_s")


def run(command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{command[0]} failed with {done.returncode}: {done.stderr.strip()[-500:]}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def ours(options, streams):
    rows = run([options.espalier, "bench", "--model", options.model, "--threads", str(options.threads),
                "--prompt-tokens", str(options.prompt), "--output-tokens", str(options.output),
                "--concurrency", str(streams), "--requests", str(streams), "--json"])
    return {name: rows[0][name] for name in FIGURES}, rows[0]["profile"]


def theirs(options, streams):
    context = streams * (options.prompt + options.output)
    rows = run([os.path.join(options.llama, "llama-batched-bench"), "-m", options.model, "-t", str(options.threads),
                "-c", str(max(context, 512)), "-b", "2048", "-ub", "2048", "-npp", str(options.prompt),
                "-ntg", str(options.output), "-npl", str(streams), "--output-format", "jsonl"])
    return {"prefill_tok_s": rows[-1]["speed_pp"], "decode_tok_s": rows[-1]["speed_tg"]}


def machine():
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        info = dict((k.strip(), v.strip()) for k, _, v in (line.partition(":") for line in file) if v)
    wanted = {"avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8"}
    return {"cpu": info.get("model name", "?"), "cores": os.cpu_count(), "kernel": platform.release(),
            "levels": sorted(wanted & set(info.get("flags", "").split())),
            "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)}


def commit():
    done = subprocess.run(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def summary(values):
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "rounds": values}


def measure(options, streams):
    samples = {"espalier": {n: [] for n in FIGURES}, "llama.cpp": {n: [] for n in FIGURES}}
    for number in range(options.rounds):
        mine, profile = ours(options, streams)
        for side, figures in (("espalier", mine), ("llama.cpp", theirs(options, streams))):
            for name in FIGURES:
                samples[side][name].append(figures[name])
        print(f"streams {streams}, round {number + 1} of {options.rounds}: decode {mine['decode_tok_s']:.1f} beside "
              f"{samples['llama.cpp']['decode_tok_s'][-1]:.1f} tok/s", file=sys.stderr)
    row = {"streams": streams, "profile": profile,
           **{side: {n: summary(v) for n, v in figures.items()} for side, figures in samples.items()}}
    # The ratio of neighbours in time, then its median: noise that hits a whole round cancels.
    row["ratio"] = {n: statistics.median(a / b for a, b in zip(samples["espalier"][n], samples["llama.cpp"][n]))
                    for n in FIGURES}
    return row


def show(rows):
    print(f"{'streams':>7} {'figure':>14} {'espalier':>22} {'llama.cpp':>22} {'ratio':>7}")
    cell = lambda s: f"{s['median']:.1f} ({s['min']:.0f}-{s['max']:.0f})"
    for row in rows:
        for name in FIGURES:
            print(f"{row['streams']:>7} {name:>14} {cell(row['espalier'][name]):>22} {cell(row['llama.cpp'][name]):>22} "
                  f"{row['ratio'][name]:>7.2f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=os.path.join(CACHE, "models", "SmolLM2-135M-Instruct.Q4_1.gguf"))
    parser.add_argument("--espalier", default=os.path.join(ROOT, "build", "release", "espalier"))
    parser.add_argument("--llama", help="folder of llama-batched-bench; default: build_llama_cpp.sh gives it")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--output", type=int, default=128)
    parser.add_argument("--streams", default="1,16")
    parser.add_argument("--json", action="store_true", help="the whole result on stdout, no table, no file")
    options = parser.parse_args()
    for path in (options.model, options.espalier):
        if not os.path.exists(path):
            sys.exit(f"{path} is missing: run scripts/quickstart.sh --once first")
    if not options.llama:
        script = os.path.join(ROOT, "bench", "peers", "build_llama_cpp.sh")
        done = subprocess.run([script], stdout=subprocess.PIPE, text=True)
        if done.returncode != 0:
            sys.exit("no llama.cpp to compare with")
        options.llama = done.stdout.strip()
    rows = [measure(options, int(streams)) for streams in options.streams.split(",")]
    date = datetime.date.today().isoformat()
    result = {"bench": "peers", "date": date, "commit": commit(), "model": os.path.basename(options.model),
              "threads": options.threads, "prompt_tokens": options.prompt, "output_tokens": options.output,
              "llama.cpp": os.path.basename(os.path.dirname(options.llama.rstrip("/"))), "machine": machine(),
              "rows": rows}
    if options.json:
        print(json.dumps(result))
        return
    show(rows)
    path = os.path.join(ROOT, "bench", "results", f"peers-{date}.json")
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        json.dump(result, file, indent=1)
        file.write("\n")
    print(f"written: {os.path.relpath(path, ROOT)}")


if __name__ == "__main__":
    main()
