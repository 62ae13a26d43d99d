"""Schemes: what an initialization is, and six of them through `module.apply`.

    python examples/01_schemes.py [FOLDER]     # with a folder, pictures are written there

A network starts from random weights. Their scale decides whether a signal grows, fades or keeps its
size on the way through the layers. Here one network, 10 hidden layers of ReLU, starts in several
ways, and what a batch of random inputs becomes is measured behind every layer.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

import fastinit
from fastinit.diagnostics import signal_propagation, weight_report
from fastinit.diagnostics.plots import propagation

WIDTH, DEPTH = 256, 10


def make() -> nn.Sequential:
    layers = [layer for _ in range(DEPTH) for layer in (nn.Linear(WIDTH, WIDTH), nn.ReLU())]
    return nn.Sequential(*layers)


# A scheme is a function of one module; `model.apply` calls it with every module of the model.


def default(module: nn.Module) -> None:
    """What nn.Linear does by itself: uniform on +-1 / sqrt(fan_in)."""
    if isinstance(module, nn.Linear):
        module.reset_parameters()


def xavier(module: nn.Module) -> None:
    """Glorot and Bengio 2010, for activations that are nearly linear, such as tanh."""
    if isinstance(module, nn.Linear):
        fastinit.xavier_normal_(module.weight)
        fastinit.zeros_(module.bias)


def kaiming_normal(module: nn.Module) -> None:
    """He et al. 2015: Xavier's scale times sqrt(2), as ReLU passes half of the signal."""
    if isinstance(module, nn.Linear):
        fastinit.kaiming_normal_(module.weight, nonlinearity="relu")
        fastinit.zeros_(module.bias)


def kaiming_uniform(module: nn.Module) -> None:
    """The same standard deviation from a uniform law."""
    if isinstance(module, nn.Linear):
        fastinit.kaiming_uniform_(module.weight, nonlinearity="relu")
        fastinit.zeros_(module.bias)


def constant(module: nn.Module) -> None:
    """Equal weights: all units of a layer compute the same, and will forever."""
    if isinstance(module, nn.Linear):
        fastinit.constant_(module.weight, 0.01)
        fastinit.zeros_(module.bias)


def custom(module: nn.Module) -> None:
    """One's own: small normal weights everywhere, and a bias that keeps units alive."""
    if isinstance(module, nn.Linear):
        fastinit.normal_(module.weight, std=0.02)
        fastinit.constant_(module.bias, 0.1)


SCHEMES: dict[str, Callable[[nn.Module], None]] = {
    "default": default,
    "xavier": xavier,
    "kaiming, normal": kaiming_normal,
    "kaiming, uniform": kaiming_uniform,
    "constant": constant,
    "custom": custom,
}


def main(out: Path | None = None) -> None:
    torch.manual_seed(0)
    x = torch.randn(1024, WIDTH)
    found, models = {}, {}
    print(f"second moment of the signal behind layer 1 and behind layer {DEPTH}")
    for name, scheme in SCHEMES.items():
        with fastinit.keyed(0):  # the same values on any machine
            models[name] = make().apply(scheme)
        found[name] = signal_propagation(models[name], x)
        layers = [r for r in found[name] if isinstance(models[name][int(r.name)], nn.Linear)]
        different = models[name][0].weight.unique(dim=0).shape[0]
        print(
            f"  {name:17} {layers[0].forward:8.3g} -> {layers[-1].forward:8.3g}"
            f"   {different} different units"
        )
    report = weight_report(models["default"])
    print("\nthe default's weights, held against its law:")
    print("\n".join(str(report).splitlines()[:4]))
    print(
        """
Conclude: Kaiming keeps the size of the signal through layers of ReLU, normal or uniform alike;
Xavier halves it at every layer; from the default little but its own biases is left. Equal weights
make one unit of a whole layer, and here the signal explodes as well. Small weights with a bias
carry the bias and forget the input: their gradients say so."""
    )
    if out is not None:
        del found["constant"]  # nothing random in it that a prediction could be made of
        propagation(found).savefig(out / "01_schemes.png", dpi=110)
        report.plot().savefig(out / "01_weights.png", dpi=80)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
