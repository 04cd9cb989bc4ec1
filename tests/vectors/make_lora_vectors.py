#!/usr/bin/env python3
"""Makes tests/vectors/lora: small random adapters of each kind for the tiny models of
tests/vectors/families, and the logits that peft gives for base and adapter in float32.
tests/unit/test_lora_vectors.c reads both.

    <case>/        adapter_config.json, adapter_model.safetensors, as peft saves them
    <case>.gguf    the same adapter in the form of the reference's converter
    cases.jsonl    which adapter goes onto which bases, prompt, rows
    logits.f32     their rows, float32
    scores.json    what the classifier llama-score gives for some prompts

Updates are large, so that a wrong factor, row or matrix shows: the script fails where the base alone
would come near.

Needs peft 0.21.2, transformers 4.57, torch, safetensors, gguf, numpy:  python make_lora_vectors.py
With "tokens" it makes the cases of added tokens and of rows of single tokens alone, behind what is there.
"""
# SPDX-License-Identifier: Apache-2.0
import json
import logging
import math
import pathlib
import re
import shutil
import sys
import warnings

import gguf
import numpy as np
import peft
import torch
import transformers as tf
from safetensors.numpy import load_file
from safetensors.torch import save_file

import make_family_vectors as base

HERE = pathlib.Path(__file__).parent / "lora"
FAR = 0.05  # the base's logits are at least so far off, as a part of the range
ROWS = [4, 16, 23]
QKV, O, MLP = ["q_proj", "k_proj", "v_proj"], ["o_proj"], ["gate_proj", "up_proj", "down_proj"]
ALL = QKV + O + MLP


def base_model(name, kind=tf.AutoModelForCausalLM, **more):
    model = kind.from_pretrained(base.HERE / name, dtype=torch.float32, attn_implementation="eager", **more)
    return model.eval()


def randomise(model, seed):
    """All that peft would train, of a size that weighs in."""
    biases = model.peft_config["default"].bias != "none"
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=random)
            if "lora_A" in name or "lora_embedding_A" in name:
                weight.copy_(noise / math.sqrt(weight.shape[1]))
            elif "lora_B" in name and weight.dim() == 1:
                weight.copy_(0.3 * noise)
            elif "lora_B" in name or "lora_embedding_B" in name:
                weight.copy_(0.6 * noise / math.sqrt(weight.shape[1]))
            elif "lora_magnitude_vector" in name:
                weight.mul_(1 + 0.3 * noise)
            elif "modules_to_save" in name and weight.dim() == 2:
                weight.add_(0.5 * noise * weight.std())
            elif name.endswith("bias") and biases:
                weight.add_(0.5 * noise)


def as_half(model, kind, biases=True):
    """So that files of 16 bits hold what the reference computes with."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name or "modules_to_save" in name or (biases and name.endswith("bias")):
                weight.copy_(weight.to(kind).float())


def save(model, folder, kind, tables="auto"):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(folder, save_embedding_layers=tables)
    (folder / "README.md").unlink(missing_ok=True)
    tensors = {name: torch.from_numpy(value).to(kind).contiguous()
               for name, value in load_file(folder / "adapter_model.safetensors").items()}
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = f"tiny/{config['base_model_name_or_path'].rsplit('/', 1)[-1]}"
    for key in ("target_modules", "modules_to_save"):
        if isinstance(config[key], list):
            config[key].sort()
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    return tensors


# --- the same as GGUF -------------------------------------------------------------------------

def gguf_name(module):
    names = {"lm_head": "output", "model.embed_tokens": "token_embd"}
    return names.get(module) or base.tensor_name(module + ".weight", False).removesuffix(".weight")


def write_adapter(case, tensors, config, arch, heads):
    """Rows of q and k are permuted as in the base's file; A of the embedding is turned."""
    writer = gguf.GGUFWriter(HERE / f"{case}.gguf", arch)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(config["lora_alpha"]))
    writer.add_string("general.base_model.0.name", "tiny")
    for name, value in sorted(tensors.items()):
        module, part = re.fullmatch(r"base_model\.model\.(.*)\.lora_(?:embedding_)?([AB])(?:\.weight)?", name).groups()
        value = value.float().numpy()
        if arch == "llama" and part == "B" and re.search(r"[qk]_proj$", module):
            value = base.interleave(value, heads[module[-6]])
        if "embed_tokens" in module and part == "A":
            value = value.T
        writer.add_tensor(f"{gguf_name(module)}.weight.lora_{part.lower()}", np.ascontiguousarray(value))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


