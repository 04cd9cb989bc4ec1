"""Writes smollm2_logits.npz from transformers: the truth that the engine's numbers are held to.

    make_smollm2_logits.py MODEL.gguf                      smollm2_logits.npz, here
    make_smollm2_logits.py MODEL.gguf --kl BINARY [--device cpu]   one JSON line: mean KL and top-1 agreement
                                                           of `BINARY logits` against transformers, on texts.txt

Needs: pip install torch transformers==4.57.1 tokenizers==0.22.2 gguf==0.19.0

The reference is LlamaForCausalLM in float32 with the dequantised weights of the very same file. A Llama's
GGUF has the rows of q and k permuted for interleaved rotation (the converter's `permute`): undone here.

smollm2_logits.npz, for prompt p of PROMPTS (names in `names`):
    ids_p     [n] i32       prompt as token ids
    last_p    [vocab] f32   logits of the last position
    sample_p  [n, 160] f32  logits of every position in the columns `columns` (seeded choice)
    lse_p     [n] f64       log of the sum of exp of all logits, every position
    top_p     [n, 5] i32    the five most likely ids, best first
    greedy_p  [32] i32      greedy continuation, end-of-text ignored
    margin_p  [32] f32      best minus second-best logit at each of these steps
and `texts_i` [n] i32: the sections of texts.txt (split at the lines `%%`) as ids.
"""
# SPDX-License-Identifier: Apache-2.0
import argparse
import json
import os
import subprocess
import sys
import tempfile

import gguf
import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from make_tokenizer_vectors import build

HERE = os.path.dirname(os.path.abspath(__file__))
COLUMN_COUNT, GREEDY_COUNT, SEED = 160, 32, 20240311

CHAT = ("<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\n%s<|im_end|>\n<|im_start|>assistant\n")
PROMPTS = [
    ("one", "Once"),
    ("capital", "The capital of France is"),
    ("code", "def fibonacci(n):\n    \"\"\"The n-th Fibonacci number.\"\"\"\n    if n < 2:\n        return n\n"),
    ("chat", CHAT % "Name three colours of the rainbow, please."),
    ("german", "Am Morgen lag der Nebel noch so dicht über dem Fluss, dass man das andere Ufer nur ahnen konnte."),
    ("chinese", "春眠不觉晓,处处闻啼鸟。"),
    ("emoji", "Congratulations! 🎉🎂 We hope you have a wonderful day 👩‍🚀🇫🇷, and"),
    ("json", '{"id": 4711, "customer": {"name": "M. Okafor", "city": "Leeds"}, "items": [{"sku": "A-100", "count": 2}'),
    ("chat_long", CHAT % ("I have 12 apples and 7 pears. I give away a third of the apples and buy 5 more pears. Then I "
                          "bake a cake with two pears and one apple. How many apples and how many pears are left?")),
    ("long", None),  # the first 200 tokens of texts.txt
]


def read_model(path):
    reader = gguf.GGUFReader(path)
    key = lambda name: reader.fields[name].contents()
    heads, kv_heads = key("llama.attention.head_count"), key("llama.attention.head_count_kv")
    config = LlamaConfig(
        vocab_size=key("llama.vocab_size"), hidden_size=key("llama.embedding_length"),
        intermediate_size=key("llama.feed_forward_length"), num_hidden_layers=key("llama.block_count"),
        num_attention_heads=heads, num_key_value_heads=kv_heads,
        rms_norm_eps=key("llama.attention.layer_norm_rms_epsilon"), rope_theta=key("llama.rope.freq_base"),
        max_position_embeddings=key("llama.context_length"), tie_word_embeddings=True,
        attn_implementation="eager")
    tensors = {t.name: torch.from_numpy(np.array(gguf.quants.dequantize(t.data, t.tensor_type)))
               for t in reader.tensors}
    model = LlamaForCausalLM(config).float().eval()
    missing, unexpected = model.load_state_dict(dict(hf_tensors(tensors, heads, kv_heads)), strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}, (missing, unexpected)
    model.tie_weights()
    return model


def hf_tensors(tensors, heads, kv_heads):
    names = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj",
             "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
             "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
    for name, value in tensors.items():
        if name == "token_embd.weight":
            yield "model.embed_tokens.weight", value
        elif name == "output_norm.weight":
            yield "model.norm.weight", value
        else:
            _, layer, part, _ = name.split(".")
            if part in ("attn_q", "attn_k"):
                value = unpermute(value, heads if part == "attn_q" else kv_heads)
            yield f"model.layers.{layer}.{names[part]}.weight", value


