"""Pictures: the only file that imports matplotlib, and that only when one is drawn.

Owns colours, axes and labels. Colours are those of Okabe and Ito, which all readers can tell apart,
and lines differ in style or marker as well. Must not know how a number was found.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_STYLE: Any = {
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "figure.dpi": 120,
}


def require_matplotlib() -> None:
    """Refuse where matplotlib is not installed.

    Raises:
        ImportError: saying what to install.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise ImportError("plot() needs matplotlib: pip install matplotlib")


def styled(draw: Any) -> Any:
    """Call `draw` under the style of all pictures; the caller's own style is left as it is."""
    require_matplotlib()
    import matplotlib

    with matplotlib.rc_context(_STYLE):
        return draw()


def propagation(results: Mapping[str, Sequence[Any]]) -> Any:
    """Second moments forward and backward over depth, measured and predicted.

    Args:
        results: by label, records with name, depth, forward, backward and predicted; of each depth
            the layer with the weights is drawn, which comes first.

    Returns: a matplotlib Figure of two panels.
    """
    return styled(lambda: _propagation(results))


def _propagation(results: Mapping[str, Sequence[Any]]) -> Any:
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    figure = Figure(figsize=(9.0, 4.2), layout="constrained")
    forward, backward = figure.subplots(1, 2, sharex=True)
    for at, (label, records) in enumerate(results.items()):
        layers = _first_of_each_depth(records)
        colour = COLOURS[at % len(COLOURS)]
        look = {"color": colour, "marker": MARKERS[at % len(MARKERS)], "markersize": 5}
        every = max(1, len(layers) // 10)
        depths = [r.depth for r in layers]
        measured = [_positive(r.forward) for r in layers]
        predicted = [_positive(r.predicted) for r in layers]
        gradients = [_positive(r.backward) for r in layers]
        forward.plot(depths, predicted, "--", color=colour, linewidth=1.4, alpha=0.8)
        forward.plot(depths, measured, label=label or None, markevery=every, **look)
        backward.plot(depths, gradients, label=label or None, markevery=every, **look)
    for axes, title in (
        (forward, "forward: outputs of the layers"),
        (backward, "backward: gradients there"),
    ):
        axes.set_yscale("log")
        axes.set_title(title, loc="left", fontsize=11)
        axes.set_xlabel("depth (layers with weights)")
        axes.set_ylabel("second moment")
        axes.axhline(1.0, color="0.6", linewidth=0.8, zorder=0)
    handles, labels = forward.get_legend_handles_labels()
    handles = [*handles, Line2D([], [], color="0.3"), Line2D([], [], color="0.3", linestyle="--")]
    figure.legend(
        handles,
        [*labels, "measured", "predicted"],
        loc="outside lower center",
        ncols=min(4, len(handles)),
    )
    return figure


def _first_of_each_depth(records: Sequence[Any]) -> list[Any]:
    found: dict[int, Any] = {}
    for record in records:
        if record.depth > 0:
            found.setdefault(record.depth, record)
    return list(found.values())


def _positive(value: float | None) -> float:
    """What a logarithmic axis can show; nothing where it cannot."""
    return value if value is not None and value > 0 and math.isfinite(value) else math.nan


def activations(summary: Any) -> Any:
    """Spread, dead units and saturation of each module, and how the spread changes with steps.

    Args:
        summary: an `ActivationSummary`; modules are in its order.

    Returns: a matplotlib Figure of two panels, or of three with gradients.
    """
    return styled(lambda: _activations(summary))


def _activations(summary: Any) -> Any:
    directions = [d for d in ("forward", "backward") if any(r.direction == d for r in summary)]
    panels = _panels(directions, ["shares"])
    figure = panels["shares"].figure
    for direction in directions:
        axes = panels[direction]
        what = "outputs" if direction == "forward" else "gradients there"
        _spreads(figure, axes, [r for r in summary.history if r.direction == direction])
        axes.set_title(f"{direction}: {what}", loc="left", fontsize=11)
    forward = [r for r in summary if r.direction == "forward"]
    places = range(len(forward))
    for at, word in enumerate(("dead", "saturated")):
        label = "dead units" if word == "dead" else "saturated values"
        shares = [100 * getattr(r, word) for r in forward]
        middles = [place + 0.4 * at - 0.2 for place in places]
        panels["shares"].bar(middles, shares, 0.4, label=label, color=COLOURS[at])
    panels["shares"].set_ylim(0, 100)
    panels["shares"].set_ylabel("share over all steps (%)")
    panels["shares"].legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2)
    _name_modules(panels["shares"], [r.name for r in forward])
    return figure


