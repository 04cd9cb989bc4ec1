"""report.py [--results FOLDER] ROWS: bench_gpu's rows (and torch_rows.py's) as a table and, in FOLDER, as a file.

Exit 1 when a bar is not met. A row of PyTorch stands beside ours of the same bench, name, format and tokens; the bars
of that comparison are RATIOS, of their time to ours.
"""
# SPDX-License-Identifier: Apache-2.0
import argparse
import datetime
import json
import os
import re
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PREFILL = 1024
"""Linears of so many tokens and more are held to torch.matmul, which has a path of its own on sm_90."""


def key_of(row):
    return row["bench"], row["of"], row.get("format", ""), row.get("tokens", 0)


def ratio_bar(row, sm):
    """How many times PyTorch's time ours must be; None: there is no bar."""
    if row["bench"] == "linear":
        return (0.5 if int(sm) >= 90 else 0.9) if row.get("tokens", 0) >= PREFILL and row["of"].endswith(" layer") else None
    return 1.0 if row["bench"] in ("attention", "model") else None


def join(rows):
    """The device, our rows with PyTorch's time beside them, and the bars that are not met."""
    device = next(row for row in rows if row["bench"] == "device")
    torch = {key_of(dict(row, bench=row["part"])): row["us"] for row in rows if row["bench"] == "torch"}
    ours = [dict(row) for row in rows if row["bench"] not in ("device", "torch")]
    missed = []
    for row in ours:
        theirs = torch.get(key_of(row))
        if theirs:
            row.update(torch_us=theirs, torch_ratio=theirs / row["us"])
            bar = ratio_bar(row, device["sm"])
            if bar:
                row.update(torch_at_least=bar, torch_met=row["torch_ratio"] >= bar)
        if row.get("met") is False or row.get("torch_met") is False:
            missed.append(row)
    return device, ours, missed


def mark(row, name):
    return "" if name not in row else "ok" if row[name] else "MISSED"


def line_of(row):
    bar = f">= {row['at_least']:g}" if "at_least" in row else f"<= {row['at_most']:g}" if "at_most" in row else ""
    torch = f"{row['torch_ratio']:8.2f}" if "torch_ratio" in row else f"{'':8}"
    us = f"{row['us']:12.1f}" if "us" in row else f"{'':12}"
    what = f"{row['bench']} {row['of']}"
    return (f"{what:52} {row.get('format', ''):5} {row.get('tokens', '') or '':>6} {us} {row['value']:10.3f} {row['unit']:22} "
            f"{bar:8} {mark(row, 'met'):6} {torch} {mark(row, 'torch_met')}").rstrip()


def commit():
    try:
        done = subprocess.run(["git", "-C", ROOT, "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    except OSError:  # no git here
        return "unknown"
    return done.stdout.strip() or "unknown"


def write_results(folder, device, rows):
    name = re.sub(r"[^a-z0-9]+", "-", device["name"].lower()).strip("-")
    path = os.path.join(folder, f"{name}-{datetime.date.today()}.json")
    os.makedirs(folder, exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        head = json.dumps({"device": device, "commit": commit(), "date": str(datetime.date.today())})
        file.write(head[:-1] + ', "rows": [\n' + ",\n".join(json.dumps(row) for row in rows) + "\n]}\n")
    return path


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--results")
    parser.add_argument("rows")
    options = parser.parse_args()
    with open(options.rows, encoding="utf-8") as file:
        rows = [json.loads(line) for line in file if line.startswith("{")]
    device, ours, missed = join(rows)
    print(f"{device['name']}, sm_{device['sm']}, {device['processors']} processors")
    print(f"{'what':52} {'':5} {'tokens':>6} {'us':>12} {'value':>10} {'':22} {'bar':8} {'':6} {'x torch':>8}")
    for row in ours:
        print(line_of(row))
    if options.results:
        print(f"results: {os.path.relpath(write_results(options.results, device, ours), ROOT)}")
    barred = sum("met" in row for row in ours) + sum("torch_met" in row for row in ours)
    print(f"{barred} bars, {len(missed)} rows miss theirs; PyTorch: "
          f"{'beside ours' if any('torch_us' in row for row in ours) else 'not measured'}")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
