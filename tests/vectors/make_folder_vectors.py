#!/usr/bin/env python3
"""Makes the Hugging Face folders of tests/vectors/families: the tiny models of make_family_vectors.py
once more, as safetensors and config.json, and variants of them that differ in the config alone.

    <model>/                       weights, and its configs: config.json as transformers 4 writes it
    <model>/<name>.4.json, .5.json     a variant's, as transformers 4 and 5 write it
    folders.jsonl                  which config goes with which weights and which cases
    folder_cases.jsonl             the variants' prompts and logits, as in cases.jsonl

The variants share their model's weights, so each costs only its logits. Their spoiled twins are the
logits of the model without the variant's change, or with another one. What transformers 5 writes, it
also computes: its logits are held against those of transformers 4.

Needs transformers 4.57, torch, safetensors, numpy, and transformers 5 in a folder of its own:
    pip install --target DIR --no-deps transformers==5.0.0 huggingface_hub==1.33.0; pip install --target DIR httpx
    python make_folder_vectors.py DIR
"""
# SPDX-License-Identifier: Apache-2.0
import copy
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import torch
import transformers as tf
from safetensors.torch import save_file

import make_family_vectors as base

HERE = base.HERE
SAME = 1e-5  # the two versions of the reference agree so far, as a part of the logits' range
FAMILIES = {family["name"]: family for family in base.FAMILIES}


# --- folders ----------------------------------------------------------------------------------

def tensors_of(model, half, prefix=""):
    """By name; matrices in a 16-bit type, vectors in float32, as the GGUF file has them."""
    out = {}
    for name, weight in model.named_parameters():
        kind = half if weight.dim() == 2 else torch.float32
        out[prefix + name] = weight.detach().to(kind).contiguous().clone()
    return out


def write_single(folder, tensors):
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def write_shards(folder, tensors):
    names = sorted(tensors)
    parts = [names[0::2], names[1::2]]
    index = {"metadata": {"total_size": sum(t.numel() * t.element_size() for t in tensors.values())},
             "weight_map": {}}
    for number, part in enumerate(parts, 1):
        file = f"model-{number:05}-of-{len(parts):05}.safetensors"
        save_file({name: tensors[name] for name in part}, folder / file, metadata={"format": "pt"})
        index["weight_map"].update({name: file for name in part})
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")


def config_text(family, model, dtype="float16"):
    config = copy.deepcopy(model.config)
    config.architectures = [family["model"].__name__]
    config.dtype = dtype
    return config.to_json_string(use_diff=True)


def with_changes(text, changes):
    """A config as somebody wrote it by hand: keys that are None go."""
    config = json.loads(text)
    for key, value in changes.items():
        if value is None:
            config.pop(key, None)
        else:
            config[key] = value
    return json.dumps(config, indent=2) + "\n"


def newer(folder_5, weights, configs, logits, ids):
    """The configs as transformers 5 writes them; it must compute the same logits."""
    job = dict(weights=str(weights), configs=[str(c) for c in configs], ids=ids)
    with tempfile.TemporaryDirectory() as room:
        np.save(f"{room}/logits.npy", logits)
        job["room"] = room
        environment = {**os.environ, "PYTHONPATH": folder_5}
        subprocess.run([sys.executable, __file__, "--newer", json.dumps(job)], check=True, env=environment)


def run_newer(job):
    """In transformers 5: reads configs[0] with the weights, writes configs[1]."""
    import shutil
    assert tf.__version__.startswith("5."), tf.__version__
    room = pathlib.Path(job["room"])
    for file in pathlib.Path(job["weights"]).glob("model*"):
        shutil.copy(file, room)

    def logits_with(config):
        shutil.copy(config, room / "config.json")
        model = tf.AutoModelForCausalLM.from_pretrained(room, dtype=torch.float32, attn_implementation="eager")
        return model.config, base.logits_of(model.eval(), job["ids"])

    old, new = job["configs"]
    wanted = np.load(room / "logits.npy")
    span = float(wanted.max() - wanted.min())
    config, logits = logits_with(old)
    assert np.abs(logits - wanted).max() <= SAME * span, (old, np.abs(logits - wanted).max() / span)
    pathlib.Path(new).write_text(config.to_json_string(use_diff=True))
    _, logits = logits_with(new)
    assert np.abs(logits - wanted).max() <= SAME * span, (new, np.abs(logits - wanted).max() / span)


