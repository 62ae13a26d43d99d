"""A gain of one's own: an activation that torch does not know, and SwiGLU.

    python examples/03_custom_gain.py [FOLDER]     # with a folder, pictures are written there

A layer multiplies by weights, then an activation bends the result. The gain says how much larger
the weights must be, so that signals come out as large as they went in. `torch.nn.init` knows five;
`fastinit.gain` computes it for any function.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor, nn

import fastinit
from fastinit.diagnostics import plots, signal_propagation

WIDTH, DEPTH = 256, 30


class ISRU(nn.Module):
    """x / sqrt(1 + x^2): Carlile et al. (2017). Any elementwise function would do."""

    def forward(self, x: Tensor) -> Tensor:
        return x / torch.sqrt(1 + x * x)


class SwiGLU(nn.Module):
    """The feed-forward part of Llama: one matrix opens and closes gates on another's output."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate = nn.Linear(width, hidden, bias=False)
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(torch.nn.functional.silu(self.gate(x)) * self.up(x))


def deep(gain: float) -> nn.Sequential:
    """Thirty layers of ISRU, their weights as large as this gain says."""
    layers = [part for _ in range(DEPTH) for part in (nn.Linear(WIDTH, WIDTH, bias=False), ISRU())]
    for at, layer in enumerate(layers):
        if isinstance(layer, nn.Linear):
            fastinit.normal_(layer.weight, std=gain / WIDTH**0.5, key=at)
    return nn.Sequential(*layers)


def own_activation(out: Path | None) -> None:
    own = fastinit.gain(ISRU())  # 1 / sqrt(E f(z)^2), z standard normal: one call
    print(f"The gain of x / sqrt(1 + x^2) is {own:.4f}.\n")
    # How large signals are behind an activation: what the first layer sees, too.
    x = fastinit.normal_(torch.empty(256, WIDTH), std=1 / own, key=99)
    results = {}
    gains = {"gain 1 (none)": 1.0, "relu's gain": 2**0.5, "its own gain": own}
    for label, gain in gains.items():
        results[label] = signal_propagation(deep(gain), x).records
        first, last = results[label][0], results[label][-2]
        print(f"{label:15s} layer 1: {first.forward:5.3f}   layer {DEPTH}: {last.forward:5.3f}")
    if out is not None:
        plots.propagation(results).savefig(out / "03_custom_gain.png", dpi=120)


def swiglu() -> None:
    """E (silu(u) v)^2 = E silu(u)^2 E v^2, as u and v are independent: the gain is silu's."""
    gain = fastinit.gain("swiglu")
    print(f"\nThe gain of SwiGLU is {gain:.4f}, that of silu: {fastinit.gain('silu'):.4f}.\n")
    block = SwiGLU(WIDTH, 4 * WIDTH)
    fastinit.normal_(block.gate.weight, std=WIDTH**-0.5, key=1)
    fastinit.normal_(block.up.weight, std=WIDTH**-0.5, key=2)
    x = fastinit.normal_(torch.empty(512, WIDTH), key=3)  # as a norm leaves it
    for label, g in {"gain 1": 1.0, "SwiGLU's gain": gain}.items():
        fastinit.normal_(block.down.weight, std=g / (4 * WIDTH) ** 0.5, key=4)
        with torch.no_grad():
            print(
                f"{label:15s} the block puts out a second moment of {block(x).square().mean():.3f}"
            )


def main(out: Path | None = None) -> None:
    own_activation(out)
    swiglu()
    print(
        "\nConclude: with its own gain a layer passes on as much as it got, whatever the\n"
        "activation; a gain borrowed from relu does not. fastinit.kaiming_normal_(w,\n"
        "nonlinearity=f) takes the function itself. Of a gated unit, the gain is that of its gate."
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
