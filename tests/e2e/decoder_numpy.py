"""Gemma 3 and Qwen 2 in numpy, float32: one prefill, logits in blocks. The reference for many positions, without torch.

It is itself held to the committed logits of transformers (test_real_models.py) before it judges anyone.
"""
# SPDX-License-Identifier: Apache-2.0
import gguf
import numpy as np


class Decoder:
    BLOCK = 64  # positions whose logits are there at once

    def __init__(self, path):
        reader = gguf.GGUFReader(path)
        self.arch = reader.fields["general.architecture"].contents()
        key = lambda name: reader.fields[f"{self.arch}.{name}"].contents()
        self.layers, self.heads = key("block_count"), key("attention.head_count")
        self.kv_heads, self.eps = key("attention.head_count_kv"), key("attention.layer_norm_rms_epsilon")
        self.theta = key("rope.freq_base")
        self.weights = {t.name: np.asarray(gguf.quants.dequantize(t.data, t.tensor_type), np.float32)
                        for t in reader.tensors}
        self.gemma = self.arch == "gemma3"
        self.window = key("attention.sliding_window") if self.gemma else None
        self.output = self.weights.get("output.weight", self.weights["token_embd.weight"])

    def slides(self, layer):
        return self.gemma and (layer + 1) % 6 != 0

    def norm(self, x, name):
        """Gemma's 1 + w stands in the file as it is used."""
        scale = 1 / np.sqrt(np.mean(x * x, -1, keepdims=True) + np.float32(self.eps))
        return x * scale * self.weights[name + ".weight"]

    def linear(self, x, name):
        out = x @ self.weights[name + ".weight"].T
        return out + self.weights[name + ".bias"] if name + ".bias" in self.weights else out

    def rotate(self, x, theta):
        """x [n, heads, d]: element i turns with element i + d / 2."""
        count, _, size = x.shape
        frequency = (theta ** (-np.arange(0, size, 2) / size)).astype(np.float32)
        angle = (np.arange(count, dtype=np.float32)[:, None] * frequency)[:, None, :]
        cos, sin = np.cos(angle.astype(np.float64)), np.sin(angle.astype(np.float64))
        first, second = x[..., : size // 2], x[..., size // 2 :]
        return np.concatenate([first * cos - second * sin, second * cos + first * sin], -1).astype(np.float32)

    def mask(self, count, layer):
        behind = np.arange(count)[:, None] - np.arange(count)
        seen = (behind >= 0) & (behind < self.window) if self.slides(layer) else behind >= 0
        return np.where(seen, np.float32(0), np.float32(-np.inf))

    def attention(self, x, layer):
        count, blk = len(x), f"blk.{layer}."
        heads = lambda part, n: self.linear(x, f"{blk}attn_{part}").reshape(count, n, -1)
        q, k, v = heads("q", self.heads), heads("k", self.kv_heads), heads("v", self.kv_heads)
        if self.gemma:
            q, k = self.norm(q, blk + "attn_q_norm"), self.norm(k, blk + "attn_k_norm")
        theta = 10000.0 if self.slides(layer) else self.theta
        q, k = self.rotate(q, theta), self.rotate(k, theta)
        group, mask, out = self.heads // self.kv_heads, self.mask(count, layer), np.empty_like(q)
        for head in range(self.heads):
            scores = q[:, head] @ k[:, head // group].T * np.float32(q.shape[-1] ** -0.5) + mask
            scores = np.exp(scores - scores.max(-1, keepdims=True))
            out[:, head] = scores / scores.sum(-1, keepdims=True) @ v[:, head // group]
        out = self.linear(out.reshape(count, -1), blk + "attn_output")
        return self.norm(out, blk + "post_attention_norm") if self.gemma else out

    def activation(self, x):
        if self.gemma:
            return 0.5 * x * (1 + np.tanh(np.float32((2 / np.pi) ** 0.5) * (x + np.float32(0.044715) * x * x * x)))
        return x / (1 + np.exp(-x))

    def mlp(self, x, layer):
        blk = f"blk.{layer}."
        out = self.activation(self.linear(x, blk + "ffn_gate")) * self.linear(x, blk + "ffn_up")
        out = self.linear(out, blk + "ffn_down")
        return self.norm(out, blk + "post_ffw_norm") if self.gemma else out

    def hidden(self, ids):
        x = self.weights["token_embd.weight"][np.asarray(ids)]
        if self.gemma:
            x = x * np.float32(x.shape[-1] ** 0.5)
        for layer in range(self.layers):
            x = x + self.attention(self.norm(x, f"blk.{layer}.attn_norm"), layer)
            x = x + self.mlp(self.norm(x, f"blk.{layer}.ffn_norm"), layer)
        return self.norm(x, "output_norm")

    def logits(self, ids):
        """Yields (first position, [up to BLOCK, vocabulary] float32)."""
        x = self.hidden(ids)
        for first in range(0, len(x), self.BLOCK):
            yield first, x[first : first + self.BLOCK] @ self.output.T