# --- cases ------------------------------------------------------------------------------------

# of: the base; config: of LoraConfig; kind: the type in the file; bases: what the adapter is put on;
# gguf: the architecture of the adapter as GGUF, which goes onto the same bases.
CASES = [
    dict(name="llama-all", of="llama3", kind=torch.float32, bases=["llama3", "llama3.gguf"], gguf="llama",
         config=dict(r=4, lora_alpha=12, target_modules=ALL)),
    dict(name="llama-odd", of="llama3", kind=torch.bfloat16, bases=["llama3", "llama3.gguf"],
         config=dict(r=5, lora_alpha=7, use_rslora=True, target_modules=r".*\.self_attn\.(q|k)_proj")),
    dict(name="llama-dora", of="llama3", kind=torch.float16, bases=["llama3", "llama3.gguf"],
         config=dict(r=3, lora_alpha=6, use_dora=True, target_modules=["q_proj", "k_proj", "up_proj", "down_proj", "lm_head"])),
    dict(name="llama-second-bias", of="llama3", kind=torch.float16, bases=["llama3", "llama3.gguf"],
         config=dict(r=2, lora_alpha=4, lora_bias=True, target_modules=["q_proj", "o_proj", "gate_proj"])),
    dict(name="llama-tables", of="llama3", kind=torch.float16, bases=["llama3", "llama3.gguf"],
         config=dict(r=2, lora_alpha=4, target_modules=["v_proj"], modules_to_save=["lm_head", "embed_tokens"])),
    dict(name="llama-head", of="llama3", kind=torch.float16, bases=["llama3", "llama3.gguf"], gguf="llama",
         config=dict(r=3, lora_alpha=6, target_modules=["v_proj", "lm_head", "embed_tokens"])),
    dict(name="llama-embedding-dora", of="llama3", kind=torch.float16, bases=["llama3", "llama3.gguf"],
         config=dict(r=2, lora_alpha=4, use_dora=True, target_modules=["o_proj", "embed_tokens"])),
    dict(name="qwen2-bias", of="qwen2", kind=torch.float32, bases=["qwen2", "qwen2.gguf"],
         config=dict(r=2, lora_alpha=4, bias="all", target_modules=["q_proj", "v_proj", "down_proj"])),
    dict(name="qwen2-lora-only", of="qwen2", kind=torch.float32, bases=["qwen2", "qwen2.gguf"],
         config=dict(r=2, lora_alpha=4, bias="lora_only", target_modules=["q_proj", "k_proj"])),
    dict(name="qwen2-dora", of="qwen2", kind=torch.float32, bases=["qwen2", "qwen2.gguf"],
         config=dict(r=2, lora_alpha=4, use_dora=True, target_modules=["q_proj", "v_proj"])),
    dict(name="qwen3-patterns", of="qwen3", kind=torch.float32, bases=["qwen3", "qwen3.gguf"],
         config=dict(r=2, lora_alpha=4, target_modules=ALL, use_rslora=True,
                     rank_pattern={"q_proj": 7, r"layers\.0\..*\.down_proj": 1, "model.layers.1.mlp.up_proj": 3},
                     alpha_pattern={r".*o_proj": 9, r"layers\.1\.self_attn\.(k|v)_proj": 1})),
    dict(name="gemma2-layers", of="gemma2", kind=torch.float32, bases=["gemma2", "gemma2.gguf"],
         config=dict(r=3, lora_alpha=6, target_modules=ALL, layers_to_transform=[0, 2], layers_pattern="layers")),
    dict(name="gemma3-embedding", of="gemma3", kind=torch.float16, bases=["gemma3", "gemma3.gguf"],
         config=dict(r=2, lora_alpha=4, target_modules=["k_proj", "o_proj", "embed_tokens"])),
    dict(name="gemma3-tying", of="gemma3", kind=torch.float16, bases=["gemma3", "gemma3.gguf"],
         config=dict(r=2, lora_alpha=4, target_modules=["k_proj"], modules_to_save=["embed_tokens"], ensure_weight_tying=True)),
    dict(name="gemma3-one-table", of="gemma3", kind=torch.float16, bases=["gemma3", "gemma3.gguf"],
         config=dict(r=2, lora_alpha=4, target_modules=["k_proj"], modules_to_save=["embed_tokens"])),
    dict(name="phi3-fused", of="phi3", kind=torch.float32, bases=["phi3", "phi3.gguf"], gguf="phi3",
         config=dict(r=4, lora_alpha=8, target_modules="all-linear")),
    dict(name="phi3-dora", of="phi3", kind=torch.float32, bases=["phi3", "phi3.gguf"],
         config=dict(r=2, lora_alpha=4, use_dora=True, target_modules=["qkv_proj", "gate_up_proj"])),
    dict(name="mistral-exclude", of="mistral", kind=torch.float32, bases=["mistral", "mistral.gguf"],
         config=dict(r=2, lora_alpha=4, target_modules=ALL, exclude_modules=r".*\.0\.mlp\..*")),
]


