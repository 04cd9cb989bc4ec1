#!/usr/bin/env python3
"""Writes tests/fuzz/corpus/image_tables: an adapter's tables as ranks send them, whole and spoiled
(engine/adapters/image_tables.h)."""
# SPDX-License-Identifier: Apache-2.0
import pathlib
import struct

OUT = pathlib.Path(__file__).parent / "corpus" / "image_tables"
FRAME = 8192


def part(rank=4, rows=64, bias=0, magnitude=0):
    return struct.pack("<IIfBBxx", rank, rows, 2.0, bias, magnitude)


def linear(role=1, layer=0, first=0, cols=64, parts=(part(),), count=None, piece_max=FRAME):
    body = b"".join(parts) + bytes(16 * (3 - len(parts)))
    return struct.pack("<IIIxxxxII", role, layer, first, cols, len(parts) if count is None else count) + body + \
        struct.pack("<QQ", piece_max, 0)


def place(frame=0, offset=0):
    return struct.pack("<IxxxxQ", frame, offset)


def tables(linears, places, frames=2, linear_count=None):
    head = struct.pack("<4I", len(linears) if linear_count is None else linear_count, len(places), frames, 0)
    return head + b"".join(linears) + b"".join(places)


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    two = [place(0, 0), place(1, 0)]
    files = {
        "one_piece": tables([linear()], [place()]),
        "two_linears": tables([linear(), linear(role=2, layer=1, first=1)], two),
        "three_parts": tables([linear(parts=(part(), part(8, 32, 1), part(2, 32, 0, 1)))], two),
        "end_of_frame": tables([linear()], [place(0, FRAME - 64)]),
        "crooked": tables([linear()], [place(0, 8)]),
        "no_frame": tables([linear()], [place(2, 0)]),
        "wide": tables([linear(cols=1 << 31)], [place()]),
        "high": tables([linear(parts=(part(rows=0xFFFFFFFF),))], [place()]),
        "ranks": tables([linear(parts=(part(rank=0xFFFFFFFF),))], [place()]),
        "many_pieces": tables([linear(cols=1 << 14)], two),
        "behind_the_last": tables([linear(first=1)], [place()]),
        "flags": tables([linear(parts=(part(bias=7),))], [place()]),
        "parts": tables([linear(count=9)], [place()]),
        "empty": tables([], [], 0),
        "cut": tables([linear()], [place()])[:-3],
        "counts": tables([linear()], [place()], linear_count=0xFFFFFFFF),
    }
    for name, data in files.items():
        (OUT / name).write_bytes(data)


if __name__ == "__main__":
    main()
