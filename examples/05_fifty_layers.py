"""Fifty layers: what becomes of a signal, measured and as theory predicts it.

    python examples/05_fifty_layers.py [FOLDER]     # with a folder, pictures are written there

One layer that makes signals a little too small does no harm. Fifty of them multiply. Five ways to
initialize one deep network without norms; then four activations, each with its exact gain.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

import fastinit
from fastinit.diagnostics import Propagation, plots, signal_propagation

WIDTH, DEPTH, ROWS = 256, 50, 128


def network(activation: type[nn.Module], std: Callable[[int], float]) -> nn.Sequential:
    model = nn.Sequential()
    for at in range(DEPTH):
        layer = nn.Linear(WIDTH, WIDTH, bias=False)
        fastinit.normal_(layer.weight, std=std(WIDTH), key=at)
        model.extend([layer, activation()])
    return model


def batch(activation: str) -> Tensor:
    """As large as what comes out of the activation, so that the first layer is like all others."""
    return fastinit.normal_(torch.empty(ROWS, WIDTH), std=1 / fastinit.gain(activation), key=99)


def told(label: str, result: Propagation) -> None:
    layers = [record for record in result if record.name.isdigit()][::2]
    last = layers[-1]
    print(
        f"{label:20s} layer {DEPTH}: {last.forward:9.2g}, predicted {last.predicted:9.2g}; "
        f"gradient at layer 1: {layers[0].backward:9.2g}"
    )


def schemes(out: Path | None) -> None:
    print("One network with GELU, five schemes. Second moments; 1 is where they start.\n")
    x, gain = batch("gelu"), fastinit.gain("gelu")
    stds: dict[str, Callable[[int], float]] = {
        "randn": lambda fan: 1.0,
        "Xavier": lambda fan: fan**-0.5,
        "Kaiming for relu": lambda fan: (2 / fan) ** 0.5,
        "exact gain": lambda fan: gain / fan**0.5,
    }
    results = {}
    for label, std in stds.items():
        results[label] = signal_propagation(network(nn.GELU, std), x)
    model = network(nn.GELU, stds["exact gain"])
    fastinit.calibrate_(model, x)
    results["calibrate_"] = signal_propagation(model, x)
    for label, result in results.items():
        told(label, result)
    if out is not None:
        save({label: r.records for label, r in results.items()}, out / "05_schemes.png", 1e12)


def gains(out: Path | None) -> None:
    print("\nFour activations, each with its exact gain.\n")
    kinds = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU, "silu": nn.SiLU}
    results = {}
    for name, kind in kinds.items():
        gain = fastinit.gain(name)
        model = network(kind, lambda fan, gain=gain: gain / fan**0.5)
        results[name] = signal_propagation(model, batch(name))
        told(name, results[name])
    if out is not None:
        save({label: r.records for label, r in results.items()}, out / "05_gains.png", 1e7)


def save(results: dict[str, tuple[object, ...]], path: Path, edge: float) -> None:
    figure = plots.propagation(results)
    for axes in figure.axes:
        low, high = axes.get_ylim()
        axes.set_ylim(max(low, 1 / edge), min(high, edge))
    figure.savefig(path, dpi=120)


def main(out: Path | None = None) -> None:
    schemes(out)
    gains(out)
    print(
        "\nConclude: randn overflows, Xavier and Kaiming fade, as they are not made for GELU. The\n"
        "exact gain is right for one layer, and for fifty with tanh. GELU and SiLU drift even so:\n"
        "a layer that is a few percent off by chance makes the next one more so (slope above 1,\n"
        "docs/gains.md), as theory predicts. There, one batch through fastinit.calibrate_ sets\n"
        "every layer, or a norm does so at every step."
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