def make_tokenizer():
    """What all folders share: the tokenizer of the GGUF files."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    tokens, merges = base.read_tokenizer()
    made = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(token, normalized=False) for token in base.SPECIALS])
    folder = HERE / "tokenizer"
    folder.mkdir(exist_ok=True)
    made.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(
        {"bos_token": base.SPECIALS[1], "eos_token": base.SPECIALS[2], "tokenizer_class": "GPT2Tokenizer"}) + "\n")


# --- variants ---------------------------------------------------------------------------------

YARN = dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=64, beta_fast=16.0,
            beta_slow=2.0, attention_factor=1.3)
SLIDE, FULL = "sliding_attention", "full_attention"

# of: whose weights; changes: of its config; by_hand: further keys of the written config, which mean
# the same; spoiled: further twins besides the model without the changes.
VARIANTS = [
    dict(name="llama-plain", of="llama3", changes=dict(rope_scaling=None, rope_theta=500000.0),
         spoiled={"another theta": dict(rope_theta=10000.0)}),
    dict(name="llama-linear", of="llama3", changes=dict(rope_scaling=dict(rope_type="linear", factor=4.0)),
         spoiled={"scaling off": dict(rope_scaling=None)}),
    dict(name="llama-yarn", of="llama3", changes=dict(rope_scaling=YARN),
         spoiled={"factor by the formula": dict(rope_scaling={**YARN, "attention_factor": None}),
                  "default ramp": dict(rope_scaling={**YARN, "beta_fast": 32.0, "beta_slow": 1.0})}),
    dict(name="mistral-full", of="mistral", changes=dict(sliding_window=None), spoiled={}),
    dict(name="ministral", of="mistral", model=tf.MinistralForCausalLM, config_class=tf.MinistralConfig,
         changes=dict(layer_types=[SLIDE, FULL]),
         spoiled={"the other layer": dict(layer_types=[FULL, SLIDE]),
                  "window one less": dict(sliding_window=19)}),
    dict(name="qwen2-window", of="qwen2",
         changes=dict(rope_scaling=None, use_sliding_window=True, sliding_window=20, max_window_layers=1),
         by_hand=dict(layer_types=None),
         spoiled={"window not in use": dict(use_sliding_window=False),
                  "the first layers": dict(layer_types=[SLIDE, FULL]),
                  "all layers": dict(max_window_layers=0),
                  "window one more": dict(sliding_window=21)}),
    dict(name="qwen3-yarn", of="qwen3", context=64,  # the context is the one before scaling
         changes=dict(rope_scaling=dict(rope_type="yarn", factor=4.0), max_position_embeddings=64),
         spoiled={"another original context": dict(max_position_embeddings=256)}),
    dict(name="qwen3-window", of="qwen3",
         changes=dict(use_sliding_window=True, sliding_window=17, max_window_layers=1),
         spoiled={"window one less": dict(sliding_window=16)}),
    dict(name="phi3-mini", of="phi3", changes=dict(rope_scaling=None),
         spoiled={"window one less": dict(sliding_window=36), "no window": dict(sliding_window=None)}),
    dict(name="phi4-plain", of="phi4", changes=dict(rope_scaling=None, partial_rotary_factor=1.0),
         spoiled={"partial rotary": dict(partial_rotary_factor=0.75)}),
    dict(name="gemma2-layers", of="gemma2", changes=dict(layer_types=[FULL, SLIDE, SLIDE],
                                                         attn_logit_softcapping=None),
         spoiled={"the pattern": dict(layer_types=[SLIDE, FULL, SLIDE])}),
    dict(name="gemma3-pattern", of="gemma3", changes=dict(sliding_window_pattern=3, final_logit_softcapping=8.0),
         by_hand=dict(layer_types=None, _sliding_window_pattern=None, sliding_window_pattern=3),
         spoiled={"another pattern": dict(sliding_window_pattern=6),
                  "no logit cap": dict(final_logit_softcapping=None)}),
]


def rows_of(count):
    return sorted({0, 16, 17, 20, 21, 40, 64, count - 1} & set(range(count)))


def make_cases(family, name, ids, spoiled, lines):
    """Logits of a model, and of what misses them. -> all logits"""
    reference, rows = base.logits_of(base.make_model(family), ids), rows_of(len(ids))
    span = float(reference.max() - reference.min())
    print(f"{name}: {len(ids)} tokens, std {reference.std():.2f}, range {span:.1f}")
    assert reference.std() >= 2
    with open(HERE / f"{name}.f32", "wb") as out:
        def add(rows, logits, more):
            lines.append(json.dumps({"model": name, "ids": ids, "rows": rows, "offset": out.tell() // 4, **more}))
            out.write(logits[rows].astype("<f4").tobytes())

        add(rows, reference, {"greedy": base.greedy(family, ids, base.GREEDY_TOKENS)})
        for how, twin in spoiled.items():
            logits = base.spoiled_logits(twin, {}, ids) if isinstance(twin, dict) and "seed" in twin else base.spoiled_logits(family, twin, ids)
            distance = np.abs(logits - reference)[rows].max(axis=1)
            print(f"    {how}: {distance.max() / span:.2e} of the range")
            assert distance.max() / span >= base.MISS, f"{name}, {how}: the vector cannot tell"
            add(sorted(rows[i] for i in np.argsort(distance)[-2:]), logits, {"spoiled": how})
    return reference


def make_variant(variant, lines, folders, folder_5):
    plain = FAMILIES[variant["of"]]
    family = {**plain, "config": {**plain["config"], **variant["changes"]}}
    for key in ("model", "config_class"):
        family[key] = variant.get(key, plain[key])
    ids = base.prompt(40 + len(lines), 90)
    reference = make_cases(family, variant["name"], ids, {"as without the change": plain, **variant["spoiled"]}, lines)
    folder = HERE / variant["of"]
    old, new = folder / f"{variant['name']}.4.json", folder / f"{variant['name']}.5.json"
    old.write_text(with_changes(config_text(family, base.make_model(family)), variant.get("by_hand", {})))
    newer(folder_5, folder, [old, new], reference, ids)
    folders += [dict(cases=variant["name"], folder=variant["of"], config=c.name) for c in (old, new)]


# --- the models themselves --------------------------------------------------------------------

def make_folder(family, folders, folder_5):
    model, name = base.make_model(family), family["name"]
    folder = HERE / name
    folder.mkdir(exist_ok=True)
    tensors = tensors_of(model, torch.float16)
    if name == "llama3":  # what old files carry along
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
    if name == "qwen3":  # tied, and written nevertheless
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    (write_shards if name == "qwen2" else write_single)(folder, tensors)
    old, new = folder / "config.json", folder / "config.5.json"
    old.write_text(config_text(family, model) + "\n")
    ids = family["prompts"][-1]
    newer(folder_5, folder, [old, new], base.logits_of(model, ids), ids)
    folders += [dict(cases=name, folder=name, config=c.name) for c in (old, new)]


def by_hand(name, folders, file, changes):
    """Another spelling of a folder's own config."""
    folder = HERE / name
    (folder / file).write_text(with_changes((folder / "config.json").read_text(), changes))
    folders.append(dict(cases=name, folder=name, config=file))


