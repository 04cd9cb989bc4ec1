"""Writes families-w4/: small models of families/ with their matrices as Q4_0, for tests that need a family in
four bits. Norms and biases stay as they are.

    python3 make_w4_families.py        (gguf, numpy)
"""
import pathlib

import gguf
import numpy as np

HERE = pathlib.Path(__file__).parent
NAMES = ["llama3", "qwen3", "gemma2", "mistral", "phi3"]
NOT_OURS = ("GGUF.", "general.architecture")  # the writer makes these itself


def copy_field(writer, field):
    kind = field.types[0]
    if kind == gguf.GGUFValueType.ARRAY:
        writer.add_key_value(field.name, field.contents(), kind, sub_type=field.types[-1])
    else:
        writer.add_key_value(field.name, field.contents(), kind)


def rewrite(name):
    reader = gguf.GGUFReader(HERE / "families" / f"{name}.gguf")
    arch = reader.fields["general.architecture"].contents()
    (HERE / "families-w4").mkdir(exist_ok=True)
    writer = gguf.GGUFWriter(HERE / "families-w4" / f"{name}.gguf", arch)
    for field in reader.fields.values():
        if not field.name.startswith(NOT_OURS):
            copy_field(writer, field)
    for t in reader.tensors:
        if len(t.shape) == 2:
            values = np.asarray(t.data, dtype=np.float32).reshape(t.shape[::-1])
            data = gguf.quantize(values, gguf.GGMLQuantizationType.Q4_0)
            writer.add_tensor(t.name, data, raw_dtype=gguf.GGMLQuantizationType.Q4_0)
        else:
            writer.add_tensor(t.name, np.asarray(t.data))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    for name in NAMES:
        rewrite(name)
