"""Record what `torch.func._random` draws, as an outside opinion on the stream.

    python tests/vectors/record_torch.py     # with a torch that has torch.func._random (>= 2.14)

writes `torch_random.json`: for a few keys the children, the float32 and float64 uniform draws (to
the bit) and the normal draws that the installed torch makes on the CPU. The tests compare with the
recording wherever they run, and with torch itself where it has the module (test_oracles.py).
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch.func import _random

KEYS = [(0, 0), (42, 0), (2**64 - 1, 2**64 - 1), (0x243F6A8885A308D3, 2**32 - 2), (7, 2**63)]
BOUNDS = [(0.0, 1.0), (-1.0, 1.0), (-0.0625, 0.0625), (0.1, 0.7), (-3.3, 1e-3)]
COUNT = 12


def record(key: tuple[int, int]) -> dict[str, object]:
    tensor = torch.tensor(key, dtype=torch.uint64)

    def uniform(dtype: torch.dtype, low: float, high: float) -> list[str]:
        drawn = _random.uniform(tensor, COUNT, low=low, high=high, dtype=dtype)
        return [value.hex() for value in drawn.tolist()]

    def normal(dtype: torch.dtype) -> list[str]:
        return [value.hex() for value in _random.normal(tensor, COUNT, dtype=dtype).tolist()]

    return {
        "key": [str(word) for word in key],
        "split": [[str(word) for word in child] for child in _random.split(tensor, 4).tolist()],
        "fold_in_last": [str(word) for word in _random.fold_in(tensor, -1).tolist()],
        "uniform": [
            {
                "bounds": bounds,
                "float32": uniform(torch.float32, *bounds),
                "float64": uniform(torch.float64, *bounds),
            }
            for bounds in BOUNDS
        ],
        "normal": {"float32": normal(torch.float32), "float64": normal(torch.float64)},
    }


def main() -> None:
    document = {
        "provenance": f"torch.func._random of torch {torch.__version__}, CPU; record_torch.py",
        "keys": [record(key) for key in KEYS],
    }
    path = Path(__file__).with_name("torch_random.json")
    path.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
