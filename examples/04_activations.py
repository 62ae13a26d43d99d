"""Activations: watch them with hooks while a network trains, and see drift and collapse.

    python examples/04_activations.py [FOLDER]     # with a folder, pictures are written there

`ActivationMonitor` puts hooks on the layers and reduces every output to a few numbers where it is.
It warns when it is left, if the numbers say that training will suffer. Three networks: one that is
sound, one whose signal fades (drift), and one whose units die (collapse).
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import cross_entropy

import fastinit
from fastinit.diagnostics import ActivationMonitor, InitializationWarning
from fastinit.diagnostics.digits import load_digits

DEPTH, STEPS = 8, 60


def make(gain: float, bias: float = 0.0) -> nn.Sequential:
    hidden = [layer for _ in range(DEPTH) for layer in (nn.Linear(64, 64), nn.ReLU())]
    model = nn.Sequential(*hidden, nn.Linear(64, 10))
    with fastinit.keyed(0):
        for layer in model:
            if isinstance(layer, nn.Linear):
                fastinit.normal_(layer.weight, std=gain / layer.in_features**0.5)
                fastinit.constant_(layer.bias, bias)
    return model


def train(model: nn.Module, lr: float) -> ActivationMonitor:
    images, digits = load_digits()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    torch.manual_seed(0)
    with ActivationMonitor(model, every=5, backward=True) as monitor:
        for step in range(STEPS):
            batch = torch.randint(0, len(images), (128,))
            loss = cross_entropy(model(images[batch]), digits[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step == 0:
                first = loss.item()
    print(f"  loss {first:.3g} -> {loss.item():.3g}")
    return monitor


NETWORKS = {
    "sound": ("Kaiming's scale, gain sqrt 2", 2**0.5, 0.0, 0.05),
    "drift": ("gain 0.7: the signal fades", 0.7, 0.0, 0.05),
    "collapse": ("a bias of -1.5: most units never fire", 2**0.5, -1.5, 0.05),
}


def main(out: Path | None = None) -> None:
    for name, (what, gain, bias, lr) in NETWORKS.items():
        print(f"{name}: {what}")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", InitializationWarning)
            monitor = train(make(gain, bias), lr)
        for warning in caught:
            print(f"  warning: {warning.message}")
        last = [r for r in monitor.summary() if r.direction == "forward"][-2]
        print(f"  last ReLU: std {last.std:.2g}, {last.dead:.0%} of units dead in all steps\n")
        if out is not None:
            monitor.plot().savefig(out / f"04_{name}.png", dpi=110)
    print(
        """Conclude: in the sound network the lines lie flat and side by side: every layer sees
signals and gradients of one size. Drift shows as a straight slope in the logarithm, forward and
backward; set the gain, or call fastinit.calibrate_. Collapse shows in dead units: they pass no
gradient either, so that nothing but another start brings them back."""
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
