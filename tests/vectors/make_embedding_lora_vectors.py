#!/usr/bin/env python3
"""Makes tests/vectors/embedding-lora: small random adapters for the tiny models of tests/vectors/encoders, and the
vectors that peft gives for base and adapter in float32, pooled as the base's files say and divided by their length.
tests/unit/test_embedding_adapters.c reads both.

    <case>/        adapter_config.json, adapter_model.safetensors, as peft saves them
    bert-all.gguf  the adapter of that case in the form of the reference's converter
    cases.jsonl    which adapter goes onto which bases, and the prompt
    pooled.f32     a vector for each case

Updates are large: the script fails where the base alone would come near, or where the case without any one of its
kinds of modules would.

Needs what make_lora_vectors.py needs:  python make_embedding_lora_vectors.py
"""
# SPDX-License-Identifier: Apache-2.0
import json
import logging
import pathlib
import re
import shutil
import warnings

import gguf
import numpy as np
import peft
import torch

import make_encoder_vectors as base
import make_lora_vectors as lora

HERE = pathlib.Path(__file__).parent / "embedding-lora"
FAR = 0.02  # what gets something wrong is at least so far off, as a part of the vector's range
BERT, QWEN3, XLMR = ["bert-folder", "bert.gguf"], ["qwen3-folder", "qwen3.gguf"], ["xlmr-folder"]
F32, F16, BF16 = torch.float32, torch.float16, torch.bfloat16


class Around(torch.nn.Module):
    """A model inside another, under a name."""

    def __init__(self, name, model):
        super().__init__()
        self.add_module(name, model)
        self.inner = name


def in_sentence(model):
    """As a sentence transformer has it, its first part."""
    return torch.nn.Sequential(Around("auto_model", model))


def in_heads(model):
    """As a BertForMaskedLM has it."""
    return Around("bert", model)


def inner(model):
    """The transformer in what peft made."""
    found = model.base_model.model
    found = found[0] if isinstance(found, torch.nn.Sequential) else found
    return getattr(found, found.inner) if isinstance(found, Around) else found


# of: makes the base; row: of its pooled states, as its files say; kind: the type in the file
CASES = [
    dict(name="bert-all", of=base.make_bert, row=0, kind=F32, bases=BERT, gguf=True,
         config=dict(r=4, lora_alpha=12, target_modules="all-linear")),
    dict(name="bert-dense", of=base.make_bert, row=0, kind=BF16, bases=BERT,
         config=dict(r=5, lora_alpha=7, use_rslora=True, target_modules=["query", "value", "dense"])),
    dict(name="bert-default", of=base.make_bert, row=0, kind=F32, bases=BERT, config=dict(r=3, lora_alpha=9)),
    dict(name="bert-dora", of=base.make_bert, row=0, kind=F16, bases=BERT,
         config=dict(r=3, lora_alpha=6, use_dora=True,
                     target_modules=["key", "attention.output.dense", "intermediate.dense"])),
    dict(name="bert-lora-only", of=base.make_bert, row=0, kind=F32, bases=BERT,
         config=dict(r=2, lora_alpha=4, bias="lora_only", target_modules=["query", "intermediate.dense", "output.dense"])),
    dict(name="bert-second-bias", of=base.make_bert, row=0, kind=F32, bases=BERT,
         config=dict(r=2, lora_alpha=4, lora_bias=True, target_modules=["value", "intermediate.dense"])),
    dict(name="bert-patterns", of=base.make_bert, row=0, kind=F32, bases=BERT,
         config=dict(r=2, lora_alpha=4, target_modules=["query", "key", "output.dense"], layers_to_transform=[1],
                     rank_pattern={"query": 6}, alpha_pattern={r"layer\.1\.output\.dense": 3})),
    dict(name="bert-regex", of=base.make_bert, row=0, kind=F16, bases=BERT,
         config=dict(r=3, lora_alpha=6, target_modules=r"encoder\.layer\.\d+\.(attention\.self\.value|intermediate\.dense)")),
    dict(name="bert-words", of=base.make_bert, row=0, kind=F16, bases=BERT,
         config=dict(r=2, lora_alpha=4, target_modules=["value", "word_embeddings"])),
    dict(name="bert-table", of=base.make_bert, row=0, kind=F16, bases=BERT,
         config=dict(r=2, lora_alpha=4, target_modules=["query"], modules_to_save=["word_embeddings", "pooler"])),
    dict(name="bert-sentence", of=base.make_bert, row=0, kind=F32, bases=BERT, wrap=in_sentence,
         config=dict(r=3, lora_alpha=6, target_modules=["query", "key", "value", "dense"])),
    dict(name="bert-heads", of=base.make_bert, row=0, kind=F16, bases=BERT, wrap=in_heads,
         config=dict(r=2, lora_alpha=4, target_modules=r"bert\.encoder\.layer\.\d+\.attention\.(self\.query|output\.dense)")),
    dict(name="xlmr-all", of=base.make_xlmr, row=0, kind=F32, bases=XLMR,
         config=dict(r=4, lora_alpha=8, target_modules="all-linear")),
    dict(name="qwen3-all", of=base.make_qwen3, row=2, kind=F32, bases=QWEN3,
         config=dict(r=4, lora_alpha=8, target_modules="all-linear")),
    dict(name="qwen3-sentence", of=base.make_qwen3, row=2, kind=F16, bases=QWEN3, wrap=in_sentence,
         config=dict(r=2, lora_alpha=6, target_modules=["q_proj", "v_proj", "up_proj", "lm_head"])),
]


