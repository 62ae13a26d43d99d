"""Pictures: the only file that imports matplotlib, and that only when one is drawn.

Owns colours, axes and labels. Colours are those of Okabe and Ito, which all readers can tell apart,
and lines differ in style or marker as well. Must not know how a number was found.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping, Sequence
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
        raise ImportError("plot() needs matplotlib: pip install fastinit[plot]")


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
