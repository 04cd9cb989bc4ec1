#!/usr/bin/env python3
"""Mean KL divergence to float32 on the same 10,000 tokens, ours and llama.cpp's; a JSON row a side.

    quality.py --espalier BIN --model FILE.gguf --work FOLDER --sides ours,llama.cpp [--llama llama-perplexity] [--threads 2]

Text is cut into windows of 512 tokens and judged in the second half of each, as llama-perplexity does it. Reference:
tests/e2e's numpy models on the file's weights, dequantised, float32. llama-perplexity --save-all-logits keeps log
probabilities in 16 bits, and those more than 16 below the best one as "less": ids that it keeps so are one event,
"another id", for every side.
"""
# SPDX-License-Identifier: Apache-2.0
import argparse
import hashlib
import json
import os
import subprocess
import sys

import numpy as np

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tests", "e2e"))

WINDOW, WINDOWS = 512, 40
FIRST = WINDOW // 2
POSITIONS = WINDOW - 1 - FIRST
TEXT_BYTES = 120_000


def text():
    """Of every Python's own manual: long, the same everywhere, and no model's calibration set."""
    from pydoc_data.topics import topics
    return "\n\n".join(topics[name] for name in sorted(topics))[:TEXT_BYTES]


def tokenize(options, path):
    with open(path, "rb") as file:
        done = subprocess.run([options.espalier, "tokenize", "--model", options.model], stdin=file, stdout=subprocess.PIPE, check=True)
    ids = json.loads(done.stdout)
    if len(ids) < WINDOW * WINDOWS:
        sys.exit(f"quality.py: the text has {len(ids)} tokens; wanted {WINDOW * WINDOWS}")
    return np.array(ids[: WINDOW * WINDOWS], np.int32)


class Reference:
    def __init__(self, path):
        import gguf
        fields = gguf.GGUFReader(path).fields
        read = lambda key: fields[key].contents() if key in fields else None
        self.bos = read("tokenizer.ggml.bos_token_id") if read("tokenizer.ggml.add_bos_token") else None
        if read("general.architecture") == "llama":
            from llama_numpy import Llama
            model = Llama(path)
            self.logits = lambda ids: model.logits(ids)[FIRST:-1]
        else:
            from decoder_numpy import Decoder
            decoder = Decoder(path)
            self.logits = lambda ids: decoder.hidden(ids)[FIRST:-1] @ decoder.output.T


class Ours:
    def __init__(self, options, flags):
        self.options, self.flags = options, flags
        self.path = os.path.join(options.work, "quality.npy")

    def log_probs(self, _, ids):
        subprocess.run([self.options.espalier, "logits", "--model", self.options.model, "--threads", str(self.options.threads),
                        "--ids", ",".join(map(str, ids)), "--out", self.path, *self.flags], check=True, stdout=subprocess.DEVNULL)
        logits = np.load(self.path, mmap_mode="r")[FIRST:-1]
        os.unlink(self.path)
        return log_softmax(logits)


class LlamaCpp:
    """File: "_logits_", u32 window, i32 vocabulary, i32 windows, their i32 ids; then for each judged position
    f32 scale, f32 least, u16 [vocabulary, padded to even]: log probability = least + scale * u16."""

    def __init__(self, options, path, ids):
        self.path = os.path.join(options.work, "quality.logits")
        done = subprocess.run([options.llama, "-m", options.model, "-f", path, "-t", str(options.threads), "-c", str(WINDOW), "-b",
                               str(WINDOW), "--chunks", str(WINDOWS), "--save-all-logits", self.path],
                              capture_output=True, text=True, check=False)
        if done.returncode != 0:
            sys.exit(f"llama-perplexity ended with {done.returncode}: {done.stderr.strip()[-300:]}")
        with open(self.path, "rb") as file:
            magic, (window, self.vocab, windows) = file.read(8), np.frombuffer(file.read(12), np.int32).tolist()
            theirs = np.frombuffer(file.read(4 * window * windows), np.int32)
        if (magic, window, windows) != (b"_logits_", WINDOW, WINDOWS) or not np.array_equal(theirs, ids):
            sys.exit("quality.py: llama.cpp cut the text into other tokens than Espalier")
        width = 2 * ((self.vocab + 1) // 2) + 4
        self.rows = np.memmap(self.path, np.uint16, "r", 20 + 4 * window * windows, (WINDOWS, POSITIONS, width))

    def codes(self, window):
        return self.rows[window, :, 4 : 4 + self.vocab]

    def log_probs(self, window, _):
        scale, least = np.ascontiguousarray(self.rows[window, :, :4]).view(np.float32).T
        return least[:, None] + scale[:, None] * self.codes(window).astype(np.float32)

    def close(self):
        del self.rows
        os.unlink(self.path)


def log_softmax(logits):
    top = logits.max(-1, keepdims=True)
    return logits - (top + np.log(np.exp(logits - top).sum(-1, keepdims=True, dtype=np.float64))).astype(np.float32)


def divergence(truth, other, kept):
    """KL of each position; ids not kept are one event."""
    out = np.empty(len(truth))
    for i, (p, q) in enumerate(zip(truth, other)):
        if kept is not None:
            p, q = p[kept[i]], q[kept[i]]
        p, q = p.astype(np.float64), q.astype(np.float64)
        out[i] = (np.exp(p) * (p - q)).sum()
        left, given = 1 - np.exp(p).sum(), 1 - np.exp(q).sum()
        if kept is not None and left > 1e-12:
            out[i] += left * (np.log(left) - np.log(max(given, 1e-12)))
    return out


def judge(options, path):
    ids, reference = tokenize(options, path), Reference(options.model)
    wanted = options.sides.split(",")
    llama = LlamaCpp(options, path, ids) if "llama.cpp" in wanted else None
    flags = {"ours": [], "ours-int8": ["--activations", "int8"]}
    sides = {side: llama if side == "llama.cpp" else Ours(options, flags[side]) for side in wanted}
    found = {side: ([], []) for side in sides}
    for window in range(WINDOWS):
        part = ids[window * WINDOW : (window + 1) * WINDOW].copy()
        if reference.bos is not None:
            part[0] = reference.bos
        truth = log_softmax(reference.logits(part))
        kept = llama.codes(window) > 0 if llama else None
        for side, (kl, same) in found.items():
            guess = sides[side].log_probs(window, part)
            kl.append(divergence(truth, guess, kept))
            same.append(truth.argmax(-1) == guess.argmax(-1))
        print(f"{os.path.basename(options.model)}: window {window + 1} of {WINDOWS}", file=sys.stderr)
    if llama:
        llama.close()
    for side, (kl, same) in found.items():
        kl, same = np.concatenate(kl), np.concatenate(same)
        print(json.dumps({"side": side, "kl": kl.mean(), "kl_p99": float(np.quantile(kl, 0.99)), "top1": same.mean(), "positions": len(kl),
                          "ids_sha256": hashlib.sha256(ids.tobytes()).hexdigest()}), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("espalier", "model", "work", "sides"):
        parser.add_argument("--" + name, required=True)
    parser.add_argument("--llama")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    os.makedirs(options.work, exist_ok=True)
    path = os.path.join(options.work, "quality.txt")
    with open(path, "w", encoding="utf-8") as file:
        file.write(text())
    judge(options, path)


if __name__ == "__main__":
    main()
