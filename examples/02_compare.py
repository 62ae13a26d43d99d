"""Compare: one network, several schemes, the same handwritten digits.

    python examples/02_compare.py [FOLDER]     # with a folder, pictures are written there

Does it matter for training? `compare` makes the network anew for every scheme, under the same
seeds, shows each the same batches in the same order, and keeps losses and gradient norms.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import cross_entropy

import fastinit
from fastinit.diagnostics import compare, gradient_report, weight_report
from fastinit.diagnostics.digits import load_digits
from fastinit.initializers import Kaiming, Normal, Zeros
from fastinit.recipes import Recipe


def make() -> nn.Sequential:
    hidden = [layer for _ in range(8) for layer in (nn.Linear(64, 64), nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(64, 10))


def xavier(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        fastinit.xavier_normal_(module.weight)
        fastinit.zeros_(module.bias)


def orthogonal(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        fastinit.orthogonal_(module.weight, gain=2**0.5)
        fastinit.zeros_(module.bias)


KAIMING = Recipe({"**.bias": Zeros(), "**.weight": Kaiming(nonlinearity="relu")})
SMALL = Recipe({"**.bias": Zeros(), "**.weight": Normal(0.01)})
# A recipe, the name of a preset, a function for `module.apply`, or None for the model as it is.
SCHEMES = {
    "default": None,
    "xavier": xavier,
    "kaiming": KAIMING,
    "orthogonal, gain sqrt 2": orthogonal,
    "normal, 0.01": SMALL,
}


def main(out: Path | None = None) -> None:
    images, digits = load_digits()
    sgd = partial(torch.optim.SGD, lr=0.05)
    result = compare(
        make, (images[:1152], digits[:1152]), SCHEMES, epochs=8, seeds=3, optimizer=sgd
    )
    print(result.table())
    print("\nepochs to a loss of 1:")
    for name, epochs in result.epochs_to(1.0).items():
        print(f"  {name:24} {epochs:g}")

    batch = images[:256], digits[:256]
    print("\nstandard deviation of the gradient of the first and the last hidden layer's weight")
    models = {}
    for name, scheme in {"kaiming": KAIMING, "normal, 0.01": SMALL}.items():
        models[name] = make()
        fastinit.init_(models[name], scheme, seed=0)
        std = {r.name: r.std for r in gradient_report(models[name], batch, cross_entropy)}
        print(f"  {name:24} {std['0.weight']:.2g}, {std['14.weight']:.2g}")
    print(
        """
Conclude: where the scale fits the activation (Kaiming, orthogonal with its gain), the loss falls
from the first epoch. Xavier needs longer, as it first has to grow the signal. From weights of 0.01
no gradient gets through eight layers: such a network does not start."""
    )
    if out is not None:
        result.plot().savefig(out / "02_compare.png", dpi=110)
        report = weight_report(models["kaiming"], KAIMING)
        report.plot().savefig(out / "02_weights.png", dpi=80)
        for name, file in {"kaiming": "02_gradients", "normal, 0.01": "02_gradients_small"}.items():
            gradient_report(models[name], batch, cross_entropy).plot().savefig(
                out / f"{file}.png", dpi=110
            )


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
