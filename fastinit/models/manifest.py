"""Manifests: what makes a model's initial values again, as JSON-able data.

Owns the format: what is said of each tensor, and reading it back. Must not know recipes, nor how a
model runs its own initialization.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from fastinit._fill.extension import native
from fastinit._fill.keys import Key
from fastinit._fill.placements import is_dtensor
from fastinit._fill.regions import Region, rectangles
from fastinit.models.fingerprint import fingerprint, tensors_of
from fastinit.models.names import held_by
from fastinit.models.report import Plan, Report, versions
from fastinit.models.steps import Step, Value, carry_out, from_data, to_data

Manifest: TypeAlias = Mapping[str, Any]
Place: TypeAlias = Region | Sequence[slice] | slice | None

_FORMAT, _VERSION = "fastinit.manifest", 1


def of_report(report: Report) -> dict[str, Any]:
    """What `Report.manifest` returns."""
    module = report.module()
    if module is None:
        raise RuntimeError("the model of this report is gone; take the manifest while it is there")
    tensors = tensors_of(module)
    changed = [
        name
        for name, version in versions(held_by(module)).items()
        if report.versions.get(name, version) != version
    ]
    if changed:
        raise RuntimeError(
            f"parameters have been changed since they were initialized: {', '.join(changed)}; take "
            "the manifest before"
        )
    digests = fingerprint(module)
    laws: dict[str, int] = {}
    entries: dict[str, Any] = {}
    done: dict[str, list[Plan]] = {}  # a packed parameter has several
    for plan in report.plans:
        done.setdefault(plan.name, []).append(plan)
    for name, tensor in tensors.items():
        plans = done.get(name, [])
        steps = [step for one in plans for step in one.steps] or _held(tensor)
        said = _said(steps, Key(report.seed).fold_in(name))
        entries[name] = {
            "shape": list(tensor.shape),
            "dtype": str(tensor.dtype).removeprefix("torch."),
            "law": None if said is None else laws.setdefault(said, len(laws)),
            "digest": digests[name],
        }
        if plans and plans[0].tied:
            entries[name]["names"] = [name, *plans[0].tied]
        if not isinstance(tensor, nn.Parameter):
            entries[name]["buffer"] = "persistent" if _persists(module, name) else "computed"
    return {
        "format": _FORMAT,
        "version": _VERSION,
        "stream_version": native.stream_version(),
        "torch": torch.__version__,
        "seed": report.seed,
        "laws": [json.loads(said) for said in laws],
        "tensors": entries,
    }


def _held(tensor: Tensor) -> Sequence[Step]:
    """The values of a tensor that nothing was written to, unless they lie on several ranks."""
    return [] if is_dtensor(tensor) else [Step(Value(tensor))]


def _said(steps: Sequence[Step], key: Key) -> str | None:
    """The steps as text; without their key where it is that of the name, as it mostly is."""
    data = [to_data(step) for step in steps]
    if not data or None in data:
        return None
    for one in data:
        if one is not None and one.get("key") == [key.seed, key.offset]:
            one["key"] = "name"
    return json.dumps(data)


def _persists(module: nn.Module, name: str) -> bool:
    path, _, word = name.rpartition(".")
    try:
        owner = module.get_submodule(path)
    except AttributeError:  # wrapped
        return True
    return word not in owner._non_persistent_buffers_set


# ------------------------------------------------------------------------------- reading it


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor of a manifest."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    steps: Sequence[Step] | None  # None: only its digest is known
    digest: str
    names: Sequence[str]
    in_state_dict: bool


def read(manifest: Manifest) -> dict[str, Entry]:
    """The tensors of a manifest, by first name.

    Raises:
        TypeError: no mapping.
        ValueError: no manifest, or one in a later format.
        RuntimeError: a manifest of another stream version, whose values are others.
    """
    if not isinstance(manifest, Mapping):
        raise TypeError(f"manifest must be a mapping, got {type(manifest).__name__}")
    if manifest.get("format") != _FORMAT or manifest.get("version") != _VERSION:
        raise ValueError(
            f"manifest must be of format {_FORMAT!r} and version {_VERSION}, got "
            f"{manifest.get('format')!r} and {manifest.get('version')!r}"
        )
    stream = native.stream_version()
    if manifest["stream_version"] != stream:
        raise RuntimeError(
            f"manifest is of stream version {manifest['stream_version']}, and this fastinit draws "
            f"version {stream}: it would make other values; use the fastinit that wrote it"
        )
    root = Key(manifest["seed"])
    return {
        name: _entry(name, data, manifest["laws"], root)
        for name, data in manifest["tensors"].items()
    }


def _entry(name: str, data: Mapping[str, Any], laws: Sequence[Any], root: Key) -> Entry:
    steps = None
    if data["law"] is not None:
        key = root.fold_in(name)
        own = [key.seed, key.offset]
        steps = [
            from_data({**one, "key": own} if one.get("key") == "name" else one)
            for one in laws[data["law"]]
        ]
    names = data.get("names", [name])
    dtype = getattr(torch, data["dtype"])
    in_state_dict = data.get("buffer") != "computed"
    return Entry(name, tuple(data["shape"]), dtype, steps, data["digest"], names, in_state_dict)


def verify(module: nn.Module, manifest: Manifest) -> list[str]:
    """Tell how the values of a model differ from what a manifest says of them.

    Args:
        module: a model; where it is sharded, every rank has to call this.
        manifest: of `Report.manifest`, as it was or read from JSON.

    Returns: a line for each tensor that is missing, unexpected, of another shape or dtype, or of
        other values; nothing if all are equal.

    Raises: RuntimeError for a manifest of another stream version; TypeError, ValueError for what is
        no manifest.

    Reproducibility: as `fingerprint`: one flipped bit shows, sharding does not.

    Example:
        >>> import torch, fastinit
        >>> layer = torch.nn.Linear(5, 3)
        >>> manifest = fastinit.init_(layer, seed=0).manifest()
        >>> fastinit.verify(layer, manifest)
        []
        >>> with torch.no_grad():
        ...     _ = layer.bias.add_(1)
        >>> fastinit.verify(layer, manifest)
        ['bias: other values']
    """
    entries = read(manifest)
    tensors = tensors_of(module)
    found = fingerprint(module)
    differences = [f"{name}: missing from the model" for name in entries if name not in tensors]
    for name, tensor in tensors.items():
        entry = entries.get(name)
        if entry is None:
            differences.append(f"{name}: not in the manifest")
        elif tuple(tensor.shape) != entry.shape:
            differences.append(f"{name}: shape {tuple(tensor.shape)}, manifest {entry.shape}")
        elif tensor.dtype != entry.dtype:
            differences.append(f"{name}: dtype {tensor.dtype}, manifest {entry.dtype}")
        elif found[name] != entry.digest:
            differences.append(f"{name}: other values")
    return differences


def regenerate(
    manifest: Manifest,
    name: str,
    region: Place = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Make a tensor of a manifest again, or a part of it, without the model.

    Args:
        manifest: of `Report.manifest`, as it was or read from JSON.
        name: of the tensor; any of its names, if it is tied.
        region: which part: a tuple of slices, one a dimension, or a `fastinit.Region`, which
            begins at its offsets, or at its start, and goes to the end of the tensor. None means
            all of it.
        device: where to make it (default: the CPU).

    Returns: a new tensor of the values that the model started with.

    Raises: ValueError for a name that the manifest does not have, a tensor of which it has only a
        digest, or a region that does not fit; RuntimeError for another stream version.

    Reproducibility: bit for bit; a part costs what it holds, whatever the size of the whole.

    Example:
        >>> import torch, fastinit
        >>> layer = torch.nn.Linear(5, 3)
        >>> manifest = fastinit.init_(layer, seed=0).manifest()
        >>> rows = fastinit.regenerate(manifest, "weight", (slice(1, 3), slice(None)))
        >>> torch.equal(rows, layer.weight[1:3])
        True
    """
    entry = _find(read(manifest), name)
    if isinstance(region, Region) and region.is_flat and region.global_shape == entry.shape:
        count = math.prod(entry.shape) - region.offsets[0]
        flat = torch.empty(count, dtype=entry.dtype, device=device or "cpu")
        carry_out([(steps_of(entry), rectangles(flat, region))])
        return flat
    offsets, shape = _extent(entry.shape, region)
    made = torch.empty(shape, dtype=entry.dtype, device=device or "cpu")
    whole = tuple(shape) == entry.shape
    carry_out([(steps_of(entry), [(made, None if whole else Region(entry.shape, offsets))])])
    return made


