"""Writes packed_weights.jsonl: small matrices as quantised Hugging Face folders keep them, and the
float32 weights that they mean.

Each line has the scheme, the tensors of one module (outermost dimension first, bytes in base64) and
the weights. The packing is written here from the formats' descriptions, with no library but numpy.

    python tests/vectors/make_packed_vectors.py
"""
# SPDX-License-Identifier: Apache-2.0
import base64
import json
import pathlib

import numpy as np

OUT = pathlib.Path(__file__).with_name("packed_weights.jsonl")
MODULE = "model.layers.0.self_attn.q_proj"
AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]


def dense(codes, bits):
    """[n, count] codes -> [n, words]: codes one after another, the first lowest."""
    words = (codes.shape[1] * bits + 31) // 32
    out = np.zeros((codes.shape[0], words), np.uint64)
    for i in range(codes.shape[1]):
        word, shift = divmod(i * bits, 32)
        value = codes[:, i].astype(np.uint64) << np.uint64(shift)
        out[:, word] |= value & np.uint64(0xFFFFFFFF)
        if shift + bits > 32:
            out[:, word + 1] |= value >> np.uint64(32)
    return out.astype(np.uint32).view(np.int32)


def e4m3(code):
    sign, exponent, fraction = -1.0 if code & 128 else 1.0, code >> 3 & 15, code & 7
    if exponent == 0:
        return sign * fraction * 2.0**-9
    return sign * (1 + fraction / 8) * 2.0 ** (exponent - 7)


def bf16(values):
    """Rounds to bf16; gives the bits and the values."""
    bits = np.asarray(values, np.float32).view(np.uint32)
    bits = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
    return bits, (bits.astype(np.uint32) << 16).view(np.float32)


spread = (0.002, 0.2)  # of scales


def scales_of(rng, shape, kind):
    values = (rng.uniform(*spread, shape) * rng.choice([-1, 1], shape)).astype(np.float32)
    if kind == "F16":
        stored = values.astype(np.float16)
        return ("F16", stored), stored.astype(np.float32)
    if kind == "BF16":
        bits, rounded = bf16(values)
        return ("BF16", bits), rounded
    return ("F32", values), values


def packed_tensor(name, kind, array):
    return {
        "name": f"{MODULE}.{name}",
        "type": kind,
        "dims": list(array.shape),
        "bytes": base64.b64encode(np.ascontiguousarray(array).tobytes()).decode(),
    }


def case(name, scheme, tensors, weights, ordered=False):
    weights = np.ascontiguousarray(weights, np.float32)
    return {
        "name": name,
        "module": MODULE,
        "scheme": scheme,
        "ordered": ordered,
        "rows": weights.shape[0],
        "cols": weights.shape[1],
        "tensors": [packed_tensor(*t) for t in tensors],
        "weights": base64.b64encode(weights.tobytes()).decode(),
    }


def grouped(scale, zero, codes, group_of):
    """[rows, groups] scales and zeros, [rows, cols] codes -> weights."""
    distance = codes.astype(np.int64) - zero.astype(np.int64)[:, group_of]
    return scale[:, group_of] * distance.astype(np.float32)


