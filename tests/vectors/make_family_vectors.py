#!/usr/bin/env python3
"""Makes tests/vectors/families: a tiny random model of each decoder family as GGUF, and the logits
that the reference implementation gives for it. tests/unit/test_families.c reads both.

For each particular of a family there is a spoiled twin too: the logits of a model that gets this one
thing wrong. A correct forward pass misses them by far; so a vector that could not tell the two apart
shows up here (the script fails) and in the test.

Weights are drawn so that logits have a standard deviation of 2 or more, and rounded to float16, the
type of the matrices in the files. Prompts cross the window, page and rope-scaling borders.

Needs transformers 4.57, torch, gguf, numpy:  python make_family_vectors.py
"""
# SPDX-License-Identifier: Apache-2.0
import json
import math
import pathlib
import re

import gguf
import numpy as np
import torch
import transformers as tf

HERE = pathlib.Path(__file__).parent / "families"
VOCAB = 304  # rows; the tokenizer has a few less
HIDDEN, INNER = 64, 96
MERGES = 33
GREEDY_TOKENS = 32
MISS = 1e-4  # a spoiled twin is at least so far off, as a part of the logits' range

COMMON = dict(vocab_size=VOCAB, hidden_size=HIDDEN, intermediate_size=INNER, num_hidden_layers=2,
              num_attention_heads=4, num_key_value_heads=2, rms_norm_eps=1e-5,
              max_position_embeddings=256, attn_implementation="eager", use_cache=False,
              bos_token_id=1, eos_token_id=2, pad_token_id=0)


# --- the models -------------------------------------------------------------------------------

def gain_of(name, family):
    """Standard deviation of a matrix's output over that of its input."""
    if "embed_tokens" in name:
        if family.get("tied"):
            return family.get("logit_std", 3.0)
        return math.sqrt(HIDDEN)
    if "lm_head" in name:
        return family.get("logit_std", 3.0)
    for part, gain in (("q_proj", 1.7), ("k_proj", 1.7), ("qkv_proj", 1.5), ("v_proj", 1.2),
                       ("o_proj", 2.0), ("gate", 1.5), ("up_proj", 1.2), ("down_proj", 2.0)):
        if part in name:
            return gain
    raise KeyError(name)