def prompt_of(case, seed):
    random = np.random.default_rng(seed)
    if case["of"] is base.make_bert:
        return [base.CLS] + random.integers(5, len(base.VOCAB), 22).tolist() + [base.SEP]
    if case["of"] is base.make_xlmr:
        return [0] + random.integers(4, 48, 22).tolist() + [2]
    return random.integers(0, 256, 23).tolist() + [256]


def vector(model, ids, row):
    states = base.pooled(model, ids)[row]
    return (states / np.linalg.norm(states)).astype(np.float32)


def loaded(case):
    """What peft makes of the files."""
    model = case.get("wrap", lambda m: m)(case["of"]())
    return peft.PeftModel.from_pretrained(model, HERE / case["name"]).eval()


def distance(a, b):
    return float(np.abs(a - b).max() / (b.max() - b.min()))


def check_kinds(case, right, ids):
    """No kind of module is without weight, but for the pooler's."""
    model = loaded(case)
    kinds = {re.sub(r"\.\d+\.", ".N.", name) for name, part in model.named_modules()
             if hasattr(part, "lora_A") and "pooler" not in name}
    assert kinds
    for kind in kinds:
        spoiled = loaded(case)
        with torch.no_grad():
            for name, weight in spoiled.named_parameters():
                if re.sub(r"\.\d+\.", ".N.", name).startswith(kind + ".lora_") and ("_B" in name):
                    weight.zero_()
        off = distance(vector(inner(spoiled), ids, case["row"]), right)
        print(f"    without {kind.split('layer')[-1]}: {off:.3f}")
        assert off >= FAR / 4


# --- as GGUF ------------------------------------------------------------------------------------

def write_gguf(case, tensors):
    writer = gguf.GGUFWriter(HERE / f"{case['name']}.gguf", "bert")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(case["config"]["lora_alpha"]))
    writer.add_string("general.base_model.0.name", "tiny bert")
    for name, value in sorted(tensors.items()):
        module, part = re.fullmatch(r"base_model\.model\.(.*)\.lora_([AB])\.weight", name).groups()
        if module.startswith("pooler"):
            continue
        writer.add_tensor(f"{base.gguf_name(module + '.weight')}.lora_{part.lower()}",
                          np.ascontiguousarray(value.float().numpy()))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


# --- all ----------------------------------------------------------------------------------------

def make_case(case, seed, lines, numbers):
    ids = prompt_of(case, 40 + seed)
    config = peft.LoraConfig(task_type="FEATURE_EXTRACTION" if "wrap" not in case else None, lora_dropout=0.0,
                             **case["config"])
    model = peft.get_peft_model(case.get("wrap", lambda m: m)(case["of"]()), config).eval()
    lora.randomise(model, 40 + seed)
    lora.as_half(model, case["kind"])
    model.peft_config["default"].base_model_name_or_path = case["name"].split("-")[0]
    tensors = lora.save(model, HERE / case["name"], case["kind"])
    right = vector(inner(loaded(case)), ids, case["row"])
    off = distance(vector(case["of"](), ids, case["row"]), right)
    print(f"{case['name']}: the base is {off:.2f} of the range off")
    assert off >= FAR
    check_kinds(case, right, ids)
    adapters = [case["name"]]
    if case.get("gguf"):
        write_gguf(case, tensors)
        adapters.append(case["name"] + ".gguf")
    for adapter in adapters:
        lines.append(json.dumps(dict(name=adapter, bases=case["bases"], ids=ids, offset=numbers.tell() // 4)))
    numbers.write(right.astype("<f4").tobytes())


def main():
    shutil.rmtree(HERE, ignore_errors=True)
    HERE.mkdir()
    lines = []
    with open(HERE / "pooled.f32", "wb") as numbers:
        for seed, case in enumerate(CASES):
            make_case(case, seed, lines, numbers)
    (HERE / "cases.jsonl").write_text("\n".join(lines) + "\n")
    print(sum(f.stat().st_size for f in HERE.rglob("*") if f.is_file()), "bytes")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    main()
