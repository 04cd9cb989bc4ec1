"""A GGUF file with other metadata: pairs dropped by prefix, others added; tensors as they were."""
# SPDX-License-Identifier: Apache-2.0
import struct

U32, I32, F32, BOOL, TEXT, ARRAY = 4, 5, 6, 7, 8, 9
WIDTH = {0: 1, 1: 1, 2: 2, 3: 2, U32: 4, I32: 4, F32: 4, BOOL: 1, 10: 8, 11: 8, 12: 8}
FORMAT = {U32: "<I", I32: "<i", F32: "<f", BOOL: "<?"}


def text(value):
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def value_of(kind, value):
    if isinstance(kind, list):
        return struct.pack("<IQ", kind[0], len(value)) + b"".join(value_of(kind[0], v) for v in value)
    return text(value) if kind == TEXT else struct.pack(FORMAT[kind], value)


def pair(key, kind, value):
    return text(key) + struct.pack("<I", ARRAY if isinstance(kind, list) else kind) + value_of(kind, value)


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, count):
        self.at += count
        return self.data[self.at - count:self.at]

    def number(self, form):
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def text(self):
        return self.take(self.number("<Q")).decode()

    def skip(self, kind):
        if kind == TEXT:
            self.text()
        elif kind == ARRAY:
            element, count = self.number("<I"), self.number("<Q")
            for _ in range(count):
                self.skip(element)
        else:
            self.take(WIDTH[kind])


def rewrite(source, target, drop, add, alignment=32):
    """drop: prefixes of keys; add: [(key, type, value)], a list's type is [element type]."""
    with open(source, "rb") as file:
        reader = Reader(file.read())
    head = reader.take(8)
    tensors, pairs = reader.number("<Q"), reader.number("<Q")
    kept = []
    for _ in range(pairs):
        begin = reader.at
        key = reader.text()
        reader.skip(reader.number("<I"))
        if not key.startswith(tuple(drop)):
            kept.append(reader.data[begin:reader.at])
    begin = reader.at
    for _ in range(tensors):
        reader.text()
        reader.take(8 * reader.number("<I") + 12)
    table, data = reader.data[begin:reader.at], reader.data[-(-reader.at // alignment) * alignment:]
    kept += [pair(*one) for one in add]
    start = head + struct.pack("<QQ", tensors, len(kept)) + b"".join(kept) + table
    with open(target, "wb") as file:
        file.write(start + bytes(-len(start) % alignment) + data)
