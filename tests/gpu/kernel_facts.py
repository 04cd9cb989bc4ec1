"""What nvcc made of each kernel: ptxas' report, the instructions, and the limits they are held to."""
# SPDX-License-Identifier: Apache-2.0
import collections
import re
import subprocess

Limit = collections.namedtuple("Limit", "registers stack spill sass")
Round = collections.namedtuple("Round", "instructions bytes")
"""Of a main loop: what a round may take at most, and the bytes of weights that it is through with then."""
Loop = collections.namedtuple("Loop", "instructions mma")
Made = collections.namedtuple("Made", "symbol arch registers stack spill")

SASS_WORDS = {"load128": r"\bLDG(STS)?\b[.\w]*\.128", "async128": r"\bLDGSTS\b[.\w]*\.128", "hmma": r"\bHMMA\."}
LOCAL = r"\b(LDL|STL)\b"


def rows_of(text):
    """Number and fields of each line of kernel_limits.txt that has any."""
    for number, line in enumerate(text.splitlines(), 1):
        if fields := line.split("#")[0].split():
            yield number, fields


def read_rounds(text):
    """kernel with its template arguments -> Round, of the rows of kernel_limits.txt that begin with "round"."""
    rounds = {}
    for number, fields in rows_of(text):
        if fields[0] != "round":
            continue
        if len(fields) != 4 or fields[1] in rounds:
            raise ValueError(f"line {number}: wanted round, kernel<arguments>, instructions, bytes; each kernel once")
        rounds[fields[1]] = Round(int(fields[2]), int(fields[3]))
    return rounds


def read_limits(text):
    """name -> Limit, of the others."""
    limits = {}
    for number, fields in rows_of(text):
        if fields[0] == "round":
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


def main_loop(code):
    """The Loop without a loop in it that has the most tensor instructions; None without any. code: as read_sass has it."""
    lines = [(int(at, 16), text) for at, text in re.findall(r"/\*([0-9a-f]{4,})\*/\s+([^;]*);", code)]
    ends = [(int(found[1], 16), at) for at, text in lines if (found := re.search(r"\bBRA\b.*?0x([0-9a-f]+)", text))
            and int(found[1], 16) <= at]
    loops = []
    for first, last in ends:
        if any(first <= a and b <= last and (a, b) != (first, last) for a, b in ends):
            continue
        body = [text for at, text in lines if first <= at <= last]
        loops.append(Loop(len(body), sum(bool(re.search(SASS_WORDS["hmma"], text)) for text in body)))
    return max((loop for loop in loops if loop.mma), key=lambda loop: loop.mma, default=None)


def instances_of(symbols):
    """symbol -> kernel's name with its template arguments, without its namespace and spaces."""
    symbols = sorted(symbols)
    plain = subprocess.run(["c++filt"], input="\n".join(symbols), capture_output=True, text=True, check=True).stdout.splitlines()
    instances = {}
    for symbol, shown in zip(symbols, plain):
        shown = shown.replace("(anonymous namespace)::", "").removeprefix("void ").split("(")[0]
        name, *arguments = shown.split("<", 1)
        instances[symbol] = "<".join([name.split("::")[-1], *arguments]).replace(" ", "")
    return instances


def name_of(instance):
    """The same without template arguments."""
    return instance.split("<")[0]


def names_of(symbols):
    """symbol -> kernel's name."""
    return {symbol: name_of(instance) for symbol, instance in instances_of(symbols).items()}


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


def judge_rounds(rounds, loops, arch):
    """loops: kernel with its template arguments -> Loop or None."""
    faults = []
    for name, most in rounds.items():
        loop = loops.get(name)
        if not loop:
            faults.append(f"{name} ({arch}): no such kernel, or none of its loops has tensor instructions")
        elif loop.instructions > most.instructions:
            faults.append(f"{name} ({arch}): {loop.instructions} instructions a round; at most {most.instructions}")
    return faults


def stale(limits, names):
    """Rows of kernels that are no more."""
    return [f"kernel_limits.txt has a row for {name}, and no kernel is called so"
            for name in limits if name != "*" and name not in names.values()]
