"""Reproducible weight initialization for PyTorch.

Every value of every tensor is a pure function of a key and of its place in the tensor. See
`fastinit.init` for what the functions share.
"""

import importlib
from typing import Any

from fastinit import init
from fastinit._fill.extension import native as _native
from fastinit._fill.gains import gain
from fastinit._fill.keys import Key
from fastinit._fill.regions import Region
from fastinit._intercept.deferred import deferred
from fastinit._intercept.keyed import keyed
from fastinit._intercept.patch import patch, unpatch
from fastinit.diagnostics.calibration.run import calibrate_, lsuv_
from fastinit.init import (
    calculate_gain,
    constant,
    constant_,
    delta_orthogonal_,
    dirac,
    dirac_,
    eye,
    eye_,
    kaiming_normal,
    kaiming_normal_,
    kaiming_uniform,
    kaiming_uniform_,
    lecun_normal_,
    lecun_uniform_,
    normal,
    normal_,
    ones_,
    orthogonal,
    orthogonal_,
    sparse,
    sparse_,
    trunc_normal_,
    uniform,
    uniform_,
    variance_scaling_,
    xavier_normal,
    xavier_normal_,
    xavier_uniform,
    xavier_uniform_,
    zeros_,
)
from fastinit.models.fingerprint import fingerprint
from fastinit.models.manifest import regenerate, verify
from fastinit.models.materialize import init_, materialize_

__all__ = [
    "STREAM_VERSION",
    "Key",
    "Region",
    "__version__",
    "build_info",
    "calculate_gain",
    "calibrate_",
    "constant",
    "constant_",
    "deferred",
    "delta_orthogonal_",
    "diagnostics",
    "dirac",
    "dirac_",
    "eye",
    "eye_",
    "fingerprint",
    "gain",
    "init",
    "init_",
    "initializers",
    "kaiming_normal",
    "kaiming_normal_",
    "kaiming_uniform",
    "kaiming_uniform_",
    "keyed",
    "lecun_normal_",
    "lecun_uniform_",
    "lsuv_",
    "materialize_",
    "normal",
    "normal_",
    "ones_",
    "orthogonal",
    "orthogonal_",
    "patch",
    "recipes",
    "regenerate",
    "sparse",
    "sparse_",
    "trunc_normal_",
    "uniform",
    "uniform_",
    "unpatch",
    "variance_scaling_",
    "verify",
    "xavier_normal",
    "xavier_normal_",
    "xavier_uniform",
    "xavier_uniform_",
    "zeros_",
]

__version__ = "0.1.0"
STREAM_VERSION: int = _native.stream_version()


def build_info() -> dict[str, Any]:
    """What was built and what runs: versions, torch, CUDA, instruction sets, threads."""
    return {"version": __version__, "stream_version": STREAM_VERSION, **_native.build_info()}


def __getattr__(name: str) -> Any:
    # Imported when first asked for, as most programs never do.
    if name in ("checkpoint", "diagnostics", "initializers", "recipes"):
        return importlib.import_module(f"fastinit.{name}")
    raise AttributeError(f"module 'fastinit' has no attribute {name!r}")
