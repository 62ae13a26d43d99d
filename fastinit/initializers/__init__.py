"""Initializers: the laws of `fastinit.init` as small frozen objects.

Each is a value: it compares, hashes, prints as the code that makes it, and goes to JSON and back by
`to_dict` and `from_dict`. Called on a tensor it fills it: `Normal(0.02)(tensor, key=42)`. Its
numbers may be expressions of fan_in, fan_out, depth, layer, width and head_dim, which
`fastinit.recipes` has. No seed lives in an initializer.
"""

from fastinit.initializers.base import Initializer
from fastinit.initializers.fixed import Constant, Dirac, Eye, Keep, Native, Ones, Zeros
from fastinit.initializers.random import Normal, Orthogonal, Sparse, TruncNormal, Uniform
from fastinit.initializers.scaled import Kaiming, VarianceScaling, Xavier

__all__ = [
    "Constant",
    "Dirac",
    "Eye",
    "Initializer",
    "Kaiming",
    "Keep",
    "Native",
    "Normal",
    "Ones",
    "Orthogonal",
    "Sparse",
    "TruncNormal",
    "Uniform",
    "VarianceScaling",
    "Xavier",
    "Zeros",
]