def split_case(bases, tensors_out):
    """An adapter whose q, k, v, gate and up are updated on their own, for a base that fuses them: what
    peft has no model for, so the updates are added to the base's weights."""
    model = base_model("phi3")
    config = model.config
    random = torch.Generator().manual_seed(77)
    head = config.hidden_size // config.num_attention_heads
    query, key = config.num_attention_heads * head, config.num_key_value_heads * head
    rows = dict(q_proj=(0, query), k_proj=(query, key), v_proj=(query + key, key),
                gate_proj=(0, config.intermediate_size), up_proj=(config.intermediate_size, config.intermediate_size))
    with torch.no_grad():
        for number, layer in enumerate(model.model.layers):
            for rank, (name, (first, count)) in enumerate(rows.items(), 1):
                fused = layer.self_attn.qkv_proj if rank <= 3 else layer.mlp.gate_up_proj
                a = torch.randn(rank, config.hidden_size, generator=random) / math.sqrt(config.hidden_size)
                b = 0.6 * torch.randn(count, rank, generator=random) / math.sqrt(rank)
                fused.weight[first:first + count] += 8 / rank * b @ a
                module = f"base_model.model.model.layers.{number}.{'self_attn' if rank <= 3 else 'mlp'}.{name}"
                tensors_out[f"{module}.lora_A.weight"], tensors_out[f"{module}.lora_B.weight"] = a, b
    return model, dict(peft_type="LORA", task_type="CAUSAL_LM", r=1, lora_alpha=8, target_modules=list(rows),
                       rank_pattern={name: rank for rank, name in enumerate(rows, 1)}, base_model_name_or_path="tiny/phi3")


class Writer:
    def __init__(self, behind=None):
        """behind: cases that come anew; the others stay."""
        self.lines, self.at, kept = [], 0, b""
        for line in (HERE / "cases.jsonl").read_text().splitlines() if behind else []:
            if json.loads(line)["name"] not in behind:
                self.lines.append(line)
                self.at = max(self.at, json.loads(line)["offset"] + 3 * base.VOCAB)
        if behind:
            kept = (HERE / "logits.f32").read_bytes()[:4 * self.at]
        self.logits = open(HERE / "logits.f32", "wb")
        self.logits.write(kept)

    def add(self, name, adapters, bases, seen, plain, ids, more={}):
        span = float(seen.max() - seen.min())
        far = np.abs(seen[:, :plain.shape[1]] - plain).max() / span
        print(f"{name}: range {span:.1f}, the base is {far:.2f} of it off")
        assert far >= FAR, name
        for adapter in adapters:
            self.lines.append(json.dumps(dict(name=adapter, bases=bases, ids=ids, rows=ROWS, offset=self.at, **more)))
        self.logits.write(seen[ROWS].astype("<f4").tobytes())
        self.at += len(ROWS) * seen.shape[1]

    def close(self):
        self.logits.close()
        (HERE / "cases.jsonl").write_text("\n".join(self.lines) + "\n")


