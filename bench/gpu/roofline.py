"""roofline.py: prints docs/roofline.md: what each kernel moves and multiplies, and the time that no device can go below.

A test holds the document to what this prints. Measured cells come from bench/results/<device>-<date>.json.
"""
# SPDX-License-Identifier: Apache-2.0
import collections
import glob
import json
import os

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

Device = collections.namedtuple("Device", "name bytes_per_s flop_per_s matches")
DEVICES = (  # memory bandwidth and dense bf16 rate with float32 sums, as the makers' data sheets state them
    Device("A100 80GB SXM", 2.039e12, 312e12, "a100"),
    Device("H100 SXM", 3.35e12, 989e12, "h100"),
    Device("H200 SXM", 4.8e12, 989e12, "h200"),
    Device("L4", 0.300e12, 121e12, "l4"),
)

Shape = collections.namedtuple("Shape", "name layers hidden inner heads kv_heads dim vocab")
SHAPES = (Shape("llama-3.1-8b", 32, 4096, 14336, 32, 8, 128, 128256),
          Shape("llama-3.2-1b", 16, 2048, 8192, 32, 8, 64, 128256),
          Shape("gemma-2-9b", 42, 3584, 14336, 16, 8, 256, 256000))

FORMATS = {"BF16": 2.0, "Q4_K": 0.625}
"""Bytes a weight as packed: of Q4_K, tiles of 16 x 64 codes of 4 bits, 8 bytes of scales a row and tile."""

KV = ("bf16", "int8")

Work = collections.namedtuple("Work", "what bytes flops bench of format tokens", defaults=("", "", "", 0))
"""bench, of, format, tokens: the row of bench_gpu that measures it."""


def count_of(tokens):
    return "1 token" if tokens == 1 else f"{tokens} tokens"


def linear_parts(s):
    """name, outputs, inputs, bytes written (and read back) a token."""
    q, kv = s.heads * s.dim, s.kv_heads * s.dim
    return (("qkv", q + 2 * kv, s.hidden, 4 * (q + 2 * kv)), ("o", s.hidden, q, 8 * s.hidden),
            ("gate_up", 2 * s.inner, s.hidden, 2 * s.inner), ("down", s.hidden, s.inner, 8 * s.hidden))


def linear_works(s, fmt, tokens):
    works = []
    for name, rows, cols, out in linear_parts(s):
        works.append(Work(f"linear {name}, {fmt}, {count_of(tokens)}", rows * cols * FORMATS[fmt] + tokens * (2 * cols + out),
                          2.0 * rows * cols * tokens, "linear", f"{s.name} {name}", fmt, tokens))
    works.append(Work(f"linear, all four, {fmt}, {count_of(tokens)}", sum(w.bytes for w in works), sum(w.flops for w in works),
                      "linear", f"{s.name} layer", fmt, tokens))
    return works


def kv_bytes(s, kv):
    """Of a token in one layer: codes of int8 have a float32 scale for each head's key and value."""
    return 2 * s.kv_heads * (2 * s.dim if kv == "bf16" else s.dim + 4)


def attention_work(s, seqs, cached, tokens, kv="bf16"):
    keys = cached + tokens
    seen = sum(cached + i + 1 for i in range(tokens))
    moved = seqs * (keys * kv_bytes(s, kv) + tokens * s.heads * s.dim * (4 + 2))
    return Work(f"attention, {kv}, {seqs} x {keys} keys, {count_of(tokens)} each", moved, 4.0 * seqs * seen * s.heads * s.dim,
                "attention", f"{s.name} {seqs} x {keys}", kv, seqs * tokens)


def small_works(s, tokens):
    q, kv = s.heads * s.dim, s.kv_heads * s.dim
    return (Work(f"embed, {tokens} tokens", tokens * s.hidden * (2 + 4), 0),
            Work(f"norm, {tokens} tokens", tokens * s.hidden * (4 + 2) + 4 * s.hidden, 0),
            Work(f"rope_store, {tokens} tokens", tokens * (4 * (q + 2 * kv) + 4 * q + 2 * 2 * kv + 4 * s.dim), 0),
            Work(f"sample, {tokens} rows", tokens * s.vocab * 4, 0),
            Work(f"pool_states, {tokens} tokens", tokens * s.hidden * 4, 0))


def lora_work(s, adapters, rank):
    """The update of one layer: A and B of each adapter, A x, and B h, which is written and read back."""
    moved = flops = 0
    for name, rows, cols, _ in linear_parts(s):
        parts = {"qkv": 3, "gate_up": 2}.get(name, 1)
        moved += adapters * (2 * rank * (parts * cols + rows) + 2 * cols + 2 * 4 * rows)
        flops += 2.0 * adapters * rank * (parts * cols + rows)
    return Work(f"lora, {adapters} sequences over {adapters} adapters of rank {rank}, one layer", moved, flops)


def page_work(s, frames, kv):
    frame = s.layers * 16 * kv_bytes(s, kv)
    return Work(f"page_copy, {kv}, {frames} frames of {frame / 2**20:.3g} MiB", 2 * frames * frame, 0)


def model_work(s, fmt, seqs, context, kv="bf16"):
    weights = sum(rows * cols for _, rows, cols, _ in linear_parts(s)) * s.layers + s.vocab * s.hidden
    moved = weights * FORMATS[fmt] + seqs * context * s.layers * kv_bytes(s, kv)
    over = "" if kv == "bf16" else f" of {kv}"
    return Work(f"a decode step, {fmt}, {seqs} x {context} keys{over}", moved, 2.0 * weights * seqs, "model" if context <= 512 else "",
                f"{s.name} decode step", fmt, seqs)


