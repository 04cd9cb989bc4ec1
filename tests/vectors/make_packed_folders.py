"""Writes packed/: tiny Llama folders in every packing of quantised weights, and packed/logits.jsonl:
what transformers (4.57) computes in float32 of the weights that the packed ones mean.

    make_packed_folders.py     (needs: pip install transformers torch)
"""
# SPDX-License-Identifier: Apache-2.0
import base64
import json
import math
import pathlib

import make_packed_vectors as packed
import numpy as np
import torch
import transformers as tf

HERE = pathlib.Path(__file__).parent / "packed"
HIDDEN, INNER, VOCAB, HEADS, KV_HEADS, TOKENS = 64, 96, 80, 4, 2, 24
GAINS = {"q_proj": 1.7, "k_proj": 1.7, "v_proj": 1.2, "o_proj": 2.0, "gate_proj": 1.5, "up_proj": 1.2,
         "down_proj": 2.0}


def whole_number_std(bits):
    """Of a random code less a random zero point."""
    return math.sqrt(2.0 / 12.0) * 2**bits


def compressed(fmt, **weights):
    scheme = {"num_bits": 8, "type": "int", "symmetric": True, "dynamic": False, **weights}
    group = {"targets": ["Linear"], "weights": scheme, "input_activations": None, "output_activations": None}
    return {"quant_method": "compressed-tensors", "format": fmt, "config_groups": {"group_0": group},
            "ignore": ["lm_head"], "kv_cache_scheme": None, "quantization_status": "compressed"}


def gptq_config(bits, group, act=False, **more):
    return {"quant_method": "gptq", "bits": bits, "group_size": group, "desc_act": act, "sym": False, **more}


# name: (standard deviation of a scale's unit, quantization_config, packing of a matrix)
CASES = {
    "gptq4": (whole_number_std(4), gptq_config(4, 32), lambda r, n, k: packed.gptq(r, 4, n, k, 32)),
    "gptq4_act_order": (whole_number_std(4), gptq_config(4, 32, True),
                        lambda r, n, k: packed.gptq(r, 4, n, k, 32, act_order=True)),
    "gptq3_v2": (whole_number_std(3), gptq_config(3, -1, checkpoint_format="gptq_v2"),
                 lambda r, n, k: packed.gptq(r, 3, n, k, -1, v2=True)),
    "gptq2": (whole_number_std(2), gptq_config(2, 32, checkpoint_format="gptq"),
              lambda r, n, k: packed.gptq(r, 2, n, k, 32)),
    "gptq8": (whole_number_std(8), gptq_config(8, 32), lambda r, n, k: packed.gptq(r, 8, n, k, 32)),
    "awq": (whole_number_std(4), {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm",
                                  "zero_point": True}, lambda r, n, k: packed.awq(r, n, k, 32)),
    "words4": (whole_number_std(4), compressed("pack-quantized", num_bits=4, strategy="group", group_size=32,
                                               symmetric=False),
               lambda r, n, k: packed.words(r, 4, n, k, 32, False)),
    "words4_act_order": (whole_number_std(4),
                         compressed("pack-quantized", num_bits=4, strategy="group", group_size=32,
                                    symmetric=False, actorder="group"),
                         lambda r, n, k: packed.words(r, 4, n, k, 32, False, act_order=True)),
    "words8": (whole_number_std(8) / math.sqrt(2), compressed("pack-quantized", strategy="channel"),
               lambda r, n, k: packed.words(r, 8, n, k, 0, True)),
    "int8": (whole_number_std(8) / math.sqrt(2), compressed("int-quantized", strategy="channel"),
             lambda r, n, k: packed.int8(r, n, k, 0, True)),
    "fp8": (110.0, compressed("float-quantized", type="float", strategy="channel"),
            lambda r, n, k: packed.fp8(r, n, k, (n, 1), "BF16", "weight_scale")),
    "fp8_blocks": (110.0, {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [32, 32]},
                   lambda r, n, k: packed.fp8(r, n, k, (-(-n // 32), -(-k // 32)), "F32", "weight_scale_inv",
                                              block=(32, 32))),
}


def config_of():
    return tf.LlamaConfig(vocab_size=VOCAB, hidden_size=HIDDEN, intermediate_size=INNER, num_hidden_layers=1,
                          num_attention_heads=HEADS, num_key_value_heads=KV_HEADS, rms_norm_eps=1e-5,
                          max_position_embeddings=64, attn_implementation="eager", use_cache=False,
                          tie_word_embeddings=True, bos_token_id=1, eos_token_id=2)


def write_safetensors(path, tensors):
    header, at = {}, 0
    for name, kind, dims, data in tensors:
        header[name] = {"dtype": kind, "shape": dims, "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(data for *_, data in tensors))


def pack_matrix(rng, unit, pack, module, shape):
    """The module's tensors, and the weights that they mean."""
    rows, cols = shape
    size = GAINS[module.rsplit(".", 1)[1]] / math.sqrt(cols) / unit
    packed.spread = (0.6 * size, 1.4 * size)
    case = pack(rng, rows, cols)
    tensors = [(t["name"].replace(packed.MODULE, module), t["type"], t["dims"], base64.b64decode(t["bytes"]))
               for t in case["tensors"]]
    return tensors, np.frombuffer(base64.b64decode(case["weights"]), np.float32).reshape(rows, cols)


def plain(rng, name, shape):
    values = rng.standard_normal(shape) * (3.0 / math.sqrt(HIDDEN) if len(shape) == 2 else 0.3)
    if len(shape) == 1:
        values = values + 1
    return values.astype(np.float16)


def make(name, unit, quantization, pack):
    rng = np.random.default_rng(sum(name.encode()))
    model = tf.LlamaForCausalLM(config_of()).eval().float()
    tensors = []
    with torch.no_grad():
        for full, weight in model.named_parameters():
            module = full.removesuffix(".weight")
            if module.rsplit(".", 1)[1] in GAINS:
                parts, values = pack_matrix(rng, unit, pack, module, tuple(weight.shape))
                tensors += parts
            else:
                values = plain(rng, full, tuple(weight.shape))
                tensors.append((full, "F16", list(values.shape), values.tobytes()))
            weight.copy_(torch.from_numpy(values.astype(np.float32)))
        model.tie_weights()
        ids = rng.integers(3, VOCAB, TOKENS).tolist()
        logits = model(input_ids=torch.tensor([ids])).logits[0].float().numpy()
    folder = HERE / name
    folder.mkdir(parents=True, exist_ok=True)
    config = config_of().to_dict() | {"architectures": ["LlamaForCausalLM"], "quantization_config": quantization}
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    write_safetensors(folder / "model.safetensors", tensors)
    assert logits.std() >= 2, (name, logits.std())
    return {"name": name, "ids": ids, "logits": base64.b64encode(logits[-8:].tobytes()).decode()}


def main():
    HERE.mkdir(exist_ok=True)
    with (HERE / "logits.jsonl").open("w") as out:
        for name, (unit, quantization, pack) in CASES.items():
            out.write(json.dumps(make(name, unit, quantization, pack)) + "\n")


if __name__ == "__main__":
    main()
