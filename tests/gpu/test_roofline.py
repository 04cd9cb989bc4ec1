"""docs/roofline.md is what its script prints, and the script counts as the engine does."""
# SPDX-License-Identifier: Apache-2.0
import os
import sys
import unittest

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
sys.path.insert(0, os.path.join(ROOT, "bench", "gpu"))
import roofline  # noqa: E402  pylint: disable=wrong-import-position

LLAMA = roofline.SHAPES[0]


class Roofline(unittest.TestCase):
    def test_the_document_is_what_the_script_prints(self):
        with open(os.path.join(ROOT, "docs", "roofline.md"), encoding="utf-8") as file:
            self.assertEqual(file.read(), roofline.document(), "run bench/gpu/roofline.py > docs/roofline.md")

    def test_a_decode_step_reads_the_models_weights(self):
        work = roofline.model_work(LLAMA, "BF16", 1, 0)
        self.assertEqual(work.bytes, 2 * (8030261248 - 128256 * 4096 - 65 * 4096))  # the embedding is a row, norms are not matrices

    def test_a_floor_is_the_larger_of_two(self):
        device = roofline.Device("d", 1e6, 1e9, "d")
        self.assertEqual(roofline.floor_us(roofline.Work("w", 2, 1000), device), 2)
        self.assertEqual(roofline.floor_us(roofline.Work("w", 1, 3000), device), 3)

    def test_attention_sees_what_causal_queries_see(self):
        work = roofline.attention_work(LLAMA, 2, 5, 3)
        self.assertEqual(work.flops, 4 * 2 * (6 + 7 + 8) * 32 * 128)
        self.assertEqual(work.bytes, 2 * (2 * 8 * 8 * 128 * 2 + 3 * 32 * 128 * 6))
        coded = roofline.attention_work(LLAMA, 2, 5, 3, "int8")
        self.assertEqual((coded.flops, coded.bytes), (work.flops, 2 * (2 * 8 * 8 * (128 + 4) + 3 * 32 * 128 * 6)))

    def test_a_measured_time_stands_in_its_row_alone(self):
        work = roofline.linear_works(LLAMA, "BF16", 1)[0]
        found = {(("nvidia", "h200"), "linear", "llama-3.1-8b qkv", "BF16", 1): 12.5}
        self.assertEqual(roofline.measured(work, found), "H200 SXM 12.5")
        self.assertEqual(roofline.measured(roofline.linear_works(LLAMA, "BF16", 16)[0], found), "not measured")


if __name__ == "__main__":
    unittest.main()
