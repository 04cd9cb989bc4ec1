"""What PyTorch takes for the same work on the same device: a row each, as bench_gpu names its own.

Linears: torch.matmul. Attention: scaled_dot_product_attention with grouped heads. Decode steps: transformers, where it
can be imported, over the same shapes with random weights. Times are medians between CUDA events, weights and keys
taken in turn from more memory than the L2 holds.
"""
# SPDX-License-Identifier: Apache-2.0
import json
import statistics
import sys

import torch
import torch.nn.functional as F

SHAPES = {  # hidden, intermediate, heads, kv heads, head dim, layers, vocabulary
    "llama-3.1-8b": (4096, 14336, 32, 8, 128, 32, 128256),
    "llama-3.2-1b": (2048, 8192, 32, 8, 64, 16, 128256),
    "gemma-2-9b": (3584, 14336, 16, 8, 256, 42, 256000),
}
TOKENS = (1, 2, 4, 8, 16, 2048)
ATTENTION = ((1, 8192, 1), (4, 8192, 1), (16, 8192, 1), (1, 2048, 2048), (1, 8192, 2048))  # sequences, keys, queries of each
RUNS, IN_A_RUN, FILL_BYTES = 7, 20, 512 << 20
CONTEXT = 512


def us_of(work, rounds):
    """Median microseconds of work(i) for i in turn."""
    for i in range(rounds):
        work(i)
    torch.cuda.synchronize()
    times = []
    for _ in range(RUNS):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        for i in range(IN_A_RUN):
            work(i % rounds)
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 1e3 / IN_A_RUN)
    return statistics.median(times)


def row(part, of, tokens, us, fmt="bf16"):
    print(json.dumps({"bench": "torch", "part": part, "of": of, "format": fmt, "tokens": tokens, "us": us}), flush=True)


def random(*shape):
    return torch.randn(*shape, device="cuda", dtype=torch.bfloat16) * 0.02


def linears(name, hidden, inner, heads, kv_heads, dim):
    sums = dict.fromkeys(TOKENS, 0.0)
    for part, rows, cols in (("qkv", (heads + 2 * kv_heads) * dim, hidden), ("o", hidden, heads * dim),
                             ("gate_up", 2 * inner, hidden), ("down", hidden, inner)):
        copies = max(1, min(64, FILL_BYTES // (rows * cols * 2)))
        weights = [random(rows, cols) for _ in range(copies)]
        for tokens in TOKENS:
            x = random(tokens, cols)
            us = us_of(lambda i: F.linear(x, weights[i]), copies)  # pylint: disable=cell-var-from-loop
            sums[tokens] += us
            row("linear", f"{name} {part}", tokens, us, "BF16")
    for tokens, us in sums.items():
        row("linear", f"{name} layer", tokens, us, "BF16")


def attention(name, heads, kv_heads, dim):
    for seqs, keys, queries in ATTENTION:
        copies = 4
        k = [random(seqs, kv_heads, keys, dim) for _ in range(copies)]
        v = [random(seqs, kv_heads, keys, dim) for _ in range(copies)]
        q = random(seqs, heads, queries, dim)
        mask = None
        if 1 < queries < keys:  # later queries see more: the lower right corner
            mask = torch.ones(queries, keys, dtype=torch.bool, device="cuda").tril(keys - queries)
        us = us_of(lambda i: F.scaled_dot_product_attention(  # pylint: disable=cell-var-from-loop
            q, k[i], v[i], attn_mask=mask, is_causal=queries == keys, enable_gqa=True), copies)
        row("attention", f"{name} {seqs} x {keys}", seqs * queries, us)


def step_us(model, seqs, vocab):
    from transformers import DynamicCache
    cache = DynamicCache()
    with torch.inference_mode():
        model(torch.randint(vocab, (seqs, CONTEXT - 1), device="cuda"), past_key_values=cache, use_cache=True, logits_to_keep=1)
        token = torch.randint(vocab, (seqs, 1), device="cuda")

        def step(_):
            model(token, past_key_values=cache, use_cache=True)
            cache.crop(CONTEXT - 1)
        return us_of(step, 2)


def build(name, hidden, inner, heads, kv_heads, dim, layers, vocab):
    """The model with random weights. Gemma's caps are in transformers' eager attention alone."""
    from transformers import Gemma2Config, Gemma2ForCausalLM, LlamaConfig, LlamaForCausalLM
    gemma = name.startswith("gemma")
    more = ({"query_pre_attn_scalar": dim, "sliding_window": 4096, "attn_implementation": "eager"} if gemma
            else {"tie_word_embeddings": "1b" in name})
    config = (Gemma2Config if gemma else LlamaConfig)(
        hidden_size=hidden, intermediate_size=inner, num_attention_heads=heads, num_key_value_heads=kv_heads, head_dim=dim,
        num_hidden_layers=layers, vocab_size=vocab, **more)
    return (Gemma2ForCausalLM if gemma else LlamaForCausalLM)(config).eval()


def models(name, hidden, inner, heads, kv_heads, dim, layers, vocab):
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("cuda"):
            model = build(name, hidden, inner, heads, kv_heads, dim, layers, vocab)
    except ImportError:
        print("transformers: not measured, it cannot be imported", file=sys.stderr)
        return
    for seqs in (1, 16):
        row("model", f"{name} decode step", seqs, step_us(model, seqs, vocab), "BF16")
    del model
    torch.cuda.empty_cache()


def main():
    for name, (hidden, inner, heads, kv_heads, dim, layers, vocab) in SHAPES.items():
        linears(name, hidden, inner, heads, kv_heads, dim)
        attention(name, heads, kv_heads, dim)
        models(name, hidden, inner, heads, kv_heads, dim, layers, vocab)


if __name__ == "__main__":
    main()