def works_of(s):
    works = []
    for fmt in FORMATS:
        for tokens in (1, 16, 2048):
            works += linear_works(s, fmt, tokens)
    works += [attention_work(s, *size, kv) for size in ((1, 8191, 1), (16, 8191, 1), (1, 0, 2048)) for kv in KV]
    works += [w for tokens in (16, 2048) for w in small_works(s, tokens) if not (tokens == 2048 and w.what.startswith("sample"))]
    works += [lora_work(s, 32, 16)] + [page_work(s, 64, kv) for kv in KV]
    works += [model_work(s, fmt, seqs, 512) for fmt in FORMATS for seqs in (1, 16)]
    return works + [model_work(s, "Q4_K", 16, 8192, kv) for kv in KV]


def results():
    """(device's words, key) -> us, of every results file."""
    found = {}
    for path in sorted(glob.glob(os.path.join(ROOT, "bench", "results", "*.json"))):
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
        if not isinstance(content, dict) or content.get("device", {}) in (None, "") or not isinstance(content.get("device"), dict):
            continue
        if content["device"].get("bench") != "device":
            continue
        words = content["device"]["name"].lower().split()
        for row in content["rows"]:
            if "us" in row:
                found[tuple(words), row["bench"], row["of"], row.get("format", ""), row.get("tokens", 0)] = row["us"]
    return found


def measured(work, found):
    cells = []
    for device in DEVICES:
        for (words, *key), us in found.items():
            if work.bench and key == [work.bench, work.of, work.format, work.tokens] and any(device.matches in w for w in words):
                cells.append(f"{device.name} {show_us(us)}")
    return ", ".join(cells) or "not measured"


def floor_us(work, device):
    return max(work.bytes / device.bytes_per_s, work.flops / device.flop_per_s) * 1e6


def show_us(us):
    return f"{us:.2f}" if us < 10 else f"{us:.1f}" if us < 100 else f"{us:,.0f}"


def show(count, units):
    for factor, unit in units:
        if count >= factor:
            return f"{count / factor:.3g} {unit}"
    return "0" if not count else f"{count:.0f} {units[-1][1]}"


def bound(work):
    by = {"bandwidth" if work.bytes / d.bytes_per_s >= work.flops / d.flop_per_s else "matrix rate" for d in DEVICES}
    return by.pop() if len(by) == 1 else "either"


HEAD = """# Roofline of the CUDA kernels

What a kernel must move and multiply at least, from its shapes alone, and the time below which no device of a kind can do it: the larger
of bytes over memory bandwidth and operations over matrix rate. Printed by `bench/gpu/roofline.py`, and held to it by a test; change that.

**Counted.** Weights once, as packed (bf16 2 bytes; Q4_K 0.625, codes and scales). Inputs of linears bf16; the residual stream, queries and logits
float32; keys and values bf16, or int8 with a float32 scale for each of a head's (`--kv-dtype int8`). A linear that adds to the residual stream reads and writes it. Attention reads each sequence's keys and values
once. Operations are multiplications and additions of matrices and attention scores; what rides along with bytes is not counted. Adapters:
A and B in bf16, inputs, and what they add, which is written and read back.

**Peaks**, as data sheets state them, dense: {peaks}. What a device copies in fact lies below its peak, and `mma.sync` does not reach Hopper's
full matrix rate, which needs other instructions; `bench/gpu.sh` measures both first and holds kernels to what it measured.

**Two more floors** that shapes do not show. *Instructions*: a multiprocessor issues four a cycle, and codes of 4 bits take some to become
weights; of the kernels for few tokens `python3 tests/gpu/check_kernels.py sass build/release` prints which share of its issue slots a device
needs at 80% of its bandwidth, and a test holds them to `tests/gpu/kernel_limits.txt`. *Shared memory*: 128 bytes a cycle; a warp of the
kernel for many tokens reads 6 KiB for 32 steps of `mma`, or, wide, 7 KiB for 48 (`kernels/cuda/cuda_linear_many.h`).

**Measured.** Times in microseconds. A cell that says *not measured* has not been: no figure of a GPU stands anywhere in this project that no file in
`bench/results` has.
"""


def document():
    peaks = "; ".join(f"{d.name} {d.bytes_per_s / 1e12:g} TB/s, {d.flop_per_s / 1e12:g} TFLOP/s" for d in DEVICES)
    lines, found = [HEAD.format(peaks=peaks)], results()
    for s in SHAPES:
        lines += [f"\n## {s.name}\n", f"{s.layers} layers, hidden {s.hidden}, inner {s.inner}, {s.heads} heads over {s.kv_heads} of {s.dim}.\n",
                  "| kernel | bytes | FLOP | bound by | " + " | ".join(f"{d.name}, us" for d in DEVICES) + " | measured, us |",
                  "|---|---|---|---|" + "---|" * (len(DEVICES) + 1)]
        for work in works_of(s):
            cells = [work.what, show(work.bytes, ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))),
                     show(work.flops, ((1e12, "T"), (1e9, "G"), (1e6, "M"))), bound(work)]
            cells += [show_us(floor_us(work, d)) for d in DEVICES] + [measured(work, found)]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(document(), end="")
