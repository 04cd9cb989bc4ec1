#!/usr/bin/env python3
"""Makes tests/vectors/encoders: tiny random models that embed (BERT as GGUF and as a Hugging Face
folder, XLM-RoBERTa as a folder, Qwen3 with last-token pooling as both) and the pooled states that the reference
implementation gives for them. tests/unit/test_encoders.c reads all of it.

For each particular there is a spoiled twin: the states of a model that gets this one thing wrong. A
correct forward pass misses them by far; the script fails where a vector could not tell the two apart.

A case's numbers are three rows, not normalised: the mean, the first and the last token's state.
Weights are rounded to float16, the type of the matrices in the files. The BERT folder is made awkward
on purpose: names behind "bert.", a stale embeddings.position_ids, a pooler.

Needs transformers 4.57, torch, gguf, tokenizers, safetensors, numpy:  python make_encoder_vectors.py
"""
# SPDX-License-Identifier: Apache-2.0
import json
import math
import pathlib

import gguf
import numpy as np
import torch
import transformers as tf
from safetensors.numpy import save_file
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

HERE = pathlib.Path(__file__).parent / "encoders"
HIDDEN, INNER, LAYERS, HEADS, POSITIONS = 64, 96, 2, 4, 64
MISS = 5e-5  # a spoiled twin is at least so far off, as a part of the states' range
SEQ_MAX = 48  # sentence_bert_config.json's max_seq_length

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
WORDS = ["the", "cat", "sat", "on", "mat", "hello", "world", "new", "car", "red", "is", "##ing",
         "##ed", "##er", "##lo", "##at"]
