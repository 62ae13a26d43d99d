"""Draws the results: one figure a question, ours in one colour, legible at half the size.

Owns what is shown and how. Everything is made from one results file, so that a figure can be drawn
again without measuring; a figure for which the file has nothing is not drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.goals import ratio

Result = dict[str, Any]
OURS, THEIRS = "#0b6e99", "#b9bec5"
STOCK, CONSTRUCTOR = "torch.nn.init", "stock constructor"
LARGE_BYTES = 1e9


@dataclass(frozen=True)
class Bar:
    """One measured value; `told` stands at its end."""

    label: str
    value: float
    told: str
    ours: bool


def functions(document: Result) -> list[Bar]:
    """How many times as fast as torch.nn.init, at the largest number of threads."""
    most = max((case["threads"] for case in document["cases"]), default=1)
    found = [
        (case["name"], speed[0])
        for case in document["cases"]
        if case["threads"] == most and case["baseline"] == STOCK
        if (speed := ratio(case, "fastinit", STOCK)) is not None
    ]
    return [Bar(_short(name), speed, f"{speed:.3g}", True) for name, speed in found]


def models(document: Result) -> list[Bar]:
    """Seconds of the constructors of models of gigabytes."""
    return _constructors(document, large=True)


def architectures(document: Result) -> list[Bar]:
    """Seconds of the constructors of models of common size."""
    return _constructors(document, large=False)


def _constructors(document: Result, large: bool) -> list[Bar]:
    """Of each model stock's and the fastest of ours; the tables have the others."""
    bars = []
    for case in document["cases"]:
        if case["baseline"] != CONSTRUCTOR or large != (case["bytes"] > LARGE_BYTES):
            continue
        seconds = {name: _seconds(case, name) for name in case["contenders"]}
        stock, best = seconds.pop(CONSTRUCTOR), min(seconds, key=lambda name: seconds[name])
        bars.append(Bar(_short(case["name"]), stock, _duration(stock), False))
        bars.append(Bar(best, seconds[best], _duration(seconds[best]), True))
    return bars


def peers(document: Result) -> list[Bar]:
    """Millions of normal values a second, of everybody who draws them."""
    cases = [c for c in document["cases"] if c["name"].startswith("normal_ float32")]
    if not cases:
        return []
    case = max(cases, key=lambda case: int(case["threads"]))
    rates = {n: case["elements"] / _seconds(case, n) / 1e6 for n in case["contenders"]}
    return [
        Bar("fill_ with a constant" if n == "fill_" else n, rate, f"{rate:.0f}", n == "fastinit")
        for n, rate in sorted(rates.items(), key=lambda item: item[1])
    ]


def overview(document: Result) -> list[Bar]:
    """What a first look needs: a model as it is, and two functions."""
    truncated = "trunc_normal_ 4096 x 4096, std 0.02"
    wanted = (
        ("Llama", "patched", "Llama under patch"),
        ("Llama", "deferred", "Llama under deferred"),
        (f"{truncated}, bounds +-0.04", "fastinit", "trunc_normal_ within 2 std"),
        (f"{truncated}, bounds +-2", "fastinit", "trunc_normal_ within 100 std"),
        ("orthogonal_ 2048 x 2048", "fastinit", "orthogonal_"),
    )
    cases = {_short(case["name"]): case for case in reversed(document["cases"])}
    bars = []
    for name, contender, label in wanted:
        case = cases.get(name)
        speed = case and ratio(case, contender, case["baseline"])
        if not case or not speed:
            continue
        before, after = (_seconds(case, way) for way in (case["baseline"], contender))
        told = f"{speed[0]:.2g} x   {_duration(before)} to {_duration(after)}"
        bars.append(Bar(label, speed[0], told, True))
    return [Bar("stock torch", 1.0, "1 x", False), *bars] if len(bars) == len(wanted) else []


# Name, axis, whether its scale is logarithmic, and the bars.
Drawing = tuple[str, str, bool, Callable[[Result], list[Bar]]]
DRAWINGS: Sequence[Drawing] = (
    ("overview", "times as fast as stock", True, overview),
    ("functions", "times as fast as torch.nn.init", True, functions),
    ("models", "seconds for the constructor, stock's in grey", False, models),
    ("architectures", "seconds for the constructor, stock's in grey", False, architectures),
    ("peers", "million normal values a second, float32", False, peers),
)


def _short(name: str) -> str:
    """A case's name without what a reader of the figure need not know."""
    name = name.split(", vocabulary")[0].replace("float32 ", "").replace("4096x4096", "4096 x 4096")
    name = name.replace("2048x2048", "2048 x 2048").replace("16x16", "16 x 16")
    if name.startswith("LlamaForCausalLM"):
        return "Llama, bfloat16" if "bfloat16" in name else "Llama"
    return name.removeprefix("timm ").removeprefix("transformers ")


def _seconds(case: Result, contender: str) -> float:
    return median(case["contenders"][contender]["seconds"])


def _duration(seconds: float) -> str:
    return f"{seconds:.2g} s" if seconds >= 1 else f"{seconds * 1e3:.0f} ms"


def caption(document: Result) -> str:
    """The machine, in a line."""
    about = document["machine"]
    torch = about["packages"]["torch"]
    return f"{about.get('gpu') or about['cpu']}, {about['cores']} cores, torch {torch}"


def draw(document: Result, path: Path) -> list[Path]:
    """Write the figures beside `path`, the results file, and say which."""
    written = []
    for name, axis, logarithmic, bars in DRAWINGS:
        picture = path.with_name(f"{path.stem}-{name}.svg")
        picture.unlink(missing_ok=True)
        if found := bars(document):
            _draw(found, axis, logarithmic, caption(document), picture)
            written.append(picture)
    return written


def _draw(bars: Sequence[Bar], axis: str, logarithmic: bool, about: str, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    style = {
        "svg.hashsalt": "fastinit",  # the same picture from the same results
        "font.size": 13,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.spines.left": False,
    }
    with matplotlib.rc_context(style):
        figure, axes = pyplot.subplots(figsize=(9, 1.3 + 0.42 * len(bars)))
        colours = [OURS if bar.ours else THEIRS for bar in bars]
        axes.barh(range(len(bars)), [bar.value for bar in bars], color=colours, height=0.7)
        for place, bar in enumerate(bars):
            axes.text(bar.value, place, f"  {bar.told}", va="center")
        axes.set_yticks(range(len(bars)), [bar.label for bar in bars])
        axes.tick_params(axis="y", length=0)
        axes.invert_yaxis()
        if logarithmic:
            axes.set_xscale("log")
            axes.set_xlim(0.8, 3 * max(bar.value for bar in bars))
            axes.xaxis.set_major_formatter("{x:g}")
        else:
            axes.set_xlim(0, 1.15 * max(bar.value for bar in bars))
        axes.set_xlabel(f"{axis}\n({about})", linespacing=1.5)
        figure.savefig(path, bbox_inches="tight", metadata={"Date": None}, facecolor="white")
        pyplot.close(figure)
