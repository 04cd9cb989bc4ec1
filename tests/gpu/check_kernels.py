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
sys.path.insert(0, os.path.join(HERE, "..", "..", "bench", "gpu"))
import roofline  # noqa: E402  pylint: disable=wrong-import-position

CACHE = os.environ.get("ESPALIER_CACHE") or os.path.join(
    os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "espalier")
FATBIN_BYTES_MAX = 60 << 20
SASS_ARCHS = ("sm_80", "sm_90")
BANDWIDTHS = {device.matches: device.bytes_per_s for device in roofline.DEVICES}
ISSUERS = (("a100", "sm_80", 108, 1.41e9), ("h100", "sm_90", 132, 1.83e9), ("h200", "sm_90", 132, 1.83e9))
"""A name of roofline.DEVICES, architecture, multiprocessors, Hz: data sheets."""
SCHEDULERS = 4  # of a multiprocessor, each an instruction a cycle
SHARE = 0.8  # of the bandwidth: what kernels for few tokens are to reach


def skip(why):
    print(f"skipped: {why}")
    sys.exit(77)


def objects(build):
    found = sorted(glob.glob(os.path.join(build, "cuda", "cuda_*.o")))
    if not found:
        skip("nvcc built nothing here")
    return found


def limits_text():
    with open(os.path.join(HERE, "kernel_limits.txt"), encoding="utf-8") as file:
        return file.read()


def limits():
    return facts.read_limits(limits_text())


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


def print_rounds(rounds, loops):
    """Of the instructions that a device can issue, what share its kernels need to bring in weights at SHARE of its bandwidth.

    loops: of each architecture that the build has."""
    devices = [device for device in ISSUERS if device[1] in loops]
    print(f"issue slots at {SHARE:.0%} of the bandwidth of data sheets")
    print(f"{'kernel':24} {'bytes':>6}" + "".join(f" {arch:>8}" for arch in loops) + "".join(f" {device[0].upper():>6}" for device in devices))
    for name, most in rounds.items():
        if any(not of.get(name) for of in loops.values()):
            continue
        cells = "".join(f" {of[name].instructions:8}" for of in loops.values())
        for device, arch, processors, clock in devices:
            slots = most.bytes / (SHARE * BANDWIDTHS[device]) * processors * SCHEDULERS * clock
            cells += f" {loops[arch][name].instructions / slots:6.0%}"
        print(f"{name:24} {most.bytes:6}{cells}")


def sass(build):
    paths, program, held, faults, count, all_names = objects(build), disassembler(), limits(), [], 0, {}
    rounds, loops = facts.read_rounds(limits_text()), {}
    for path in paths:
        for arch in SASS_ARCHS:
            functions = disassemble(program, path, arch)
            instances = facts.instances_of(functions)
            names = {symbol: facts.name_of(instance) for symbol, instance in instances.items()}
            all_names.update(names)
            faults += facts.judge_sass(held, functions, names, arch)
            if functions: # a build may leave an architecture out
                of = loops.setdefault(arch, {})
                of.update({instances[s]: facts.main_loop(code) for s, code in functions.items() if instances[s] in rounds})
            count += len(functions)
    if not count:
        skip(f"the build has none of {', '.join(SASS_ARCHS)}")
    print_rounds(rounds, loops)
    for arch, of in loops.items():
        faults += facts.judge_rounds(rounds, of, arch)
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
