"""Random tiny bases of every decoder family, adapters of every kind, and peft's logits in float32; run by
test_adapter_oracle.py in a Python that has peft.

    adapter_oracle.py make FOLDER            bases, adapters, cases.jsonl, <case>.npy
    adapter_oracle.py load FOLDER            merged.jsonl: transformers' logits of folders, <out>.npy
"""
# SPDX-License-Identifier: Apache-2.0
import json
import logging
import math
import pathlib
import re
import sys
import warnings

import gguf
import numpy as np
import peft
import torch
import transformers as tf

VECTORS = pathlib.Path(__file__).parent.parent / "vectors"
sys.path.insert(0, str(VECTORS))
import make_family_vectors as base  # noqa: E402
import make_lora_vectors as lora  # noqa: E402

ALL = lora.ALL
FUSED = ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]
BLOCKS = {"q4_0": gguf.GGMLQuantizationType.Q4_0, "q8_0": gguf.GGMLQuantizationType.Q8_0}
FORMATS = ["bf16", *BLOCKS]
IDS = base.prompt(4711, 28)


def features(fused):
    """name -> LoraConfig's arguments."""
    every = FUSED if fused else ALL
    query, up = ("qkv_proj", "gate_up_proj") if fused else ("q_proj", "up_proj")
    return {
        "plain": dict(r=16, lora_alpha=32, target_modules="all-linear"),
        "rank_1": dict(r=1, lora_alpha=1, target_modules=every),
        "rank_512": dict(r=512, lora_alpha=16, target_modules=[query, "down_proj"], use_rslora=True),
        "patterns": dict(r=4, lora_alpha=8, target_modules=every, use_rslora=True,
                         rank_pattern={query: 24, r"layers\.1\..*down_proj": 9}, alpha_pattern={"o_proj": 3, up: 40}),
        "layers": dict(r=6, lora_alpha=12, target_modules=every, layers_to_transform=[1]),
        "regex": dict(r=3, lora_alpha=6, target_modules=rf".*layers\.\d+\.(self_attn\.({query}|o_proj)|mlp\.down_proj)"),
        "dora": dict(r=5, lora_alpha=10, target_modules=every, use_dora=True),
        "second_bias": dict(r=5, lora_alpha=10, target_modules=every, lora_bias=True),
        "head": dict(r=7, lora_alpha=14, target_modules=[query, "lm_head"]),
        "embedding": dict(r=7, lora_alpha=14, target_modules=[query, "embed_tokens"]),
        "tables": dict(r=2, lora_alpha=4, target_modules=[query], modules_to_save=["lm_head", "embed_tokens"]),
    }


def quantise(family, model, kind):
    """The blocks of all matrices as the file has them; the model gets their values."""
    config, packed = model.config, {}
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() != 2:
                continue
            values = weight.numpy().astype(np.float32)
            weight.copy_(torch.from_numpy(gguf.quants.dequantize(gguf.quants.quantize(values, kind), kind)))
            turned = heads.get(name.split(".")[-2]) if family["arch"] == "llama" else None
            blocks = gguf.quants.quantize(base.interleave(values, turned) if turned else values, kind)
            packed[base.tensor_name(name, family["arch"].startswith("gemma"))] = (blocks, kind)
    return packed


def make_base(root, family, form):
    """-> a function that gives the model anew, the path for espalier"""
    def fresh():
        model = base.make_model(family)
        if form == "bf16":
            with torch.no_grad():
                for weight in model.parameters():
                    weight.copy_(weight.to(torch.bfloat16).float())
        else:
            quantise(family, model, BLOCKS[form])
        if family.get("tied"):
            model.tie_weights()
        return model

    name = f"{family['name']}-{form}"
    if form == "bf16":
        model = fresh().to(torch.bfloat16)
        model.save_pretrained(root / name)
        return fresh, root / name
    model = base.make_model(family)
    base.write_gguf({**family, "name": str(root / name)}, model, quantise(family, model, BLOCKS[form]))
    return fresh, root / f"{name}.gguf"


def make_case(root, fresh, path, name, config, lines):
    model = peft.get_peft_model(fresh(), peft.LoraConfig(task_type="CAUSAL_LM", **config)).eval()
    lora.randomise(model, len(lines))
    model.save_pretrained(root / name)
    logits = base.logits_of(peft.PeftModel.from_pretrained(fresh(), root / name).eval(), IDS)
    plain = base.logits_of(fresh(), IDS)
    assert np.abs(logits - plain).max() > 0.02 * (logits.max() - logits.min()), name
    np.save(root / f"{name}.npy", logits)
    lines.append(json.dumps(dict(name=name, base=str(path), adapter=str(root / name), ids=IDS)))


def make(root):
    lines = []
    for family in base.FAMILIES:
        fused = family["arch"] == "phi3"
        wanted = features(fused)
        if family["name"] == "qwen2":
            wanted["biases"] = dict(r=2, lora_alpha=4, target_modules=["q_proj", "v_proj"], bias="all")
        for form in FORMATS:
            fresh, path = make_base(root, family, form)
            for feature, config in wanted.items():
                make_case(root, fresh, path, f"{family['name']}-{form}-{feature}", config, lines)
    (root / "cases.jsonl").write_text("\n".join(lines) + "\n")


def load(root):
    for line in (root / "merged.jsonl").read_text().splitlines():
        row = json.loads(line)
        model = tf.AutoModelForCausalLM.from_pretrained(row["folder"], dtype=torch.float32, attn_implementation="eager")
        np.save(row["out"], base.logits_of(model.eval(), row["ids"]))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    {"make": make, "load": load}[sys.argv[1]](pathlib.Path(sys.argv[2]))
