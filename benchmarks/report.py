"""Writes results down: Markdown tables, the block of README.md between its markers, the plot.

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
from benchmarks.goals import ratio

Result = dict[str, Any]
BEGIN, END = "<!-- results: begin, written by `python -m benchmarks` -->", "<!-- results: end -->"
PACKAGES = ("torch", "numpy", "mkl_random", "transformers")


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


def section(document: Result, plot: str | None) -> str:
    about = document["machine"]
    packages = ", ".join(f"{name} {number}" for name, number in about["packages"].items())
    first = (
        f"{about['date']}; {about.get('gpu') or about['cpu']}, {about['cores']} cores, "
        f"{about['system']}, instruction "
        f"set {about['instruction_set']}; fastinit {about['fastinit']} (stream "
        f"{about['stream_version']}), {packages}, Python {about['python']}; load average before "
        f"the run {about['load_before']}."
    )
    absent = [f"- refused, not timed: {c['name']}: {c['refused']}" for c in document["refused"]]
    absent += [f"- left out: {c['name']}: {c['reason']}" for c in document["left_out"]]
    absent = ["\n".join(absent)] if absent else []
    parts = [f"### torch {about['packages']['torch']}, {document['device']}", first, *absent]
    if plot:
        parts.append(f"![Speed over the baseline, by case]({plot})")
    parts += [goals(document), rates(document)]
    return "\n\n".join(parts)


def write_readme(readme: Path, folder: Path) -> None:
    """Put the tables of all results files between the markers."""
    sections = []
    for path in results_files(folder):
        picture = path.with_suffix(".svg")
        relative = os.path.relpath(picture, readme.parent) if picture.exists() else None
        sections.append(section(load(path), relative))
    text = readme.read_text()
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    readme.write_text(f"{before}{BEGIN}\n\n" + "\n\n".join(sections) + f"\n\n{END}{after}")


def draw(document: Result, path: Path) -> None:
    """Speed of the main contenders over the baseline of each case, with the goals as marks."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "fastinit"  # the same picture from the same results
    matplotlib.rcParams["svg.fonttype"] = "none"  # text stays text
    from matplotlib import pyplot

    bars: list[tuple[str, float, float | None]] = []
    for case in document["cases"]:
        for name in case["contenders"]:
            triple = ratio(case, name, case["baseline"])
            if name in (case["baseline"], "fill_") or triple is None:
                continue
            bound = [
                goal["bound"] if goal["quantity"] == "speed" else 1.0 / goal["bound"]
                for goal in case["goals"]
                if goal["quantity"] != "error"
                and (goal["contender"], goal["against"]) == (name, case["baseline"])
            ]
            bars.append((f"{_label(case)}: {name}", triple[0], bound[0] if bound else None))
    figure, axes = pyplot.subplots(figsize=(10, 0.8 + 0.24 * len(bars)))
    colours = [
        "tab:blue" if "fastinit" in text or "thread scaling" in text else "tab:gray"
        for text, _, _ in bars
    ]
    axes.barh([bar[0] for bar in bars], [bar[1] for bar in bars], color=colours)
    for place, (_, speed, bound_or_none) in enumerate(bars):
        axes.text(speed, place, f" {speed:.3g}", va="center", fontsize=7)
        if bound_or_none is not None:
            axes.plot([bound_or_none] * 2, [place - 0.4, place + 0.4], color="black")
    axes.axvline(1.0, color="black", linewidth=0.5)
    axes.set(xscale="log", xlabel="times as fast as the baseline of the case; black: the goal")
    axes.invert_yaxis()
    axes.tick_params(axis="y", labelsize=7)
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
    pyplot.close(figure)