PUNCTUATION = ".,!?-'"
VOCAB = (["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] + list(LETTERS) +
         ["##" + letter for letter in LETTERS] + list(PUNCTUATION) + WORDS)
CLS, SEP = 2, 3


# --- models -------------------------------------------------------------------------------------

def gain_of(name):
    for part, gain in (("embed", math.sqrt(HIDDEN)), ("query", 1.7), ("key", 1.7), ("value", 1.2),
                       ("q_proj", 1.7), ("k_proj", 1.7), ("v_proj", 1.2), ("o_proj", 1.5),
                       ("intermediate", 1.8), ("gate", 1.5), ("up_proj", 1.2), ("down_proj", 2.0),
                       ("pooler", 1.0), ("attention.output.dense", 1.5), ("output.dense", 3.0)):
        if part in name:
            return gain
    raise KeyError(name)


def fill(model, seed):
    random = np.random.default_rng(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            values = random.standard_normal(tuple(weight.shape)).astype(np.float32)
            if weight.dim() == 2:
                values *= gain_of(name) / math.sqrt(weight.shape[1])
            elif name.endswith("bias"):
                values *= 0.5
            else:
                values = values * 0.3 + 1
            weight.copy_(torch.from_numpy(values.astype(np.float16).astype(np.float32)))


def make_bert(**changes):
    config = tf.BertConfig(**{**dict(
        vocab_size=len(VOCAB), hidden_size=HIDDEN, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, intermediate_size=INNER, max_position_embeddings=POSITIONS,
        type_vocab_size=2, layer_norm_eps=1e-12, attn_implementation="eager", use_cache=False),
        **changes})
    model = tf.BertModel(config).eval().float()
    fill(model, 71)
    return model


def make_qwen3(**changes):
    config = tf.Qwen3Config(**{**dict(
        vocab_size=304, hidden_size=HIDDEN, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        num_key_value_heads=2, head_dim=32, intermediate_size=INNER, max_position_embeddings=256,
        rms_norm_eps=1e-6, rope_theta=1e6, attn_implementation="eager", use_cache=False,
        tie_word_embeddings=True), **changes})
    model = tf.Qwen3Model(config).eval().float()
    fill(model, 72)
    return model


def make_xlmr():
    config = tf.XLMRobertaConfig(
        vocab_size=48, hidden_size=HIDDEN, num_hidden_layers=1, num_attention_heads=HEADS,
        intermediate_size=32, max_position_embeddings=POSITIONS + 2, type_vocab_size=1,
        layer_norm_eps=1e-5, pad_token_id=1, attn_implementation="eager", use_cache=False)
    model = tf.XLMRobertaModel(config).eval().float()
    fill(model, 73)
    return model


def pooled(model, ids, **inputs):
    with torch.no_grad():
        states = model(input_ids=torch.tensor([ids]), **inputs).last_hidden_state[0].double().numpy()
    return np.stack([states.mean(0), states[0], states[-1]])


# --- spoilers -----------------------------------------------------------------------------------

class RmsNorm(torch.nn.Module):
    """What is left of a LayerNorm without its mean."""

    def __init__(self, norm):
        super().__init__()
        self.norm = norm

    def forward(self, x):
        factor = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.norm.eps)
        return x * factor * self.norm.weight + self.norm.bias


def spoil(change):
    def run(ids):
        model = make_bert()
        with torch.no_grad():
            change(model)
        return pooled(model, ids)
    return run


def rms_everywhere(model):
    model.embeddings.LayerNorm = RmsNorm(model.embeddings.LayerNorm)
    for layer in model.encoder.layer:
        layer.attention.output.LayerNorm = RmsNorm(layer.attention.output.LayerNorm)
        layer.output.LayerNorm = RmsNorm(layer.output.LayerNorm)


def no_embedding_norm(model):
    model.embeddings.LayerNorm = torch.nn.Identity()


def other_type(model):
    rows = model.embeddings.token_type_embeddings.weight
    rows[0] = rows[1].clone()


def positions_from(first, ids):
    return torch.arange(first, first + len(ids))[None]


BERT_SPOILED = {
    "causal": lambda ids: pooled(make_bert(is_decoder=True), ids),
    "no token type": spoil(lambda m: m.embeddings.token_type_embeddings.weight.zero_()),
    "token type 1": spoil(other_type),
    "rms instead of layer norm": spoil(rms_everywhere),
    "embeddings not normed": spoil(no_embedding_norm),
    "gelu in its tanh form": lambda ids: pooled(make_bert(hidden_act="gelu_new"), ids),
    "relu": lambda ids: pooled(make_bert(hidden_act="relu"), ids),
    "positions from 1": lambda ids: pooled(make_bert(), ids, position_ids=positions_from(1, ids)),
    "no bias on the MLP": spoil(lambda m: [l.output.dense.bias.zero_() for l in m.encoder.layer]),
    "no bias on attention's output":
        spoil(lambda m: [l.attention.output.dense.bias.zero_() for l in m.encoder.layer]),
}


def both_directions(ids):
    model, count = make_qwen3(), len(ids)
    return pooled(model, ids, attention_mask=torch.zeros(1, 1, count, count))


def not_normed(ids):
    model = make_qwen3()
    model.norm = torch.nn.Identity()
    return pooled(model, ids)


QWEN3_SPOILED = {"both directions": both_directions, "no final norm": not_normed,
                 "no end token": lambda ids: pooled(make_qwen3(), ids[:-1])}


XLMR_SPOILED = {
    "positions from 0": lambda ids: pooled(make_xlmr(), ids, position_ids=positions_from(0, ids)),
    "positions from 1": lambda ids: pooled(make_xlmr(), ids, position_ids=positions_from(1, ids)),
}


# --- GGUF ---------------------------------------------------------------------------------------

BERT_PARTS = {
    "embeddings.word_embeddings": "token_embd", "embeddings.position_embeddings": "position_embd",
    "embeddings.token_type_embeddings": "token_types", "embeddings.LayerNorm": "token_embd_norm",
}
BERT_LAYER_PARTS = {
    "attention.self.query": "attn_q", "attention.self.key": "attn_k",
    "attention.self.value": "attn_v", "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm", "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down", "output.LayerNorm": "layer_output_norm",
}
QWEN3_LAYER_PARTS = {
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def gguf_name(name):
    base, kind = name.rsplit(".", 1)
    if base in BERT_PARTS:
        return f"{BERT_PARTS[base]}.{kind}"
    if base in ("embed_tokens", "norm"):
        return {"embed_tokens": "token_embd", "norm": "output_norm"}[base] + "." + kind
    parts = base.split(".")
    at = parts.index("layer" if "layer" in parts else "layers")
    rest = ".".join(parts[at + 2:])
    return f"blk.{parts[at + 1]}.{(BERT_LAYER_PARTS | QWEN3_LAYER_PARTS)[rest]}.{kind}"


def phantom(token):
    if token.startswith("[") and token.endswith("]"):
        return token
    return token[2:] if token.startswith("##") else "\u2581" + token


def write_gguf(path, model, keys):
    writer = gguf.GGUFWriter(path, keys["arch"])
    writer.add_name(f"tiny {path.stem}")
    writer.add_block_count(LAYERS)
    writer.add_context_length(model.config.max_position_embeddings)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    keys["own"](writer, model.config)
    for name, weight in model.named_parameters():
        if name.startswith("pooler"):
            continue
        values = weight.detach().numpy()
        full = values.ndim == 1 or "position" in name or "token_type" in name
        values = values.astype(np.float32 if full else np.float16)
        writer.add_tensor(gguf_name(name), np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def bert_keys(writer, config):
    writer.add_layer_norm_eps(config.layer_norm_eps)
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.MEAN)
    writer.add_token_type_count(2)
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([phantom(token) for token in VOCAB])
    writer.add_token_types([3 if token[0] == "[" else 1 for token in VOCAB])
    writer.add_unk_token_id(1)
    writer.add_sep_token_id(SEP)
    writer.add_bos_token_id(CLS)  # which is what the format takes [CLS] for
    writer.add_mask_token_id(4)
    writer.add_pad_token_id(0)


def qwen3_keys(writer, config):
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_pooling_type(gguf.PoolingType.LAST)
    tokens = byte_tokens()
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * 256 + [3])
    writer.add_token_merges([])
    writer.add_eos_token_id(256)
    writer.add_add_eos_token(True)


def byte_tokens():
    hidden, symbols = 0, []
    for byte in range(256):
        if 0x21 <= byte <= 0x7e or 0xa1 <= byte <= 0xac or byte >= 0xae:
            symbols.append(chr(byte))
        else:
            symbols.append(chr(256 + hidden))
            hidden += 1
    return symbols + ["<|endoftext|>"]


# --- Hugging Face folders -----------------------------------------------------------------------

def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1) + "\n")