def fill(model, family, seed):
    random = np.random.default_rng(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            values = random.standard_normal(tuple(weight.shape)).astype(np.float32)
            if weight.dim() == 2:
                values *= gain_of(name, family) / math.sqrt(weight.shape[1])
                values = values.astype(np.float16).astype(np.float32)
            elif name.endswith("bias"):
                values *= 0.7
            else:
                values *= 0.3
                if not family["arch"].startswith("gemma"):
                    values += 1
                elif "post_feedforward" in name:
                    values += 2  # the two forms of gelu differ little: let the MLP weigh more
            weight.copy_(torch.from_numpy(values))


def make_model(family, **changes):
    """A fresh one each time: rope scalings of the reference keep state between calls."""
    own = {**COMMON, **family["config"], **changes}
    own["tie_word_embeddings"] = bool(family.get("tied"))
    model = family["model"](family["config_class"](**own)).eval().float()
    fill(model, family, family["seed"])
    with torch.no_grad():
        family.get("finish", lambda made: None)(model)
    if family.get("tied"):
        model.tie_weights()
    return model


def logits_of(model, ids):
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits[0].float().numpy()


def greedy(family, ids, count):
    """Each token from a whole prompt, without a cache: what a scaling does to the first ones counts."""
    ids = list(ids)
    for _ in range(count):
        ids.append(int(np.argmax(logits_of(make_model(family), ids)[-1])))
    return ids[-count:]


# --- GGUF -------------------------------------------------------------------------------------

def tensor_name(name, gemma):
    if name in ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"):
        return {"model.embed_tokens.weight": "token_embd.weight", "lm_head.weight": "output.weight",
                "model.norm.weight": "output_norm.weight"}[name]
    layer, part, kind = re.fullmatch(r"model\.layers\.(\d+)\.(.*)\.(weight|bias)", name).groups()
    parts = {
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "post_attention_norm" if gemma else "ffn_norm",
        "pre_feedforward_layernorm": "ffn_norm", "post_feedforward_layernorm": "post_ffw_norm",
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.qkv_proj": "attn_qkv", "self_attn.o_proj": "attn_output",
        "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
        "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.gate_up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }
    return f"blk.{layer}.{parts[part]}.{kind}"


def interleave(weight, heads):
    """Rows of a head from halves to neighbouring pairs, as files of the llama architecture have them."""
    rows, cols = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, cols).swapaxes(1, 2).reshape(rows, cols)


SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def read_tokenizer():
    """The byte-level one of tests/unit/gguf_builder.h. -> tokens, pairs"""
    header = (HERE.parent.parent / "unit" / "gguf_builder.h").read_text()
    listed = header[header.index("TINY_MERGES[][2]"):header.index("enum {\n    TINY_SPECIALS")]
    space = "\u0120"
    merges = []
    for pair in re.findall(r"\{((?:TINY_SPACE|\"(?:[^\"\\]|\\.)*\"|\s)+),((?:TINY_SPACE|\"(?:[^\"\\]|\\.)*\"|\s)+)\}",
                           listed):
        both = []
        for side in pair:
            text = "".join(space if t == "TINY_SPACE" else t[1:-1].replace("\\xC4\\x8A", "\u010a")
                           for t in re.findall(r"TINY_SPACE|\"[^\"]*\"", side))
            both.append(text)
        merges.append(tuple(both))
    assert len(merges) == MERGES, len(merges)
    hidden = 0
    symbols = []
    for byte in range(256):
        if 0x21 <= byte <= 0x7e or 0xa1 <= byte <= 0xac or byte >= 0xae:
            symbols.append(chr(byte))
        else:
            symbols.append(chr(256 + hidden))
            hidden += 1
    return SPECIALS + symbols + [a + b for a, b in merges], merges


def write_tokenizer(writer):
    tokens, merges = read_tokenizer()
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3] * 3 + [1] * (len(tokens) - 3))
    writer.add_token_merges([f"{a} {b}" for a, b in merges])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)


def write_gguf(family, model, packed={}):
    """packed: blocks and their type by the tensor's name in the file; the others are float16."""
    config = model.config
    arch, gemma = family["arch"], family["arch"].startswith("gemma")
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    writer = gguf.GGUFWriter(HERE / f"{family['name']}.gguf", arch)
    writer.add_name(f"tiny {family['name']}")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_theta)
    if head_dim * heads != config.hidden_size:
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
    family["keys"](writer, config)
    write_tokenizer(writer)
    for name, tensor in family.get("tensors", {}).items():
        writer.add_tensor(name, np.asarray(tensor, dtype=np.float32))
    for name, weight in model.named_parameters():
        values = weight.detach().numpy()
        if tensor_name(name, gemma) in packed:
            blocks, kind = packed[tensor_name(name, gemma)]
            writer.add_tensor(tensor_name(name, gemma), blocks, raw_dtype=kind)
            continue
        if arch == "llama" and ("q_proj" in name or "k_proj" in name):
            values = interleave(values, heads if "q_proj" in name else kv_heads)
        if gemma and "norm" in name:
            values = values + 1
        values = values.astype(np.float16 if values.ndim == 2 else np.float32)
        writer.add_tensor(tensor_name(name, gemma), np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


# --- spoilers: functions of a made model, or changes of its configuration ---------------------

class Through(torch.nn.Module):
    def forward(self, x):
        return x


def without(*names):
    """Modules of a layer by their last name, skipped."""
    def spoil(model):
        for module in list(model.modules()):
            for name in names:
                if name in module._modules:
                    module._modules[name] = Through()
    return spoil


def every_parameter(match, change):
    def spoil(model):
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if re.search(match, name):
                    weight.copy_(change(weight))
    return spoil


def wrong_rotation(model):
    """As if pairs were neighbours where they are halves, or the reverse."""
    config = model.config
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if not re.search(r"(q|k|qkv)_proj\.weight", name):
                continue
            values = weight.numpy().copy()
            rows = {"q_proj": heads, "k_proj": kv_heads}.get(name.split(".")[-2], heads + kv_heads)
            values[:rows * head_dim] = interleave(values[:rows * head_dim], rows)
            weight.copy_(torch.from_numpy(values))


def kv_before_q(model):
    """The fused matrix read in another order."""
    config = model.config
    query = config.num_attention_heads * (config.hidden_size // config.num_attention_heads)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "qkv_proj" in name:
                weight.copy_(torch.cat([weight[-query:], weight[:-query]]))


def up_before_gate(model):
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "gate_up_proj" in name:
                half = weight.shape[0] // 2
                weight.copy_(torch.cat([weight[half:], weight[:half]]))


def no_attention_factor(model):
    model.model.rotary_emb.attention_scaling = 1.0


def no_embedding_scale(model):
    model.model.embed_tokens.embed_scale = torch.tensor(1.0)


def gemma2_unscaled(model):
    with torch.no_grad():
        size = math.sqrt(model.config.hidden_size)
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.clone())
        model.model.embed_tokens.weight.copy_(model.model.embed_tokens.weight / size)


def slide_others(model):
    """Window and full layers swapped."""
    for layer in model.model.layers:
        sliding = layer.attention_type == "full_attention"
        layer.attention_type = "sliding_attention" if sliding else "full_attention"
        layer.self_attn.is_sliding = sliding


# --- the families -----------------------------------------------------------------------------

def divisors(config):
    """What a converter writes into rope_freqs.weight: plain frequencies over scaled ones."""
    scaled, _ = tf.modeling_rope_utils.ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    dim = config.hidden_size // config.num_attention_heads
    plain = 1.0 / (config.rope_theta ** (torch.arange(0, dim, 2).float() / dim))
    return (plain / scaled).numpy()


def prompt(seed, count):
    return [int(i) for i in np.random.default_rng(seed).integers(3, 259, count)]


LLAMA3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=32)
YARN = dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=32)


