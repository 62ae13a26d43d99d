"""Instructions that fills take, counted by valgrind's callgrind: python -m tools.instructions.

A gate that noise cannot touch: it needs no quiet machine, and a change of two per cent shows. Holds
what the extension at hand takes against counts.json, which `--record` writes. Counts depend on the
compiler and on the versions of Python and torch; where these are not the recorded ones, the counts
are printed and not compared. Valgrind knows no AVX-512, so AVX2 is counted.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).parent
COUNTS = HERE / "counts.json"
TOLERANCE = 0.02
CALLS = (2, 12)
NAMES = [
    "uniform_ float32",
    "normal_ float32",
    "normal_ bfloat16",
    "trunc_normal_ float64",
    "kaiming_normal_ 16x16",
]


def versions() -> dict[str, str]:
    """What counts depend on."""
    compiler = subprocess.run(["c++", "--version"], capture_output=True, text=True, check=False)
    first = compiler.stdout.splitlines()[:1]
    return {
        "compiler": first[0] if first else "none",
        "python": platform.python_version(),
        "torch": version("torch"),
        "machine": platform.machine(),
    }


def totals(folder: Path) -> list[int]:
    """The instructions of each dump, in order."""
    found = []
    for path in folder.glob("out.*"):
        text = path.read_text(errors="replace")
        summary = re.search(r"^totals: (\d+)", text, re.MULTILINE)
        part = re.search(r"^part: (\d+)", text, re.MULTILINE)
        if summary and part:
            found.append((int(part[1]), int(summary[1])))
    return [count for _, count in sorted(found)]


def count() -> dict[str, int]:
    """Instructions of one call of each subject."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = ["valgrind", "--tool=callgrind", "--instr-atstart=no"]
        command += [f"--callgrind-out-file={folder / 'out'}", sys.executable, "-W", "ignore"]
        run = subprocess.run(
            [*command, str(HERE / "subject.py"), *map(str, CALLS)],
            env={
                **os.environ,
                "PYTHONHASHSEED": "0",
                "PYTHONPATH": os.pathsep.join([str(HERE.parents[1]), *sys.path[1:]]),
                "OMP_NUM_THREADS": "1",
            },
            capture_output=True,
            text=True,
            check=False,
        )
        found = totals(folder)
        if run.returncode != 0 or len(found) < 2 * len(NAMES):
            raise SystemExit(f"{run.stderr[-3000:]}\ncallgrind failed; see above")
    pairs = zip(found[0::2], found[1::2], strict=False)
    each = [round((more - less) / (CALLS[1] - CALLS[0])) for less, more in pairs]
    return dict(zip(NAMES, each, strict=False))


def main() -> int:
    """Count, and compare or record."""
    parser = argparse.ArgumentParser(prog="python -m tools.instructions", description=__doc__)
    parser.add_argument("--record", action="store_true", help="write counts.json")
    options = parser.parse_args()
    if shutil.which("valgrind") is None:
        print("skipped: valgrind is not installed")
        return 0
    found, now = count(), versions()
    if options.record:
        COUNTS.write_text(json.dumps({"versions": now, "counts": found}, indent=1) + "\n")
    recorded = json.loads(COUNTS.read_text())
    comparable = recorded["versions"] == now
    if not comparable:
        print(f"not compared: recorded with {recorded['versions']}, here {now}")
    slower = 0
    for name, instructions in found.items():
        ratio = instructions / recorded["counts"][name]
        slower += comparable and ratio > 1 + TOLERANCE
        print(f"{name:<24} {instructions:>12,}  {ratio:.3f} of the recorded")
    if slower:
        print(f"{slower} take over {TOLERANCE:.0%} more; if that is meant, --record")
    return int(slower > 0)


if __name__ == "__main__":
    raise SystemExit(main())
