"""check_kernels.py ptxas|sass|fatbin BUILD: holds what nvcc made in BUILD/cuda to kernel_limits.txt; a table, then a verdict.

Exit 77, "skipped", where nothing was built by nvcc or, for sass, where no disassembler is (scripts/fetch_disassembler.sh).
"""
# SPDX-License-Identifier: Apache-2.0
import glob
import os
import re
import subprocess
import sys

import kernel_facts as facts

HERE = os.path.dirname(os.path.abspath(__file__))
CACHE = os.environ.get("ESPALIER_CACHE") or os.path.join(
    os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "espalier")
FATBIN_BYTES_MAX = 60 << 20
SASS_ARCHS = ("sm_80", "sm_90")


def skip(why):
    print(f"skipped: {why}")
    sys.exit(77)


def objects(build):
    found = sorted(glob.glob(os.path.join(build, "cuda", "cuda_*.o")))
    if not found:
        skip("nvcc built nothing here")
    return found


def limits():
    with open(os.path.join(HERE, "kernel_limits.txt"), encoding="utf-8") as file:
        return facts.read_limits(file.read())


def verdict(faults, checked):
    for fault in faults:
        print(f"FAULT  {fault}")
    print(f"{checked}; {len(faults)} faults")
    sys.exit(1 if faults else 0)


def ptxas(build):
    made = []
    for path in objects(build):
        with open(path + ".ptxas.txt", encoding="utf-8") as file:
            made += facts.read_ptxas(file.read())
    names, held = facts.names_of({m.symbol for m in made}), limits()
    print(f"{'kernel':32} {'instances':>9} {'registers':>9} {'stack':>6} {'spill':>6}")
    for name in sorted(set(names.values())):
        of = [m for m in made if names[m.symbol] == name]
        print(f"{name:32} {len(of):9} {max(m.registers for m in of):9} {max(m.stack for m in of):6} {max(m.spill for m in of):6}")
    verdict(facts.judge_ptxas(held, made, names) + facts.stale(held, names), f"{len(made)} kernels of all architectures")


def disassembler():
    found = glob.glob(os.path.join(CACHE, "venv-sass", "lib", "python*", "site-packages", "nvidia", "*", "bin", "cuobjdump"))
    if not found or not os.path.exists(os.path.join(os.path.dirname(found[0]), "nvdisasm")):
        skip("no disassembler (scripts/fetch_disassembler.sh brings it)")
    return found[0]


def disassemble(program, path, arch):
    env = dict(os.environ, PATH=os.path.dirname(program) + os.pathsep + os.environ["PATH"])
    done = subprocess.run([program, "-sass", "-arch", arch, path], env=env, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"cuobjdump {path}: {done.stderr.strip()}")
    return facts.read_sass(done.stdout)


def sass(build):
    paths, program, held, faults, count, all_names = objects(build), disassembler(), limits(), [], 0, {}
    for path in paths:
        for arch in SASS_ARCHS:
            functions = disassemble(program, path, arch)
            names = facts.names_of(functions)
            all_names.update(names)
            faults += facts.judge_sass(held, functions, names, arch)
            count += len(functions)
    if not count:
        skip(f"the build has none of {', '.join(SASS_ARCHS)}")
    verdict(faults + facts.stale(held, all_names), f"{count} kernels of {' and '.join(SASS_ARCHS)}")


def fatbin(build):
    total = 0
    for path in objects(build):
        sections = subprocess.run(["objdump", "-h", path], capture_output=True, text=True, check=True).stdout
        size = sum(int(found[1], 16) for found in re.finditer(r"^\s*\d+\s+\.nv_fatbin\s+([0-9a-f]+)", sections, re.M))
        print(f"{os.path.basename(path):32} {size:10}")
        total += size
    faults = [f"{total} bytes of device code; at most {FATBIN_BYTES_MAX}"] if total > FATBIN_BYTES_MAX else []
    verdict(faults if total else ["no section .nv_fatbin in any object"], f"{total} bytes of device code")


if __name__ == "__main__":
    {"ptxas": ptxas, "sass": sass, "fatbin": fatbin}[sys.argv[1]](sys.argv[2])