def steps_of(entry: Entry) -> Sequence[Step]:
    """What fills a tensor; a ValueError if only its digest is known."""
    if entry.steps is None:
        raise ValueError(
            f"manifest has only a digest of {entry.name}, whose values the model's code computed; "
            "it can be verified and not made again"
        )
    return entry.steps


def _find(entries: dict[str, Entry], name: str) -> Entry:
    for entry in entries.values():
        if name == entry.name or name in entry.names:
            return entry
    near = difflib.get_close_matches(str(name), list(entries), n=3)
    raise ValueError(
        f"name must be of a tensor in the manifest, got {name!r}; "
        + (f"did you mean {', '.join(near)}?" if near else f"it has {', '.join(entries)}")
    )


def _extent(shape: tuple[int, ...], region: Place) -> tuple[tuple[int, ...], tuple[int, ...]]:
    if region is None:
        return (0,) * len(shape), shape
    if isinstance(region, Region):
        if tuple(region.global_shape) != shape:
            raise ValueError(
                f"region must be of the tensor's shape {shape}, got one of {region.global_shape}"
            )
        slices = [slice(offset, None) for offset in region.offsets]
    else:
        slices = [region] if isinstance(region, slice) else list(region)
    if len(slices) > len(shape) or not all(isinstance(part, slice) for part in slices):
        raise ValueError(f"region must be slices of {len(shape)} dimensions, got {region!r}")
    slices += [slice(None)] * (len(shape) - len(slices))
    offsets, extents = [], []
    for part, extent in zip(slices, shape, strict=True):
        start, stop, step = part.indices(extent)
        if step != 1:
            raise ValueError(f"region must have steps of 1, got {part!r}")
        offsets.append(start)
        extents.append(max(0, stop - start))
    return tuple(offsets), tuple(extents)