def _panels(*rows: Sequence[str]) -> dict[str, Any]:
    """Axes by name, in rows as wide as a page; three side by side would be too small."""
    from matplotlib.figure import Figure

    if sum(map(len, rows)) < 3:
        rows = ([name for row in rows for name in row],)
    columns = math.lcm(*(len(row) for row in rows))
    mosaic: Any = [[name for name in row for _ in range(columns // len(row))] for row in rows]
    figure = Figure(figsize=(9.0, 0.6 + 3.6 * len(rows)), layout="constrained")
    panels: dict[str, Any] = figure.subplot_mosaic(mosaic)
    return panels


def _spreads(figure: Any, axes: Any, history: Sequence[Any]) -> None:
    """A line for each step, from dark to light."""
    import matplotlib
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    steps = sorted({r.step for r in history})
    names = list(dict.fromkeys(r.name for r in history))
    colours = matplotlib.colormaps["viridis"]
    scale = Normalize(steps[0], max(steps[-1], steps[0] + 1)) if steps else Normalize(0, 1)
    for step in steps[:: max(1, len(steps) // 16)]:
        spread = {r.name: r.std for r in history if r.step == step}
        line = [_positive(spread.get(name)) for name in names]
        axes.plot(range(len(names)), line, color=colours(0.9 * scale(step)), linewidth=1.2)
    axes.set_yscale("log")
    _plain_numbers(axes)
    axes.set_ylabel("standard deviation")
    _name_modules(axes, names)
    if len(steps) > 1:
        shown = matplotlib.colors.ListedColormap([colours(0.9 * i / 255) for i in range(256)])
        figure.colorbar(ScalarMappable(scale, shown), ax=axes, label="step", shrink=0.8)


def _plain_numbers(axes: Any) -> None:
    """Numbers as one writes them, at 2 and 5 as well where the axis spans less than two decades."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axes.get_ylim()
    plain = FuncFormatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_major_formatter(plain)
    axes.yaxis.set_minor_locator(LogLocator(subs=(2.0, 5.0)))
    axes.yaxis.set_minor_formatter(plain if high < 100 * low else NullFormatter())


def _every(items: Sequence[Any]) -> int:
    return max(1, len(items) // 12)


def _name_modules(axes: Any, names: Sequence[str], what: str = "module") -> None:
    axes.set_xlabel(what)
    every = _every(names)
    axes.set_xticks(range(0, len(names), every))
    shown = [name if len(name) <= 18 else f"..{name[-16:]}" for name in names[::every]]
    axes.set_xticklabels(shown, rotation=45, ha="right", rotation_mode="anchor", fontsize=9)


def histograms(records: Sequence[Any], label: str) -> Any:
    """The histogram of each matrix, or of up to 12 of them, with the law's density.

    Args:
        records: with name, std and histogram.
        label: of the horizontal axes.

    Returns: a matplotlib Figure.
    """
    return styled(lambda: _histograms(records, label))


def _histograms(records: Sequence[Any], label: str) -> Any:
    from matplotlib.figure import Figure

    spread = [r for r in records if r.std > 0]
    drawn = [r for r in spread if len(getattr(r, "shape", (0, 0))) > 1] or spread
    drawn = drawn[:: -(-len(drawn) // 12)] if drawn else []
    columns = min(3, max(1, len(drawn)))
    lines = max(1, -(-len(drawn) // columns))
    figure = Figure(figsize=(3.4 * columns, 2.6 * lines + 0.4), layout="constrained")
    panels = list(figure.subplots(lines, columns, squeeze=False).flat)
    for axes in panels[len(drawn) :]:
        axes.remove()
    for axes, record in zip(panels, drawn, strict=False):
        edges, density, expected = record.histogram
        axes.stairs(density, edges, fill=True, color=COLOURS[5], label="values")
        if expected:
            middles = [(a + b) / 2 for a, b in pairwise(edges)]
            axes.plot(middles, expected, color=COLOURS[1], label="law")
        axes.set_title(record.name[-34:], loc="left", fontsize=10)
        axes.set_yticks([])
        axes.locator_params(axis="x", nbins=4)
    if drawn:
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper right", ncols=2)
        figure.supxlabel(label, fontsize=11)
        figure.supylabel("density", fontsize=11)
    return figure


def gradients(records: Sequence[Any]) -> Any:
    """Distributions of gradients, their standard deviations and update ratios, by parameter.

    Args:
        records: with name, std, update_ratio and histogram, in the order of the network.

    Returns: a matplotlib Figure of three panels.
    """
    return styled(lambda: _gradients(records))


def _gradients(records: Sequence[Any]) -> Any:
    panels = _panels(["density"], ["std", "ratio"])
    figure = panels["density"].figure
    left, right = panels["std"], panels["ratio"]
    _densities(panels["density"], [r for r in records if r.std > 0 and not r.name.endswith("bias")])
    for at, (axes, word, what) in enumerate(
        (
            (left, "std", "standard deviation of the gradient"),
            (right, "update_ratio", "norm of update / norm of weight"),
        )
    ):
        values = {r.name: _positive(getattr(r, word)) for r in records}
        shown = [name for name, value in values.items() if not math.isnan(value)]
        for biases, style in ((False, "-"), (True, ":")):
            places = [i for i, name in enumerate(shown) if name.endswith("bias") == biases]
            look = {"color": COLOURS[at], "marker": MARKERS[2 * at + biases], "markersize": 5}
            label = "biases" if biases else "weights"
            if places:
                heights = [values[shown[i]] for i in places]
                axes.plot(places, heights, linestyle=style, label=label, **look)
        axes.legend()
        axes.set_yscale("log")
        _plain_numbers(axes)
        axes.set_ylabel(what)
        _name_modules(axes, shown, "parameter")
    return figure


def _densities(axes: Any, records: Sequence[Any]) -> None:
    """A line for each of up to seven parameters, from dark to light with depth."""
    import matplotlib

    colours = matplotlib.colormaps["viridis"]
    drawn = records[:: -(-len(records) // 7)] if records else []
    for at, record in enumerate(drawn):
        edges, density, _ = record.histogram
        middles = [(a + b) / 2 for a, b in pairwise(edges)]
        line = [_positive(value) for value in density]
        colour = colours(0.9 * at / max(1, len(drawn) - 1))
        axes.plot(middles, line, color=colour, linewidth=1.4, label=record.name[-20:])
    axes.set_yscale("log")
    axes.locator_params(axis="x", nbins=4)
    axes.set_xlabel("entry of the gradient")
    axes.set_ylabel("density")
    if drawn:
        axes.legend(fontsize=8, handlelength=1.2)


def comparison(losses: Mapping[str, Any], norms: Mapping[str, Any]) -> Any:
    """Losses and gradient norms over epochs: the median over seeds, and a band of all of them.

    Args:
        losses, norms: by scheme, tensors of shape (seeds, epochs).

    Returns: a matplotlib Figure of two panels.
    """
    return styled(lambda: _comparison(losses, norms))


def _comparison(losses: Mapping[str, Any], norms: Mapping[str, Any]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2, sharex=True)
    for axes, curves, label in (
        (left, losses, "training loss"),
        (right, norms, "norm of the gradient"),
    ):
        for at, (name, runs) in enumerate(curves.items()):
            epochs = range(1, runs.shape[1] + 1)
            look = {"color": COLOURS[at % len(COLOURS)], "marker": MARKERS[at % len(MARKERS)]}
            known = runs.nan_to_num(math.inf, math.inf)  # as in the table
            middle = [_positive(v) for v in known.median(0).values.tolist()]
            axes.plot(epochs, middle, label=name, markersize=5, markevery=_every(epochs), **look)
            low, high = (
                [_positive(v) for v in edge.tolist()] for edge in (runs.amin(0), runs.amax(0))
            )
            axes.fill_between(epochs, low, high, color=look["color"], alpha=0.2, linewidth=0)
        axes.set_yscale("log")
        _plain_numbers(axes)
        axes.set_xlabel("epoch")
        axes.set_ylabel(label)
        axes.xaxis.get_major_locator().set_params(integer=True)
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)))
    return figure
