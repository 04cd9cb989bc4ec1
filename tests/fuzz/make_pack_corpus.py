#!/usr/bin/env python3
"""Writes tests/fuzz/corpus/pack: small packs, whole and spoiled (engine/model/cache/pack_file.h). Hashes
are left 0: the fuzz target makes them right."""
# SPDX-License-Identifier: Apache-2.0
import pathlib
import struct

OUT = pathlib.Path(__file__).parent / "corpus" / "pack"
PAGE = 4096
STRETCH = 2 << 20


def entry(role, rows, cols, dtype, at, order_bytes, count):
    return struct.pack("<5I12s4Q", role, 0, 0, rows, cols, dtype, at, order_bytes, count, 0)


def pack(entries, data, **changes):
    """data lies from PAGE on; the table behind it, with a hash for each stretch."""
    body = data + bytes(-len(data) % 64)
    fields = dict(magic=b"ESPPACK2", table_at=PAGE + len(body), count=len(entries))
    fields["stretches"] = -(-fields["table_at"] // STRETCH)
    fields.update(changes)
    table = b"".join(entries) + bytes(8 * min(fields["stretches"], 8))
    header = struct.pack("<8s16sQQQQIIQ6QQ", fields["magic"], bytes(16), 0, 0, 0, fields["table_at"],
                         fields["count"], fields["stretches"], 0, *[0] * 6, 0)
    return header + bytes(PAGE - len(header)) + body + table


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    # a tile of Q4_1 as the cpu keeps it: 256 bytes of codes, 64 of scales; as ref does: 16 blocks of 20
    q4_1 = bytes(i * 7 % 256 for i in range(320))
    order = struct.pack("<32I", *reversed(range(32)))
    twice = struct.pack("<32I", *[0] * 32)
    one = [entry(0, 16, 32, b"Q4_1", PAGE, 0, 320)]
    files = {
        "whole": pack(one, q4_1),
        "ordered": pack([entry(1, 16, 32, b"G4", PAGE, 128, 352)], order + q4_1 + bytes(32)),
        "order_twice": pack([entry(1, 16, 32, b"G4", PAGE, 128, 352)], twice + q4_1 + bytes(32)),
        "order_short": pack([entry(1, 16, 32, b"Q4_1", PAGE, 64, 320)], order + q4_1),
        "rows_lie": pack([entry(0, 64, 32, b"Q4_1", PAGE, 0, 320)], q4_1),
        "rows_huge": pack([entry(0, 2**32 - 1, 2**32 - 32, b"F32", PAGE, 0, 320)], q4_1),
        "no_rows": pack([entry(0, 0, 32, b"Q4_1", PAGE, 0, 0)], q4_1),
        "no_cols": pack([entry(0, 16, 0, b"Q4_1", PAGE, 0, 320)], q4_1),
        "no_dtype": pack([entry(0, 16, 32, b"Q9_9", PAGE, 0, 320)], q4_1),
        "long_dtype": pack([entry(0, 16, 32, b"Q4_1Q4_1Q4_1", PAGE, 0, 320)], q4_1),
        "outside": pack([entry(0, 16, 32, b"Q4_1", PAGE * 9, 0, 320)], q4_1),
        "wraps": pack([entry(0, 16, 32, b"Q4_1", 2**64 - PAGE, 0, 2 * PAGE)], q4_1),
        "bytes_huge": pack([entry(0, 16, 32, b"Q4_1", PAGE, 0, 2**64 - 1)], q4_1),
        "order_huge": pack([entry(0, 16, 2**32 - 32, b"Q4_1", PAGE, 2**64 - 128, 320)], q4_1),
        "in_header": pack([entry(0, 1, 32, b"F32", 0, 0, 128)], q4_1),
        "crooked": pack([entry(0, 16, 32, b"Q4_1", PAGE + 4, 0, 316)], q4_1),
        "entries_huge": pack(one, q4_1, count=2**32 - 1),
        "table_outside": pack(one, q4_1, table_at=2**63),
        "table_in_header": pack(one, q4_1, table_at=64),
        "other_magic": pack(one, q4_1, magic=b"ESPPACK1"),
        "same_bytes": pack(one + [entry(1, 16, 32, b"Q4_1", PAGE, 0, 320)], q4_1),
        "no_stretches": pack(one, q4_1, stretches=0),
        "two_stretches": pack(one, q4_1, stretches=2),
        "stretches_huge": pack(one, q4_1, stretches=2**32 - 1),
        "no_entries": pack([], b""),
        "header_alone": pack([], b"")[:128],
        "short": b"ESPPACK1",
        "empty": b"",
    }
    for name, data in files.items():
        (OUT / name).write_bytes(data)


if __name__ == "__main__":
    main()
