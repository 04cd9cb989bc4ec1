"""run.sh and gpu.sh over programs that only pretend: tables, verdicts, exit codes, result files."""
# SPDX-License-Identifier: Apache-2.0
import glob
import json
import os
import subprocess
import tempfile
import unittest

ROOT = os.path.abspath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
PROBE = """echo '{"name":"NVIDIA Pretended","sm":"90","processors":1}'"""
BENCH = """echo '{"bench":"device","name":"NVIDIA Pretended","sm":"90","processors":1}'
echo '{"bench":"rate","of":"copy","us":1,"value":1000,"unit":"GB/s"}'
echo '{"bench":"linear","of":"a layer","format":"BF16","tokens":1,"us":5,"value":%s,"unit":"of copy bandwidth","at_least":0.85,"met":%s}'"""


class Scripts(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.program("gpu_probe", PROBE)

    def program(self, name, text):
        path = os.path.join(self.folder.name, name)
        with open(path, "w", encoding="utf-8") as file:
            file.write(f"#!/bin/sh\n{text}\n")
        os.chmod(path, 0o755)

    def run_script(self, script, *arguments):
        env = dict(os.environ, ESPALIER_GPU_RESULTS=self.folder.name)
        return subprocess.run([os.path.join(ROOT, script), "--programs", self.folder.name, *arguments], env=env, capture_output=True,
                              text=True, check=False)

    def results(self, pattern):
        (path,) = glob.glob(os.path.join(self.folder.name, pattern))
        with open(path, encoding="utf-8") as file:
            return json.load(file)

    def test_a_run_in_which_all_pass_is_good(self):
        self.program("test_cuda_one", "echo cases: 12; exit 0")
        self.program("test_cuda_two", "exit 77")
        done = self.run_script("tests/gpu/run.sh")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertRegex(done.stdout, r"test_cuda_one +passed")
        self.assertRegex(done.stdout, r"test_cuda_two +skipped")
        self.assertIn("2 tests with 12 cases of kernels on NVIDIA Pretended, 0 failed", done.stdout)
        rows = self.results("tests-nvidia-pretended-*.json")["rows"]
        self.assertEqual([row["cases"] for row in rows], [12, 0])
        self.assertEqual([(row["test"], row["verdict"]) for row in rows], [("test_cuda_one", "passed"), ("test_cuda_two", "skipped")])

    def test_a_test_that_fails_fails_the_run_and_shows_why(self):
        self.program("test_cuda_bad", "echo '[  ERROR   ] --- 1 != 2'; exit 1")
        done = self.run_script("tests/gpu/run.sh")
        self.assertEqual(done.returncode, 1)
        self.assertIn("1 != 2", done.stdout)

    def test_names_choose_tests(self):
        self.program("test_cuda_bad", "exit 1")
        self.program("test_cuda_good", "exit 0")
        self.assertEqual(self.run_script("tests/gpu/run.sh", "good").returncode, 0)
        self.assertNotEqual(self.run_script("tests/gpu/run.sh", "absent").returncode, 0)

    def test_without_a_device_nothing_is_run(self):
        self.program("gpu_probe", "echo no driver >&2; exit 77")
        for script in ("tests/gpu/run.sh", "bench/gpu.sh"):
            done = self.run_script(script)
            self.assertEqual(done.returncode, 77)
            self.assertIn("skipped: no driver", done.stderr)

    def test_bars_that_are_met_and_missed(self):
        for value, met, code in (("0.9", "true", 0), ("0.5", "false", 1)):
            self.program("bench_gpu", BENCH % (value, met))
            done = self.run_script("bench/gpu.sh", "--no-torch")
            self.assertEqual(done.returncode, code, done.stderr)
            self.assertIn("MISSED" if code else " ok", done.stdout)
            self.assertEqual(len(self.results("nvidia-pretended-*.json")["rows"]), 2)


if __name__ == "__main__":
    unittest.main()
