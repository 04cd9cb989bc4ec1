"""What stands beside every figure: the machine and the commit."""
# SPDX-License-Identifier: Apache-2.0
import os
import platform
import subprocess

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def machine():
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        info = dict((k.strip(), v.strip()) for k, _, v in (line.partition(":") for line in file) if v)
    wanted = {"avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8"}
    return {"cpu": info.get("model name", "?"), "cores": os.cpu_count(), "kernel": platform.release(),
            "levels": sorted(wanted & set(info.get("flags", "").split())),
            "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)}


def commit():
    done = subprocess.run(["git", "-C", ROOT, "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"
