"""Random LoRA adapters of SmolLM2-135M's shape, as PEFT writes them."""
# SPDX-License-Identifier: Apache-2.0
import json
import os

import numpy as np

LAYERS, HIDDEN, KEYS, INNER = 30, 576, 192, 1536
# module -> (outputs, inputs)
SHAPES = {
    "self_attn.q_proj": (HIDDEN, HIDDEN), "self_attn.k_proj": (KEYS, HIDDEN), "self_attn.v_proj": (KEYS, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HIDDEN), "mlp.gate_proj": (INNER, HIDDEN), "mlp.up_proj": (INNER, HIDDEN),
    "mlp.down_proj": (HIDDEN, INNER),
}
ALL = tuple(SHAPES)


def safetensors(tensors):
    """float32 arrays by name -> the bytes of a file."""
    header, offset = {}, 0
    for name, array in tensors.items():
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [offset, offset + array.nbytes]}
        offset += array.nbytes
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + b"".join(a.tobytes() for a in tensors.values())


def make(folder, seed, rank=8, modules=ALL, size=0.02, labels=None):
    """Writes the adapter; size: of an update's weights beside 1 / sqrt(inputs), so that answers change. labels: names of
    those of a classifier."""
    rng, tensors = np.random.default_rng(seed), {}
    for layer in range(LAYERS):
        for module in modules:
            outputs, inputs = SHAPES[module]
            name = f"base_model.model.model.layers.{layer}.{module}"
            tensors[name + ".lora_A.weight"] = rng.standard_normal((rank, inputs), np.float32) / np.sqrt(inputs)
            tensors[name + ".lora_B.weight"] = rng.standard_normal((outputs, rank), np.float32) * size
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": rank, "bias": "none",
              "target_modules": [module.split(".")[1] for module in modules]}
    os.makedirs(folder)
    if labels:
        tensors["base_model.model.score.weight"] = rng.standard_normal((len(labels), HIDDEN), np.float32) / np.sqrt(HIDDEN)
        config |= {"task_type": "SEQ_CLS", "modules_to_save": ["classifier", "score"]}
        with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as file:
            json.dump({"id2label": dict(enumerate(labels))}, file)
    with open(os.path.join(folder, "adapter_config.json"), "w", encoding="utf-8") as file:
        json.dump(config, file)
    with open(os.path.join(folder, "adapter_model.safetensors"), "wb") as file:
        file.write(safetensors({name: np.ascontiguousarray(a, np.float32) for name, a in tensors.items()}))
    return str(folder)