def make_case(case, seed, writer):
    ids = base.prompt(500 + seed, 24)
    plain = base.logits_of(base_model(case["of"]), ids)
    made = base_model(case["of"])
    config = peft.LoraConfig(task_type="CAUSAL_LM", lora_dropout=0.0, **case["config"])
    model = peft.get_peft_model(made, config).eval()
    randomise(model, seed)
    as_half(model, case["kind"])
    folder = HERE / case["name"]
    tensors = save(model, folder, case["kind"])
    # what counts is what peft makes of the files
    again = peft.PeftModel.from_pretrained(base_model(case["of"]), folder).eval()
    seen = base.logits_of(again, ids)
    assert np.abs(seen - base.logits_of(model, ids)).max() < 1e-4 or case["config"].get("bias") == "lora_only", case["name"]
    adapters = [case["name"]]
    if case.get("gguf"):
        write_adapter(case["name"], {n: t for n, t in tensors.items() if ".lora_" in n}, case["config"], case["gguf"],
                      dict(q=made.config.num_attention_heads, k=made.config.num_key_value_heads))
        adapters.append(case["name"] + ".gguf")
    writer.add(case["name"], adapters, case["bases"], seen, plain, ids)


def make_split(writer):
    tensors, name, ids = {}, "phi3-split", base.prompt(900, 24)
    model, config = split_case(["phi3"], tensors)
    folder = HERE / name
    folder.mkdir()
    save_file({n: t.contiguous() for n, t in tensors.items()}, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    writer.add(name, [name], ["phi3", "phi3.gguf"], base.logits_of(model, ids),
               base.logits_of(base_model("phi3"), ids), ids)


def make_score():
    """A classifier: its labels' logits come from the hidden state of the last token."""
    name, ids = "llama-score", base.prompt(901, 24)
    torch.manual_seed(901)  # of the new head
    made = base_model("llama3", tf.AutoModelForSequenceClassification, num_labels=3)
    config = peft.LoraConfig(task_type="SEQ_CLS", r=2, lora_alpha=4, target_modules=["q_proj"])
    model = peft.get_peft_model(made, config).eval()
    randomise(model, 901)
    save(model, HERE / name, torch.float32)
    (HERE / name / "config.json").write_text(json.dumps({"id2label": {"0": "bill", "1": "complaint", "2": "other"}}) + "\n")
    cases = []
    for count in (1, 2, 7, 24):
        with torch.no_grad():
            logits = model(torch.tensor([ids[:count]], dtype=torch.long)).logits[0].float()
        cases.append({"ids": [int(i) for i in ids[:count]], "logits": [float(v) for v in logits],
                      "scores": [float(v) for v in logits.softmax(0)]})
    (HERE / "scores.json").write_text(json.dumps(cases) + "\n")


def make_added(writer):
    """Two tokens more than the base has."""
    name = "llama-added"
    made = base_model("llama3")
    made.resize_token_embeddings(base.VOCAB + 2, mean_resizing=False)
    config = peft.LoraConfig(task_type="CAUSAL_LM", r=2, lora_alpha=4, target_modules=["q_proj", "lm_head"],
                             modules_to_save=["embed_tokens"])
    model = peft.get_peft_model(made, config).eval()
    randomise(model, 902)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(HERE / name, save_embedding_layers=True)
    save(model, HERE / name, torch.float16)


# --- more tokens ------------------------------------------------------------------------------

# added: so many tokens more than the base has; indices: rows of single tokens, new ones as "+0", "+1"; save: how
# save_pretrained is told to save tables; tensors that must be, or must not be, among those saved.
TOKEN_CASES = [
    dict(name="added-tables", of="llama3", added=3, kind=torch.float16, bases=["llama3", "llama3.gguf"],
         config=dict(target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"])),
    dict(name="added-embedding", of="llama3", added=2, kind=torch.float16, bases=["llama3", "llama3.gguf"],
         config=dict(target_modules=["q_proj"], modules_to_save=["embed_tokens"])),
    dict(name="added-frozen", of="gemma3", added=1, kind=torch.float32, bases=["gemma3", "gemma3.gguf"],
         config=dict(target_modules=["q_proj"])),
    dict(name="added-untied", of="mistral", added=2, kind=torch.float16, bases=["mistral", "mistral.gguf"],
         config=dict(target_modules=["q_proj", "v_proj"])),
    dict(name="added-untied-tables", of="qwen2", added=5, kind=torch.float16, bases=["qwen2", "qwen2.gguf"],
         config=dict(target_modules=["k_proj"], modules_to_save=["embed_tokens", "lm_head"])),
    dict(name="added-head", of="mistral", added=2, kind=torch.float16, bases=["mistral", "mistral.gguf"], save=True,
         config=dict(target_modules=["q_proj", "lm_head"], modules_to_save=["embed_tokens"])),
    dict(name="added-lora", of="llama3", added=2, kind=torch.float16, bases=["llama3", "llama3.gguf"],
         config=dict(target_modules=["q_proj", "embed_tokens"])),
    dict(name="tokens-tied", of="llama3", indices=[3, 200, 7], kind=torch.float16, bases=["llama3", "llama3.gguf"],
         config=dict(target_modules=["q_proj"])),
    dict(name="tokens-untied", of="qwen2", indices=[3, 200], kind=torch.float16, bases=["qwen2", "qwen2.gguf"],
         config=dict(target_modules=["q_proj"])),
    dict(name="tokens-both", of="mistral", indices={"embed_tokens": [9, 4], "lm_head": [4]}, kind=torch.float16,
         bases=["mistral", "mistral.gguf"], config=dict(target_modules=["q_proj"])),
    dict(name="tokens-added", of="llama3", added=2, indices=[base.VOCAB + 1, 11, base.VOCAB], kind=torch.float16, save=False,
         bases=["llama3", "llama3.gguf"], config=dict(target_modules=["q_proj"])),
    dict(name="tokens-saved", of="llama3", added=2, indices=[11, base.VOCAB], kind=torch.float16,
         bases=["llama3", "llama3.gguf"], config=dict(target_modules=["q_proj"])),
]


def longer(name, added, seed):
    """The base with new rows, of a size that weighs in."""
    made = base_model(name)
    if added:
        made.resize_token_embeddings(base.VOCAB + added, mean_resizing=False)
        random = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for table in {id(t): t for t in (made.get_input_embeddings().weight, made.get_output_embeddings().weight)}.values():
                table[base.VOCAB:] = table.std() * torch.randn(added, table.shape[1], generator=random)
                table.copy_(table.half().float())
    return made


def randomise_tokens(model, seed, kind):
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "trainable_tokens_delta" in name:
                weight.add_(weight.std() * torch.randn(weight.shape, generator=random))
                weight.copy_(weight.to(kind).float())


def make_tokens(case, seed, writer):
    added = case.get("added", 0)
    ids = base.prompt(500 + seed, 24)
    old = ids.copy()
    for at in range(added):
        ids[2 + 3 * at] = base.VOCAB + at
    indices = case.get("indices")
    for at, token in enumerate(indices if isinstance(indices, list) else (indices or {}).get("embed_tokens", [])):
        ids[3 + 3 * at] = token
    plain = base.logits_of(base_model(case["of"]), old)
    config = peft.LoraConfig(task_type="CAUSAL_LM", lora_dropout=0.0, r=2, lora_alpha=4, trainable_token_indices=indices,
                             **case["config"])
    model = peft.get_peft_model(longer(case["of"], added, seed), config).eval()
    randomise(model, seed)
    randomise_tokens(model, seed, case["kind"])
    as_half(model, case["kind"], biases=False)
    folder = HERE / case["name"]
    shutil.rmtree(folder, ignore_errors=True)
    save(model, folder, case["kind"], case.get("save", "auto"))
    if added:  # rows that no text stands for: only ids are looked at here
        (folder / "added_tokens.json").write_text("{}\n")
    # whoever loads it lengthens the base by rows of no meaning
    again = peft.PeftModel.from_pretrained(longer(case["of"], added, seed + 50), folder).eval()
    seen = base.logits_of(again, ids)
    assert np.abs(seen - base.logits_of(model, ids)).max() < 1e-4, case["name"]
    assert seen.shape[1] == base.VOCAB + added
    writer.add(case["name"], [case["name"]], case["bases"], seen, plain, ids)


def main():
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    if sys.argv[1:] == ["tokens"]:
        writer = Writer([case["name"] for case in TOKEN_CASES])
        for seed, case in enumerate(TOKEN_CASES, 700):
            make_tokens(case, seed, writer)
        writer.close()
        return
    shutil.rmtree(HERE, ignore_errors=True)
    HERE.mkdir()
    writer = Writer()
    for seed, case in enumerate(CASES):
        make_case(case, seed, writer)
    make_split(writer)
    make_added(writer)
    for seed, case in enumerate(TOKEN_CASES, 700):
        make_tokens(case, seed, writer)
    writer.close()
    make_score()


if __name__ == "__main__":
    main()