def yarn_keys(writer, config):
    writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    writer.add_rope_scaling_factor(config.rope_scaling["factor"])
    writer.add_rope_scaling_orig_ctx_len(config.rope_scaling["original_max_position_embeddings"])


def gemma2_keys(writer, config):
    writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
    writer.add_final_logit_softcapping(config.final_logit_softcapping)
    writer.add_sliding_window(config.sliding_window)
    writer.add_attention_scale(config.query_pre_attn_scalar ** -0.5)


def gemma3_keys(writer, config):
    writer.add_sliding_window(config.sliding_window)
    writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
    writer.add_rope_scaling_factor(config.rope_scaling["factor"])
    writer.add_attention_scale(config.query_pre_attn_scalar ** -0.5)


def longrope_lists(pairs):
    return ([1.0 + 0.2 * i for i in range(pairs)], [1.5 + 1.5 * i for i in range(pairs)])


def phi_keys(writer, config):
    head_dim = config.hidden_size // config.num_attention_heads
    rotary = int(head_dim * config.partial_rotary_factor)
    writer.add_rope_dimension_count(rotary)
    writer.add_sliding_window(config.sliding_window or 0)
    if config.rope_scaling:
        original = config.original_max_position_embeddings
        stretch = config.max_position_embeddings / original
        writer.add_rope_scaling_orig_ctx_len(original)
        writer.add_rope_scaling_attn_factors(math.sqrt(1 + math.log(stretch) / math.log(original)))


SHORT, LONG = longrope_lists(8)
SHORT_PART, LONG_PART = longrope_lists(6)
LONGROPE = dict(type="longrope", short_factor=SHORT, long_factor=LONG)
LONGROPE_PART = dict(type="longrope", short_factor=SHORT_PART, long_factor=LONG_PART)

