"""What nvcc made of each kernel: ptxas' report, the instructions, and the limits they are held to."""
# SPDX-License-Identifier: Apache-2.0
import collections
import re
import subprocess

Limit = collections.namedtuple("Limit", "registers stack spill sass")
Made = collections.namedtuple("Made", "symbol arch registers stack spill")

SASS_WORDS = {"load128": r"\bLDG(STS)?\b[.\w]*\.128", "async128": r"\bLDGSTS\b[.\w]*\.128", "hmma": r"\bHMMA\."}
LOCAL = r"\b(LDL|STL)\b"


def read_limits(text):
    """name -> Limit, of kernel_limits.txt."""
    limits = {}
    for number, line in enumerate(text.splitlines(), 1):
        fields = line.split("#")[0].split()
        if not fields:
            continue
        if len(fields) != 5:
            raise ValueError(f"line {number}: {len(fields)} fields; wanted kernel, registers, stack, spill, sass")
        name, registers, stack, spill, sass = fields
        words = [] if sass == "-" else sass.split(",")
        unknown = [w for w in words if w not in SASS_WORDS]
        if unknown or name in limits:
            raise ValueError(f"line {number}: {'unknown word ' + unknown[0] if unknown else name + ' stands there twice'}")
        limits[name] = Limit(int(registers), int(stack), int(spill), words)
    if "*" not in limits:
        raise ValueError("there is no row *")
    return limits


def read_ptxas(text):
    """The Made of every kernel that a report names."""
    made, at = [], None
    for line in text.splitlines():
        if found := re.search(r"Compiling entry function '(\S+)' for '(sm_\w+)'", line):
            at = {"symbol": found[1], "arch": found[2]}
        elif found := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores", line):
            if at and "stack" not in at:
                at.update(stack=int(found[1]), spill=int(found[2]))
        elif (found := re.search(r"Used (\d+) registers", line)) and at and "stack" in at:
            made.append(Made(registers=int(found[1]), **at))
            at = None
    return made


def read_sass(text):
    """symbol -> its instructions as one text."""
    parts = re.split(r"^\s*Function : (\S+)$", text, flags=re.M)
    return dict(zip(parts[1::2], parts[2::2]))


def names_of(symbols):
    """symbol -> kernel's name without namespace, arguments and template arguments."""
    symbols = sorted(symbols)
    plain = subprocess.run(["c++filt"], input="\n".join(symbols), capture_output=True, text=True, check=True).stdout.splitlines()
    return {symbol: re.split(r"[<(]", shown.replace("(anonymous namespace)::", ""))[0].split("::")[-1].split()[-1]
            for symbol, shown in zip(symbols, plain)}


def limit_of(limits, name):
    return limits.get(name, limits["*"])


def judge_ptxas(limits, made, names):
    """Sentences about what is over its limit."""
    faults = []
    for m in made:
        limit = limit_of(limits, names[m.symbol])
        for what in ("registers", "stack", "spill"):
            seen, most = getattr(m, what), getattr(limit, what)
            if seen > most:
                faults.append(f"{names[m.symbol]} ({m.symbol}, {m.arch}): {what} {seen}; at most {most}")
    return faults


def judge_sass(limits, functions, names, arch):
    faults = []
    for symbol, code in functions.items():
        limit = limit_of(limits, names[symbol])
        where = f"{names[symbol]} ({symbol}, {arch})"
        faults += [f"{where}: no {word} in its instructions" for word in limit.sass if not re.search(SASS_WORDS[word], code)]
        if limit.stack == limit.spill == 0 and re.search(LOCAL, code):
            faults.append(f"{where}: reads or writes local memory")
    return faults


def stale(limits, names):
    """Rows of kernels that are no more."""
    return [f"kernel_limits.txt has a row for {name}, and no kernel is called so"
            for name in limits if name != "*" and name not in names.values()]
