"""Writes results down: Markdown tables, and the block of README.md between its markers.

Owns the format of the report and the description of the machine. Everything is made from the
results files alone, so that a report can be made again without measuring.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import re
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

import torch

import fastinit
from benchmarks.figures import DRAWINGS
from benchmarks.goals import ratio

Result = dict[str, Any]
BEGIN, END = "<!-- results: begin, written by `python -m benchmarks` -->", "<!-- results: end -->"
PACKAGES = ("torch", "numpy", "mkl_random", "jax", "transformers")


def machine() -> Result:
    """What a result depends on besides the code."""
    found = re.search(r"model name\s*: (.*)", _read("/proc/cpuinfo"))
    packages = {}
    for name in PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    build = fastinit.build_info()
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "cpu": found[1] if found else platform.processor(),
        "gpu": gpu and f"{gpu}, CUDA {torch.version.cuda}",
        "cores": os.cpu_count(),
        "instruction_set": build["instruction_set"],
        "fastinit": build["version"],
        "stream_version": build["stream_version"],
        "packages": packages,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "load_before": round(os.getloadavg()[0], 2),
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
    }


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def results_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.json"))


def load(path: Path) -> Result:
    document: Result = json.loads(path.read_text())
    return document


# Numbers


def duration(seconds: float) -> str:
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def _times(triple: tuple[float, float, float] | None) -> str:
    if triple is None:
        return "-"
    return f"{triple[0]:.3g}x ({triple[1]:.3g}-{triple[2]:.3g})"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _goal_rows(document: Result) -> list[list[str]]:
    rows = []
    for case in document["cases"]:
        for goal in case["goals"]:
            reached = "-" if goal["reached"] is None else f"{goal['reached']:.3g}"
            rows.append(
                [f"{_label(case)}: {goal['contender']}", goal["goal"], reached, goal["verdict"]]
            )
    return rows


def label(name: str, threads: int) -> str:
    return f"{name}, {threads} thread" + ("s" if threads > 1 else "")


def _label(case: Result) -> str:
    return label(case["name"], case["threads"])


# Tables


def rates(document: Result) -> str:
    """Every contender of every case, with the ratio to the case's baseline."""
    rows = []
    for case in document["cases"]:
        for place, (name, entry) in enumerate(case["contenders"].items()):
            seconds = median(entry["seconds"])
            of_fill = ratio(case, name, "fill_")
            error = f", error {entry['error']:.2g}" if "error" in entry else ""
            rows.append(
                [
                    _label(case) if place == 0 else "",
                    name + error,
                    duration(seconds),
                    f"{case['elements'] / seconds / 1e6:.4g}",
                    f"{case['bytes'] / seconds / 1e9:.3g}",
                    f"{of_fill[0]:.2f}" if of_fill else "-",
                    _times(ratio(case, name, case["baseline"])),
                ]
            )
    columns = ["one call", "M elements/s", "GB/s", "of `fill_`", "speed (quartiles)"]
    return _table(["case", "contender", *columns], rows)


def goals(document: Result) -> str:
    return _table(["case: contender", "goal", "reached", "verdict"], _goal_rows(document))


def section(document: Result, pictures: Sequence[str]) -> str:
    about = document["machine"]
    packages = ", ".join(f"{name} {number}" for name, number in about["packages"].items())
    first = (
        f"{about['date']}; {about.get('gpu') or about['cpu']}, {about['cores']} cores, "
        f"{about['system']}, instruction "
        f"set {about['instruction_set']}; fastinit {about['fastinit']} (stream "
        f"{about['stream_version']}), {packages}, Python {about['python']}; load average before "
        f"the run {about['load_before']}."
    )
    notes = [f"- refused, not timed: {c['name']}: {c['refused']}" for c in document["refused"]]
    notes += [f"- left out: {c['name']}: {c['reason']}" for c in document["left_out"]]
    for date in sorted({case["renewed"] for case in document["cases"] if "renewed" in case}):
        again = [case for case in document["cases"] if case.get("renewed") == date]
        setting = again[0]["malloc"]
        under = f" with GLIBC_TUNABLES={setting}" if setting else ""
        names = dict.fromkeys(case["name"] for case in again)
        notes.append(f"- of {date}{under}: {'; '.join(names)}")
    parts = [f"### torch {about['packages']['torch']}, {document['device']}", first]
    parts += [f"![{Path(picture).stem.split('-')[-1]}]({picture})" for picture in pictures]
    parts += [goals(document), rates(document), *(["\n".join(notes)] if notes else [])]
    return "\n\n".join(parts)


def write_readme(readme: Path, folder: Path) -> None:
    """Put the tables of all results files between the markers."""
    sections = []
    for path in results_files(folder):
        names = [path.with_name(f"{path.stem}-{name}.svg") for name, *_ in DRAWINGS[1:]]
        pictures = [os.path.relpath(name, readme.parent) for name in names if name.exists()]
        sections.append(section(load(path), pictures))
    text = readme.read_text()
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    readme.write_text(f"{before}{BEGIN}\n\n" + "\n\n".join(sections) + f"\n\n{END}{after}")