FAMILIES = [
    dict(name="llama3", arch="llama", seed=1, tied=True,
         model=tf.LlamaForCausalLM, config_class=tf.LlamaConfig,
         config=dict(rope_theta=10000.0, rope_scaling=LLAMA3), keys=lambda w, c: None,
         prompts=[prompt(11, 90)],
         spoiled={"rope scaling off": dict(rope_scaling=None),
                  "linear scaling": dict(rope_scaling=dict(rope_type="linear", factor=8.0)),
                  "another original context": dict(rope_scaling={**LLAMA3, "original_max_position_embeddings": 64}),
                  "wrong rotation": wrong_rotation}),
    dict(name="qwen2", arch="qwen2", seed=2,
         model=tf.Qwen2ForCausalLM, config_class=tf.Qwen2Config,
         config=dict(rope_theta=10000.0, rope_scaling=YARN), keys=yarn_keys,
         prompts=[prompt(12, 90)],
         spoiled={"no bias": every_parameter(r"\.bias$", torch.zeros_like),
                  "no k bias": every_parameter(r"k_proj\.bias$", torch.zeros_like),
                  "yarn off": dict(rope_scaling=None),
                  "yarn without attention factor": dict(rope_scaling={**YARN, "attention_factor": 1.0}),
                  "wrong rotation": wrong_rotation}),
    dict(name="qwen3", arch="qwen3", seed=3, tied=True,
         model=tf.Qwen3ForCausalLM, config_class=tf.Qwen3Config,
         config=dict(rope_theta=10000.0, head_dim=32), keys=lambda w, c: None,
         prompts=[prompt(13, 70)],
         spoiled={"no qk-norm": without("q_norm", "k_norm"),
                  "qk-norm without weights": every_parameter(r"[qk]_norm", torch.ones_like),
                  "another theta": dict(rope_theta=1000000.0),
                  "wrong rotation": wrong_rotation}),
    dict(name="gemma3", arch="gemma3", seed=4, tied=True, logit_std=3.0,
         model=tf.Gemma3ForCausalLM, config_class=tf.Gemma3TextConfig,
         config=dict(num_hidden_layers=7, num_key_value_heads=1, head_dim=16, sliding_window=20,
                     query_pre_attn_scalar=10, rope_theta=1000000.0, rope_local_base_freq=10000.0,
                     rope_scaling=dict(rope_type="linear", factor=8.0), rms_norm_eps=1e-6),
         keys=gemma3_keys, prompts=[prompt(14, 90)],
         spoiled={"window one less": dict(sliding_window=19),
                  "window one more": dict(sliding_window=21),
                  "no window": dict(sliding_window=256),
                  "full layer one earlier": dict(sliding_window_pattern=5),
                  "linear scaling off": dict(rope_scaling=None),
                  "one theta": dict(rope_local_base_freq=1000000.0),
                  "scale by head": dict(query_pre_attn_scalar=16),
                  "exact gelu": dict(hidden_activation="gelu"),
                  "silu": dict(hidden_activation="silu"),
                  "norms without their 1": every_parameter("norm", lambda w: w - 1),
                  "no embedding scale": no_embedding_scale,
                  "no qk-norm": without("q_norm", "k_norm"),
                  "no post norms": without("post_attention_layernorm", "post_feedforward_layernorm"),
                  "wrong rotation": wrong_rotation}),
    dict(name="gemma2", arch="gemma2", seed=5, tied=True, logit_std=3.0,
         model=tf.Gemma2ForCausalLM, config_class=tf.Gemma2Config,
         config=dict(num_hidden_layers=3, head_dim=32, sliding_window=20, query_pre_attn_scalar=24,
                     attn_logit_softcapping=3.0, final_logit_softcapping=8.0, rms_norm_eps=1e-6),
         keys=gemma2_keys, prompts=[prompt(15, 90)],
         spoiled={"window one less": dict(sliding_window=19),
                  "window one more": dict(sliding_window=21),
                  "window layers swapped": slide_others,
                  "no score cap": dict(attn_logit_softcapping=None),
                  "no logit cap": dict(final_logit_softcapping=None),
                  "scale by head": dict(query_pre_attn_scalar=32),
                  "exact gelu": dict(hidden_activation="gelu"),
                  "norms without their 1": every_parameter("norm", lambda w: w - 1),
                  "no embedding scale": gemma2_unscaled,
                  "no post norms": without("post_attention_layernorm", "post_feedforward_layernorm"),
                  "wrong rotation": wrong_rotation}),
    dict(name="phi3", arch="phi3", seed=6,
         model=tf.Phi3ForCausalLM, config_class=tf.Phi3Config,
         config=dict(rope_theta=10000.0, rope_scaling=LONGROPE, sliding_window=37,
                     original_max_position_embeddings=64), keys=phi_keys,
         tensors={"rope_factors_short.weight": SHORT, "rope_factors_long.weight": LONG},
         prompts=[prompt(16, 30), prompt(17, 64), prompt(18, 65), prompt(19, 100)],
         spoiled={"lists swapped": dict(rope_scaling=dict(type="longrope", short_factor=LONG, long_factor=SHORT)),
                  "no lists": dict(rope_scaling=None),
                  "no attention factor": no_attention_factor,
                  "kv before q": kv_before_q,
                  "up before gate": up_before_gate,
                  "window one less": dict(sliding_window=36),
                  "window one more": dict(sliding_window=38),
                  "wrong rotation": wrong_rotation}),
    dict(name="phi4", arch="phi3", seed=7, tied=True,
         model=tf.Phi3ForCausalLM, config_class=tf.Phi3Config,
         config=dict(rope_theta=10000.0, rope_scaling=LONGROPE_PART, partial_rotary_factor=0.75,
                     sliding_window=None, original_max_position_embeddings=64), keys=phi_keys,
         tensors={"rope_factors_short.weight": SHORT_PART, "rope_factors_long.weight": LONG_PART},
         prompts=[prompt(20, 50), prompt(21, 80)],
         spoiled={"whole heads rotate": dict(partial_rotary_factor=1.0, rope_scaling=LONGROPE),
                  "lists swapped": dict(rope_scaling=dict(type="longrope", short_factor=LONG_PART,
                                                          long_factor=SHORT_PART)),
                  "wrong rotation": wrong_rotation}),
    dict(name="mistral", arch="llama", seed=8,
         model=tf.MistralForCausalLM, config_class=tf.MistralConfig,
         config=dict(rope_theta=10000.0, head_dim=32, sliding_window=20),
         keys=lambda w, c: w.add_sliding_window(c.sliding_window), prompts=[prompt(22, 90)],
         spoiled={"window one less": dict(sliding_window=19),
                  "window one more": dict(sliding_window=21),
                  "no window": dict(sliding_window=None),
                  "wrong rotation": wrong_rotation}),
]


