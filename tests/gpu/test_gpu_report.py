"""The table of GPU figures: bars are judged, PyTorch's rows find ours."""
# SPDX-License-Identifier: Apache-2.0
import os
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "bench", "gpu"))
import report  # noqa: E402  pylint: disable=wrong-import-position

DEVICE = {"bench": "device", "name": "NVIDIA Test 80GB", "sm": "90", "processors": 100}
LINEAR = {"bench": "linear", "of": "a layer", "format": "BF16", "tokens": 2048, "us": 100.0, "value": 0.7, "unit": "of the mma rate",
          "at_least": 0.6, "met": True}
DECODE = dict(LINEAR, tokens=1, value=0.8, at_least=0.85, met=False)


def torch_row(row, us):
    return {"bench": "torch", "part": row["bench"], "of": row["of"], "format": row["format"], "tokens": row["tokens"], "us": us}


class Report(unittest.TestCase):
    def test_a_bar_that_is_missed_is_told(self):
        _, rows, missed = report.join([DEVICE, LINEAR, DECODE])
        self.assertEqual((len(rows), missed), (2, [DECODE]))
        self.assertIn("MISSED", report.line_of(DECODE))
        self.assertNotIn("MISSED", report.line_of(LINEAR))

    def test_pytorch_stands_beside_the_row_of_the_same_work(self):
        _, rows, missed = report.join([DEVICE, LINEAR, DECODE, torch_row(LINEAR, 60.0)])
        self.assertEqual(rows[0]["torch_ratio"], 0.6)
        self.assertTrue(rows[0]["torch_met"])  # half of it is enough on sm_90
        self.assertNotIn("torch_us", rows[1])
        self.assertEqual(len(missed), 1)

    def test_older_devices_have_the_higher_bar(self):
        _, rows, missed = report.join([dict(DEVICE, sm="80"), LINEAR, torch_row(LINEAR, 60.0)])
        self.assertFalse(rows[0]["torch_met"])
        self.assertEqual(len(missed), 1)

    def test_results_are_a_file_of_the_device_and_the_day(self):
        with tempfile.TemporaryDirectory() as folder:
            path = report.write_results(folder, DEVICE, [LINEAR])
            self.assertRegex(os.path.basename(path), r"^nvidia-test-80gb-\d{4}-\d\d-\d\d\.json$")
            with open(path, encoding="utf-8") as file:
                self.assertEqual(report.json.load(file)["rows"], [LINEAR])


if __name__ == "__main__":
    unittest.main()