def write_sentence_files(folder, pooling, seq_max):
    kinds = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens",
             "lasttoken")
    write_json(folder / "modules.json", [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate((("", "Transformer"), ("1_Pooling", "Pooling"),
                                          ("2_Normalize", "Normalize")))])
    write_json(folder / "1_Pooling" / "config.json",
               {"word_embedding_dimension": HIDDEN,
                **{f"pooling_mode_{kind}": kind == pooling for kind in kinds}})
    if seq_max:
        write_json(folder / "sentence_bert_config.json",
                   {"max_seq_length": seq_max, "do_lower_case": False})


def weights_of(model, prefix):
    return {prefix + name: weight.detach().numpy().astype(np.float16)
            for name, weight in model.named_parameters()}


def write_config(folder, model, name):
    config = model.config.to_dict()
    for key in ("_name_or_path", "transformers_version", "_attn_implementation_autoset"):
        config.pop(key, None)
    config.update(architectures=[name], torch_dtype="float16")
    write_json(folder / "config.json", config)


def write_bert_folder(model):
    folder = HERE / "bert-folder"
    write_config(folder, model, "BertModel")
    weights = weights_of(model, "bert.")
    weights["bert.embeddings.position_ids"] = np.arange(POSITIONS, dtype=np.int64)[None]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    write_sentence_files(folder, "mean_tokens", SEQ_MAX)
    tokenizer = Tokenizer(models.WordPiece({token: i for i, token in enumerate(VOCAB)},
                                           unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", SEP), ("[CLS]", CLS))
    tokenizer.add_special_tokens([token for token in VOCAB if token[0] == "["])
    tokenizer.enable_truncation(32)  # as some are saved: max_seq_length overrides it
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    write_json(folder / "tokenizer_config.json",
               {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "cls_token": "[CLS]",
                "sep_token": "[SEP]", "unk_token": "[UNK]", "pad_token": "[PAD]",
                "mask_token": "[MASK]", "model_max_length": 512})


def write_qwen3_folder(model):
    folder = HERE / "qwen3-folder"
    write_config(folder, model, "Qwen3ForCausalLM")
    save_file(weights_of(model, ""), folder / "model.safetensors", metadata={"format": "pt"})
    write_sentence_files(folder, "lasttoken", 0)
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(byte_tokens())}, []))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>"])
    tokenizer.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single="$A <|endoftext|>", pair="$A $B <|endoftext|>",
                                      special_tokens=[("<|endoftext|>", 256)])])
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    write_json(folder / "tokenizer_config.json",
               {"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|endoftext|>",
                "add_bos_token": False, "model_max_length": 256})