def unpermute(rows, heads):
    """GGUF's interleaved order of a head's rows -> transformers' two halves."""
    size = rows.shape[0] // heads
    return rows.reshape(heads, size // 2, 2, -1).transpose(1, 2).reshape(rows.shape).contiguous()


@torch.no_grad()
def logits_of(model, ids):
    return model(torch.tensor([ids])).logits[0].numpy()


@torch.no_grad()
def greedy(model, ids):
    picked, margins, past, step = [], [], None, torch.tensor([ids])
    for _ in range(GREEDY_COUNT):
        out = model(step, past_key_values=past, use_cache=True)
        best = torch.topk(out.logits[0, -1], 2)
        picked.append(int(best.indices[0]))
        margins.append(float(best.values[0] - best.values[1]))
        past, step = out.past_key_values, torch.tensor([[picked[-1]]])
    return np.array(picked, np.int32), np.array(margins, np.float32)


def log_sum_exp(logits):
    logits = logits.astype(np.float64)
    top = logits.max(-1, keepdims=True)
    return (top + np.log(np.exp(logits - top).sum(-1, keepdims=True)))[..., 0]


def text_sections(tokenizer):
    with open(os.path.join(HERE, "texts.txt"), encoding="utf-8") as file:
        return [tokenizer.encode(part.strip("\n"), add_special_tokens=False).ids
                for part in file.read().split("\n%%\n")]


def write_vectors(model, tokenizer):
    sections = text_sections(tokenizer)
    vocab = model.config.vocab_size
    columns = np.sort(np.random.default_rng(SEED).choice(vocab, COLUMN_COUNT, replace=False)).astype(np.int32)
    out = {"columns": columns, "names": np.array([name for name, _ in PROMPTS])}
    for i, ids in enumerate(sections):
        out[f"texts_{i}"] = np.array(ids, np.int32)
    for name, text in PROMPTS:
        ids = sections[0][:200] if text is None else tokenizer.encode(text, add_special_tokens=False).ids
        logits = logits_of(model, ids)
        out["ids_" + name] = np.array(ids, np.int32)
        out["last_" + name] = logits[-1]
        out["sample_" + name] = logits[:, columns]
        out["lse_" + name] = log_sum_exp(logits)
        out["top_" + name] = np.argsort(-logits, axis=-1, kind="stable")[:, :5].astype(np.int32)
        out["greedy_" + name], out["margin_" + name] = greedy(model, ids)
        print(f"{name}: {len(ids)} tokens, then {tokenizer.decode(out['greedy_' + name].tolist())!r}")
    np.savez_compressed(os.path.join(HERE, "smollm2_logits.npz"), **out)


def binary_logits(binary, model_path, device, ids, folder):
    path = os.path.join(folder, "logits.npy")
    subprocess.run([binary, "logits", "--model", model_path, "--device", device, "--out", path,
                    "--ids", ",".join(map(str, ids))], check=True, stdout=subprocess.DEVNULL)
    return np.load(path)


def divergence(reference, other):
    """Per position: KL(reference || other) and whether the most likely id is the same."""
    p = reference.astype(np.float64) - log_sum_exp(reference)[:, None]
    q = other.astype(np.float64) - log_sum_exp(other)[:, None]
    return (np.exp(p) * (p - q)).sum(-1), reference.argmax(-1) == other.argmax(-1)


def measure(model, tokenizer, arguments):
    kl, same, largest = [], [], 0.0
    with tempfile.TemporaryDirectory() as folder:
        for ids in text_sections(tokenizer):
            truth = logits_of(model, ids)
            ours = binary_logits(arguments.kl, arguments.model, arguments.device, ids, folder)
            a, b = divergence(truth, ours)
            kl.append(a)
            same.append(b)
            largest = max(largest, float(np.abs(truth - ours).max()))
    kl, same = np.concatenate(kl), np.concatenate(same)
    print(json.dumps({"device": arguments.device, "positions": len(kl), "mean_kl": float(kl.mean()),
                      "max_kl": float(kl.max()), "top1": float(same.mean()), "max_abs": largest}))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--kl", metavar="BINARY")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    model, tokenizer = read_model(arguments.model), build(arguments.model, True)
    if arguments.kl:
        measure(model, tokenizer, arguments)
    else:
        write_vectors(model, tokenizer)


if __name__ == "__main__":
    sys.exit(main())
