"""A small network to be watched: a convolution, residual blocks, outputs in a dict."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(16, 32)
        self.act = nn.Tanh()
        self.down = nn.Linear(32, 16)

    def forward(self, x: Tensor) -> tuple[Tensor, str]:
        return x + self.down(self.act(self.up(x))), "a second output"


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, 16, 3)
        self.relu = nn.ReLU()
        self.blocks = nn.ModuleList([Block(), Block()])
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = self.relu(self.conv(x)).transpose(1, 2)
        for block in self.blocks:
            y = block(y)[0]
        return {"logits": self.head(self.drop(y))}


def net(device: str = "cpu") -> tuple[Net, Tensor]:
    torch.manual_seed(5)
    model, x = Net().to(device), torch.randn(6, 3, 20).to(device)
    return model, x
