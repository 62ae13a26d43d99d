"""The handwritten digits that comparisons are tried on: 1,797 images of 8 x 8 pixels.

Owns the file digits.gz: a row of 65 bytes for each image, 64 pixels from 0 to 16 and the digit.
Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning
Repository (1998), https://doi.org/10.24432/C50P49, the test set; licence CC BY 4.0.
"""

from __future__ import annotations

import gzip
from importlib.resources import files

import torch
from torch import Tensor

_ROW = 65


def load_digits() -> tuple[Tensor, Tensor]:
    """Pixels, (1797, 64), of mean 0 and standard deviation 1 in all, and digits, (1797,).

    Example:
        >>> from fastinit.diagnostics.digits import load_digits
        >>> images, digits = load_digits()
        >>> images.shape, digits[:3]
        (torch.Size([1797, 64]), tensor([0, 1, 2]))
    """
    data = gzip.decompress(files("fastinit.diagnostics").joinpath("digits.gz").read_bytes())
    rows = torch.frombuffer(bytearray(data), dtype=torch.uint8).view(-1, _ROW)
    pixels = rows[:, :-1].float()
    return (pixels - pixels.mean()) / pixels.std(), rows[:, -1].long()