# --- cases ------------------------------------------------------------------------------------

def reference_rows(count):
    wanted = {0, 1, 15, 16, 17, 19, 20, 21, 31, 32, 33, 36, 37, 38, 63, 64, count - 2, count - 1}
    return sorted(i for i in wanted if i < count)


def spoiled_logits(family, how, ids):
    if isinstance(how, dict):
        return logits_of(make_model(family, **how), ids)
    model = make_model(family)
    how(model)
    return logits_of(model, ids)


def make_family(family, lines):
    write_gguf(family, make_model(family))
    with open(HERE / f"{family['name']}.f32", "wb") as out:
        def add(ids, rows, logits, more):
            lines.append(json.dumps({"model": family["name"], "ids": ids, "rows": rows,
                                     "offset": out.tell() // 4, **more}))
            out.write(logits[rows].astype("<f4").tobytes())

        missed = {}
        for ids in family["prompts"]:
            reference = logits_of(make_model(family), ids)
            rows = reference_rows(len(ids))
            span = float(reference.max() - reference.min())
            add(ids, rows, reference, {"greedy": greedy(family, ids, GREEDY_TOKENS)})
            print(f"{family['name']}: {len(ids)} tokens, std {reference.std():.2f}, range {span:.1f}")
            assert reference.std() >= 2
            for name, how in family["spoiled"].items():
                logits = spoiled_logits(family, how, ids)
                distance = np.abs(logits - reference)[rows].max(axis=1)
                worst = sorted(rows[i] for i in np.argsort(distance)[-2:])
                missed[name] = max(missed.get(name, 0), float(distance.max()) / span)
                print(f"    {name}: {distance.max() / span:.2e} of the range")
                if distance.max() / span >= MISS:
                    add(ids, worst, logits, {"spoiled": name})
        for name, distance in missed.items():
            assert distance >= MISS, f"{family['name']}, {name}: the vector cannot tell"


def main():
    lines = []
    HERE.mkdir(exist_ok=True)
    for family in FAMILIES:
        if "rope_scaling" in family["config"] and family["config"]["rope_scaling"] is LLAMA3:
            family["tensors"] = {"rope_freqs.weight": divisors(make_model(family).config)}
        make_family(family, lines)
    (HERE / "cases.jsonl").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
