"""The rows: what is measured, on which sides, and the bars.

A side is an engine with a format: ours is Espalier with the GGUF file, ours-bf16 Espalier with the bf16 folder (as
vllm), ours-int8 the GGUF file with --activations int8.
"""
# SPDX-License-Identifier: Apache-2.0
from dataclasses import dataclass, replace

SMOL, GEMMA, QWEN = "SmolLM2-135M-Instruct.Q4_1.gguf", "gemma-3-270m-q4_k_m.gguf", "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"
OURS, OURS_BF16, OURS_INT8, LLAMA, VLLM = "ours", "ours-bf16", "ours-int8", "llama.cpp", "vllm"
PEERS = (LLAMA, VLLM)


@dataclass(frozen=True)
class Bar:
    """figure of ours, divided by peer's, against least or most; without a peer the figure itself."""
    figure: str
    ours: str = OURS
    peer: str = None
    least: float = None
    most: float = None

    def met(self, value):
        return value >= self.least if self.least is not None else value <= self.most

    def text(self):
        if self.least is None and self.most is None:
            return "-"
        sign, bar = (">=", self.least) if self.least is not None else ("<=", self.most)
        return f"{sign} {bar:.3g}"


@dataclass(frozen=True)
class Case:
    name: str
    kind: str  # offline, serve, start, memory or quality: a function of measure.py
    bars: tuple
    model: str = SMOL
    prompt: int = 128
    output: int = 64
    streams: int = 1
    adapters: int = 0  # requests go round so many, of rank 16 on all linears; 0: the base alone
    rounds_max: int = 1000

    def all_bars(self):
        """With those of ours-int8: its speed is shown, its divergence must not be above llama.cpp's."""
        int8 = tuple(replace(bar, ours=OURS_INT8, least=None, most=1 if self.kind == "quality" else None)
                     for bar in self.bars if (bar.ours, bar.peer) == (OURS, LLAMA) and self.kind in ("offline", "serve", "quality"))
        return self.bars + int8

    def sides(self):
        """In the order in which a round takes them: who is compared stands side by side."""
        wanted = {side for bar in self.all_bars() for side in (bar.ours, bar.peer)}
        return [side for side in (OURS, LLAMA, OURS_INT8, OURS_BF16, VLLM) if side in wanted]


def speed(name, figure, llama, vllm, also=(), **shape):
    bars = [Bar(figure, OURS, LLAMA, least=llama)]
    bars += [Bar(figure, OURS_BF16, VLLM, least=vllm)] * (vllm is not None)
    bars += [Bar(figure, OURS, VLLM, least=least) for least in also]
    return Case(name, "offline", tuple(bars), **shape)


def served(clients, bars):
    return Case(f"serve-{clients}", "serve", bars, streams=clients)


def beside(peer, ours, **bars):
    """Bars of several figures beside one peer; a bar of None is shown without a verdict."""
    out = []
    for figure, bar in bars.items():
        more = figure == "output_tok_s"
        out.append(Bar(figure, ours, peer, least=bar if more else None, most=None if more else bar))
    return tuple(out)


def many(clients):
    return served(clients, beside(LLAMA, OURS, output_tok_s=4, ttft_p50_ms=None, ttft_p99_ms=1 / 4, itl_p50_ms=None,
                                  itl_p99_ms=1 / 2) +
                  beside(VLLM, OURS_BF16, output_tok_s=2, ttft_p50_ms=None, ttft_p99_ms=None, itl_p50_ms=None, itl_p99_ms=None) +
                  beside(VLLM, OURS, output_tok_s=None))


def adapted(clients, adapters):
    return Case(f"lora-{clients}", "serve",
                beside(LLAMA, OURS, output_tok_s=10, ttft_p50_ms=None, ttft_p99_ms=1 / 10, itl_p50_ms=None, itl_p99_ms=None) +
                beside(VLLM, OURS, output_tok_s=10, ttft_p50_ms=None, ttft_p99_ms=None) +
                beside(VLLM, OURS_BF16, output_tok_s=None), streams=clients, adapters=adapters)


def quality(name, model):
    return Case(name, "quality", (Bar("kl", OURS, most=3e-4), Bar("kl", OURS, LLAMA, most=1 / 5)), model=model, prompt=512,
                rounds_max=1)


CASES = (
    speed("prefill-512", "prefill_tok_s", 5, 2, prompt=512, output=1),
    speed("decode-1", "decode_tok_s", 2, 2.5, output=128),
    speed("decode-16", "decode_tok_s", 4, 2, also=(2,), streams=16),
    speed("decode-32", "decode_tok_s", 4, 2, also=(2,), streams=32),
    speed("prefill-16", "prefill_tok_s", 6, 2, output=1, streams=16),
    speed("prefill-32", "prefill_tok_s", 6, 2, output=1, streams=32),
    speed("gemma3-prefill-512", "prefill_tok_s", 4, None, model=GEMMA, prompt=512, output=1),
    speed("gemma3-decode-1", "decode_tok_s", 1.6, None, model=GEMMA, output=128),
    speed("qwen2-prefill-512", "prefill_tok_s", 4, None, model=QWEN, prompt=512, output=1),
    speed("qwen2-decode-1", "decode_tok_s", 1.6, None, model=QWEN, output=128),
    served(1, beside(LLAMA, OURS, output_tok_s=2, ttft_p50_ms=1 / 4, itl_p50_ms=1 / 2) +
           beside(VLLM, OURS_BF16, output_tok_s=4, ttft_p50_ms=None, itl_p50_ms=None)),
    many(16),
    many(32),
    adapted(16, 8),
    Case("start", "start", (Bar("start_s", OURS, most=0.3), Bar("start_s", OURS, LLAMA, most=1),
                            Bar("start_s", OURS, VLLM, most=1 / 50))),
    Case("memory", "memory", (Bar("peak_rss_mb", OURS, LLAMA, most=1), Bar("peak_rss_mb", OURS_BF16, VLLM, most=1 / 5)),
         prompt=448, streams=16, rounds_max=2),
    quality("quality", SMOL),
    quality("gemma3-quality", GEMMA),
    quality("qwen2-quality", QWEN),
)
