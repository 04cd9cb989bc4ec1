"""A Llama in numpy, float32: one prefill, all logits. The reference for thousands of positions, without torch.

It is itself held to the committed logits of transformers (test_accuracy.py) before it judges anyone.
"""
# SPDX-License-Identifier: Apache-2.0
import gguf
import numpy as np


class Llama:
    def __init__(self, path):
        reader = gguf.GGUFReader(path)
        key = lambda name: reader.fields["llama." + name].contents()
        self.layers, self.heads = key("block_count"), key("attention.head_count")
        self.kv_heads, self.eps = key("attention.head_count_kv"), key("attention.layer_norm_rms_epsilon")
        self.theta = key("rope.freq_base")
        self.weights = {t.name.removesuffix(".weight"): gguf.quants.dequantize(t.data, t.tensor_type)
                        for t in reader.tensors}

    def norm(self, x, name):
        scale = 1 / np.sqrt(np.mean(x * x, -1, keepdims=True) + self.eps)
        return x * scale * self.weights[name]

    def rotate(self, x):
        """x [n, heads, d]; the file's rows are in the order of interleaved pairs (2i, 2i + 1)."""
        count, _, size = x.shape
        frequency = self.theta ** (-np.arange(0, size, 2) / size)
        angle = (np.arange(count)[:, None] * frequency)[:, None, :]
        cos, sin = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
        out = np.empty_like(x)
        out[..., 0::2] = x[..., 0::2] * cos - x[..., 1::2] * sin
        out[..., 1::2] = x[..., 0::2] * sin + x[..., 1::2] * cos
        return out

    def attention(self, x, layer):
        linear = lambda part: x @ self.weights[f"blk.{layer}.attn_{part}"].T
        count = len(x)
        q = self.rotate(linear("q").reshape(count, self.heads, -1))
        k = self.rotate(linear("k").reshape(count, self.kv_heads, -1))
        v = linear("v").reshape(count, self.kv_heads, -1)
        group, size = self.heads // self.kv_heads, q.shape[-1]
        mask = np.triu(np.full((count, count), -np.inf, np.float32), 1)
        out = np.empty_like(q)
        for head in range(self.heads):
            scores = q[:, head] @ k[:, head // group].T * np.float32(size**-0.5) + mask
            scores = np.exp(scores - scores.max(-1, keepdims=True))
            out[:, head] = scores / scores.sum(-1, keepdims=True) @ v[:, head // group]
        return out.reshape(count, -1) @ self.weights[f"blk.{layer}.attn_output"].T

    def mlp(self, x, layer):
        gate = x @ self.weights[f"blk.{layer}.ffn_gate"].T
        up = x @ self.weights[f"blk.{layer}.ffn_up"].T
        return (gate / (1 + np.exp(-gate)) * up) @ self.weights[f"blk.{layer}.ffn_down"].T

    def logits(self, ids):
        """[len(ids), vocabulary] float32."""
        x = self.weights["token_embd"][np.asarray(ids)]
        for layer in range(self.layers):
            x = x + self.attention(self.norm(x, f"blk.{layer}.attn_norm"), layer)
            x = x + self.mlp(self.norm(x, f"blk.{layer}.ffn_norm"), layer)
        return self.norm(x, "output_norm") @ self.weights["token_embd"].T
