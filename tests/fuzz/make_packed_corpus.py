#!/usr/bin/env python3
"""Writes tests/fuzz/corpus/packed: a quantization_config, a NUL and a safetensors file with one
module, whole and spoiled."""
# SPDX-License-Identifier: Apache-2.0
import json
import pathlib
import struct

OUT = pathlib.Path(__file__).parent / "corpus" / "packed"


def noise(count):
    return bytes(i * 73 % 251 for i in range(count))


def halves(count):
    return struct.pack("<e", 0.25) * count


def words(values):
    return struct.pack(f"<{len(values)}i", *values)


def seed(config, tensors):
    header, data = {}, b""
    for name, (kind, shape, content) in tensors.items():
        header["m." + name] = {"dtype": kind, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return json.dumps(config).encode() + b"\0" + struct.pack("<Q", len(text)) + text + data


def gptq(bits=4, group=32, columns=64, rows=32, groups=None, g_idx=None, **config):
    groups = groups or -(-columns // (group if group > 0 else columns))
    parts = {
        "qweight": ("I32", [columns * bits // 32, rows], noise(columns * bits // 8 * rows)),
        "qzeros": ("I32", [groups, rows * bits // 32], noise(groups * rows * bits // 8)),
        "scales": ("F16", [groups, rows], halves(groups * rows)),
    }
    if g_idx:
        parts["g_idx"] = ("I32", [len(g_idx)], words(g_idx))
    return seed({"quant_method": "gptq", "bits": bits, "group_size": group} | config, parts)


def compressed(fmt, parts, **weights):
    group = {"targets": ["re:.*m", "Linear"], "weights": {"num_bits": 4, "type": "int"} | weights}
    return seed({"quant_method": "compressed-tensors", "format": fmt,
                 "config_groups": {"a": group, "b": group}}, parts)


def int4(shape=(8, 64), **parts):
    return {"weight_packed": ("I32", [8, 8], noise(256)), "weight_scale": ("F16", [8, 2], halves(16)),
            "weight_zero_point": ("I32", [1, 2], noise(8)),
            "weight_shape": ("I64", [2], struct.pack("<2q", *shape))} | parts


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    mixed = [(7 * i + i // 32) % 2 for i in range(64)]
    fp8 = {"weight": ("F8_E4M3", [8, 64], bytes(i % 120 for i in range(512)))}
    files = {
        "gptq": gptq(), "gptq3": gptq(bits=3, columns=96, group=-1), "gptq8": gptq(bits=8),
        "gptq_act_order": gptq(g_idx=sorted(mixed)[::-1], desc_act=True),
        "gptq_uneven": gptq(g_idx=[1] + [0] * 63),
        "gptq_group_far": gptq(g_idx=[9] * 64), "gptq_group_below": gptq(g_idx=[-1] * 64),
        "gptq_groups_short": gptq(g_idx=[0, 1]), "gptq_no_groups": gptq(desc_act=True),
        "gptq_few_scales": gptq(groups=1), "gptq_24": gptq(group=24), "gptq_bits": gptq(bits=8, checkpoint_format="gptq_v2"),
        "awq": seed({"quant_method": "awq", "bits": 4, "group_size": 32},
                    {"qweight": ("I32", [64, 4], noise(1024)), "qzeros": ("I32", [2, 4], noise(32)),
                     "scales": ("F16", [2, 32], halves(64))}),
        "awq_thin": seed({"quant_method": "awq", "bits": 4, "group_size": -1},
                         {"qweight": ("I32", [64, 0], b""), "qzeros": ("I32", [1, 0], b""),
                          "scales": ("F16", [1, 0], b"")}),
        "words": compressed("pack-quantized", int4(), strategy="group", group_size=32, symmetric=False),
        "words_shape": compressed("pack-quantized", int4(shape=(2**62, -1)), strategy="group", group_size=32),
        "words_no_zeros": compressed("pack-quantized", {k: v for k, v in int4().items() if "zero" not in k},
                                     strategy="group", group_size=32, symmetric=False),
        "words_order": compressed("pack-quantized", int4(weight_g_idx=("I32", [64], words(sorted(mixed)[::-1]))),
                                  strategy="group", group_size=32),
        "int8": compressed("int-quantized", {"weight": ("I8", [8, 64], noise(512)),
                                             "weight_scale": ("F32", [8, 1], bytes(32))},
                           num_bits=8, strategy="channel"),
        "fp8": seed({"quant_method": "fp8", "weight_block_size": [4, 32]},
                    fp8 | {"weight_scale_inv": ("F32", [2, 2], struct.pack("<4f", 1, 2, 3, 4))}),
        "fp8_nan_scale": seed({"quant_method": "fbgemm_fp8"},
                              fp8 | {"weight_scale": ("F32", [8, 1], struct.pack("<f", float("nan")) * 8)}),
        "fp8_huge_blocks": seed({"quant_method": "fp8", "weight_block_size": [2**40, 2**40]},
                                fp8 | {"weight_scale_inv": ("F32", [1, 1], bytes(4))}),
        "no_method": seed({}, fp8), "pattern": seed({"quant_method": "compressed-tensors", "format": "naive-quantized",
                          "config_groups": {str(i): {"targets": ["re:(a*)*$", "re:(", 3], "weights": {"num_bits": 8}}
                                            for i in range(3)}}, {"weight": ("I8", [8, 64], noise(512))}),
        "groups_17": seed({"quant_method": "compressed-tensors", "format": "naive-quantized", "config_groups":
                           {str(i): {"weights": {"num_bits": 8}} for i in range(17)}}, fp8),
        "config_alone": b'{"quant_method":"gptq"}\0', "no_nul": b'{"quant_method":"gptq"}', "empty": b"",
    }
    for name, content in files.items():
        (OUT / name).write_bytes(content)


if __name__ == "__main__":
    main()