def gptq(rng, bits, rows, cols, group, v2=False, act_order=False, kind="F16", with_groups=True):
    size = cols if group == -1 else group
    groups = -(-cols // size)
    group_of = np.arange(cols) // size
    if act_order:
        group_of = group_of[rng.permutation(cols)]
    codes = rng.integers(0, 1 << bits, (rows, cols))
    stored = rng.integers(0, 1 << bits, (groups, rows))
    stored[0, 0], stored[0, 1] = 0, (1 << bits) - 1
    (scale_type, scale_array), scale = scales_of(rng, (groups, rows), kind)
    zero = stored + (0 if v2 else 1)
    tensors = [
        ("qweight", "I32", dense(codes, bits).T),
        ("qzeros", "I32", dense(stored, bits)),
        ("scales", scale_type, scale_array),
    ]
    if with_groups:
        tensors.append(("g_idx", "I32", group_of.astype(np.int32)))
    name = f"gptq{' v2' if v2 else ''} {bits} bits, groups of {group}"
    scheme = {
        "packing": "gptq",
        "bits": bits,
        "group_cols": max(group, 0),
        "zero_bias": 0 if v2 else 1,
    }
    weights = grouped(scale.T, zero.T, codes, group_of)
    return case(name + (", act-order" if act_order else ""), scheme, tensors, weights, act_order)


def awq(rng, rows, cols, group):
    size = cols if group == -1 else group
    groups = -(-cols // size)

    def pack(table):  # [lines, outputs]
        shuffled = table.reshape(table.shape[0], -1, 8)[:, :, AWQ_ORDER]
        return dense(shuffled.reshape(table.shape[0], -1), 4)

    codes = rng.integers(0, 16, (rows, cols))
    zero = rng.integers(0, 16, (groups, rows))
    (scale_type, scale_array), scale = scales_of(rng, (groups, rows), "F16")
    tensors = [
        ("qweight", "I32", pack(codes.T)),
        ("qzeros", "I32", pack(zero)),
        ("scales", scale_type, scale_array),
    ]
    scheme = {"packing": "awq", "bits": 4, "group_cols": max(group, 0)}
    weights = grouped(scale.T, zero.T, codes, np.arange(cols) // size)
    return case(f"awq, groups of {group}", scheme, tensors, weights)


def words(rng, bits, rows, cols, group, symmetric, kind="BF16", act_order=False, one_scale=False):
    size = group or cols
    groups, half = -(-cols // size), 1 << (bits - 1)
    group_of = np.arange(cols) // size
    if act_order:
        group_of = group_of[rng.permutation(cols)]
    codes = rng.integers(-half, half, (rows, cols))
    zero = np.zeros((rows, groups), np.int64)
    if not symmetric:
        zero = rng.integers(-half, half, (rows, groups))
    shape = (1,) if one_scale else (rows, groups)
    (scale_type, scale_array), scale = scales_of(rng, shape, kind)
    tensors = [
        ("weight_packed", "I32", dense(codes + half, bits)),
        ("weight_scale", scale_type, scale_array),
        ("weight_shape", "I64", np.array([rows, cols], np.int64)),
    ]
    if not symmetric:
        tensors.append(("weight_zero_point", "I32", dense((zero + half).T, bits).T))
    if act_order:
        tensors.append(("weight_g_idx", "I32", group_of.astype(np.int32)))
    scheme = {"packing": "words", "bits": bits, "group_cols": group, "symmetric": symmetric}
    weights = grouped(np.broadcast_to(scale, (rows, groups)), zero, codes, group_of)
    name = f"pack-quantized int{bits}, group {group}{'' if symmetric else ', zero points'}"
    return case(name, scheme, tensors, weights, act_order)


def int8(rng, rows, cols, group, symmetric, flat=False):
    size = group or cols
    groups = -(-cols // size)
    codes = rng.integers(-128, 128, (rows, cols))
    zero = np.zeros((rows, groups), np.int64)
    if not symmetric:
        zero = rng.integers(-128, 128, (rows, groups))
    (scale_type, scale_array), scale = scales_of(rng, (rows, groups), "F32")
    tensors = [
        ("weight", "I8", codes.astype(np.int8)),
        ("weight_scale", scale_type, scale_array.reshape(-1) if flat else scale_array),
    ]
    if not symmetric:
        tensors.append(("weight_zero_point", "I8", zero.astype(np.int8)))
    scheme = {"packing": "int8", "bits": 8, "group_cols": group, "symmetric": symmetric}
    weights = grouped(scale, zero, codes, np.arange(cols) // size)
    return case(f"int-quantized, group {group}", scheme, tensors, weights)


def fp8(rng, rows, cols, scale_shape, kind, suffix, block=None):
    codes = rng.integers(0, 256, (rows, cols))
    codes[(codes & 127) == 127] ^= 1
    (scale_type, scale_array), scale = scales_of(rng, scale_shape, kind)
    floats = np.vectorize(e4m3)(codes).astype(np.float32)
    scheme = {"packing": "fp8", "bits": 8}
    spread = scale
    if block:
        scheme |= {"block_rows": block[0], "group_cols": block[1]}
        spread = scale.repeat(block[0], 0)[:rows].repeat(block[1], 1)[:, :cols]
    elif scale.ndim == 1 and scale.size > 1:
        spread = scale[:, None]
    tensors = [("weight", "F8_E4M3", codes.astype(np.uint8)), (suffix, scale_type, scale_array)]
    name = f"fp8, {kind} scales {list(scale_shape)}"
    return case(name, scheme, tensors, (spread * floats).astype(np.float32))


def cases():
    rng = np.random.default_rng(20240517)
    for bits, rows in ((2, 16), (3, 32), (4, 16), (8, 12)):
        yield gptq(rng, bits, rows, 64, 32)
        yield gptq(rng, bits, rows, 96, -1, v2=True)
        yield gptq(rng, bits, rows, 96, 32, act_order=True)
    yield gptq(rng, 4, 72, 64, 64, kind="BF16", with_groups=False)
    yield gptq(rng, 4, 8, 160, 64)  # a short last group
    yield gptq(rng, 3, 32, 128, 64, v2=True, act_order=True, kind="F32")
    yield awq(rng, 16, 64, 32)
    yield awq(rng, 72, 64, -1)
    yield words(rng, 4, 16, 64, 32, True)
    yield words(rng, 4, 16, 64, 32, False)
    yield words(rng, 4, 13, 96, 0, False, kind="F32")
    yield words(rng, 4, 13, 64, 0, True, kind="F16", one_scale=True)
    yield words(rng, 4, 16, 96, 32, False, act_order=True)
    yield words(rng, 8, 9, 64, 32, True)
    yield words(rng, 8, 9, 64, 0, False)
    yield words(rng, 2, 16, 64, 32, True)
    yield int8(rng, 9, 64, 0, True)
    yield int8(rng, 9, 64, 0, True, flat=True)
    yield int8(rng, 9, 64, 32, False)
    yield fp8(rng, 9, 64, (), "F32", "weight_scale")
    yield fp8(rng, 9, 64, (1,), "BF16", "weight_scale")
    yield fp8(rng, 9, 64, (9, 1), "F32", "weight_scale")
    yield fp8(rng, 9, 64, (9,), "F16", "weight_scale")
    yield fp8(rng, 40, 96, (3, 2), "F32", "weight_scale_inv", block=(16, 64))


def main():
    with OUT.open("w") as out:
        for row in cases():
            out.write(json.dumps(row) + "\n")
    print(OUT.name, OUT.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