def write_xlmr_folder(model):
    folder = HERE / "xlmr-folder"
    write_config(folder, model, "XLMRobertaModel")
    save_file(weights_of(model, ""), folder / "model.safetensors", metadata={"format": "pt"})
    write_sentence_files(folder, "mean_tokens", 0)
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "\u2581"] + list("abcdefghijklmnopqrstuvwxyz")
    tokenizer = Tokenizer(models.Unigram([(p, -float(i)) for i, p in enumerate(pieces)], unk_id=3))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(),
                                                 normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>"])
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    write_json(folder / "tokenizer_config.json",
               {"tokenizer_class": "XLMRobertaTokenizer", "bos_token": "<s>", "eos_token": "</s>",
                "cls_token": "<s>", "sep_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>",
                "model_max_length": POSITIONS})


# --- all ----------------------------------------------------------------------------------------

def bert_prompts():
    random = np.random.default_rng(5)
    for count in (3, 17, 50, 64):
        yield [CLS] + random.integers(5, len(VOCAB), count - 2).tolist() + [SEP]


def qwen3_prompts():
    random = np.random.default_rng(6)
    for count in (2, 17, 90):
        yield random.integers(0, 256, count - 1).tolist() + [256]


def xlmr_prompts():
    random = np.random.default_rng(7)
    for count in (3, 17, 64):
        yield [0] + random.integers(4, 48, count - 2).tolist() + [2]


def distance(a, b):
    return float(np.abs(a - b).max() / (b.max() - b.min()))


def main():
    HERE.mkdir(exist_ok=True)
    bert, qwen3 = make_bert(), make_qwen3()
    write_gguf(HERE / "bert.gguf", bert, {"arch": "bert", "own": bert_keys})
    write_gguf(HERE / "qwen3.gguf", qwen3, {"arch": "qwen3", "own": qwen3_keys})
    write_bert_folder(bert)
    write_qwen3_folder(qwen3)
    write_xlmr_folder(make_xlmr())
    offset = 0
    with open(HERE / "cases.jsonl", "w") as cases, open(HERE / "pooled.f32", "wb") as numbers:
        for name, make, prompts, spoiled in (("bert", make_bert, bert_prompts(), BERT_SPOILED),
                                             ("qwen3", make_qwen3, qwen3_prompts(), QWEN3_SPOILED),
                                             ("xlmr", make_xlmr, xlmr_prompts(), XLMR_SPOILED)):
            for ids in prompts:
                right = pooled(make(), ids)
                rows = {"": right}
                if 16 < len(ids) < 64 or len(ids) > 64:
                    rows |= {label: run(ids) for label, run in spoiled.items()}
                for label, row in rows.items():
                    if label:
                        print(f"{name:6} {len(ids):3} {label:32} {distance(row, right):.1e}")
                        assert distance(row, right) >= MISS
                    cases.write(json.dumps({"model": name, "spoiled": label, "ids": ids,
                                            "offset": offset}) + "\n")
                    numbers.write(row.astype(np.float32).tobytes())
                    offset += row.size
    print(sum(f.stat().st_size for f in HERE.rglob("*") if f.is_file()), "bytes")


if __name__ == "__main__":
    main()