def to_bf16(model):
    for weight in model.parameters():
        weight.copy_(weight.to(torch.bfloat16).float())


def make_bf16(lines, folders):
    """The text part of a model with images, in bfloat16, saved by the class that has both."""
    name = "gemma3-images"
    family = dict(FAMILIES["gemma3"])
    family.update(name=name, finish=to_bf16)
    family["config"] = {**family["config"], "num_hidden_layers": 2, "rope_scaling": dict(rope_type="linear", factor=8.0),
                        "layer_types": [SLIDE, FULL]}
    text = base.make_model(family)
    vision = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1, image_size=28,
                  patch_size=14)
    torch.manual_seed(0)  # of what is not the text part's
    whole = tf.Gemma3ForConditionalGeneration(
        tf.Gemma3Config(text_config=text.config, vision_config=vision, mm_tokens_per_image=1, image_token_index=300,
                        boi_token_index=301, eoi_token_index=302, tie_word_embeddings=True))
    whole.model.language_model.load_state_dict(text.model.state_dict())
    whole.tie_weights()
    ids = base.prompt(60, 90)

    reference = make_cases(family, name, ids, {"window one less": dict(sliding_window=19),
                                               "linear scaling off": dict(rope_scaling=None),
                                               "norms without their 1": base.every_parameter("norm", lambda w: w - 1)},
                           lines)
    whole.eval().float()
    logits = base.logits_of(whole, ids)
    assert np.abs(logits - reference).max() <= SAME * (reference.max() - reference.min())
    whole.to(torch.bfloat16).save_pretrained(HERE / name)
    (HERE / name / "generation_config.json").unlink(missing_ok=True)
    folders.append(dict(cases=name, folder=name, config="config.json"))


def make_f32(lines, folders):
    name = "llama-f32"
    family = {**FAMILIES["llama3"], "name": name}
    family["config"] = {**family["config"], "num_hidden_layers": 1, "intermediate_size": 32}
    make_cases(family, name, base.prompt(61, 90), {"another theta": dict(rope_theta=500000.0)}, lines)
    model = base.make_model(family)
    model.save_pretrained(HERE / name)
    (HERE / name / "generation_config.json").unlink(missing_ok=True)
    folders.append(dict(cases=name, folder=name, config="config.json"))


def main():
    if sys.argv[1] == "--newer":
        return run_newer(json.loads(sys.argv[2]))
    lines, folders = [], []
    make_tokenizer()
    for family in base.FAMILIES:
        make_folder(family, folders, sys.argv[1])
    old = json.loads((HERE / "phi3" / "config.json").read_text())
    by_hand("phi3", folders, "config.su.json", dict(rope_scaling={**old["rope_scaling"], "type": "su", "rope_type": None}))
    for variant in VARIANTS:
        make_variant(variant, lines, folders, sys.argv[1])
    make_bf16(lines, folders)
    make_f32(lines, folders)
    (HERE / "folder_cases.jsonl").write_text("\n".join(lines) + "\n")
    (HERE / "folders.jsonl").write_text("\n".join(json.dumps(f) for f in folders) + "\n")


if __name__ == "__main__":
    main()
