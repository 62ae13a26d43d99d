"""The sweep: `native` against the constructors of every architecture at hand.

`make sweep` runs it and writes docs/models_sweep.md. A model is made by its package, and made on
meta and materialized; parameters must have one law (two-sample Kolmogorov-Smirnov, Holm over the
parameters of a model), constants and buffers must be equal. `test_models_sweep` runs a sample.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import signal
import sys
import time
import warnings
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from _models import on_meta, p_values, rejected
from _small import Maker, NotBuiltError, every_model
from torch import nn

import fastinit
from fastinit.models.report import Report

_PACKAGES = ("torch", "transformers", "timm", "torchvision")
ALPHA = 1e-4  # for a model
_SECONDS = 120  # for a model
# Models that keep the layers of another one, made and initialized before, and not itself: by
# torchvision's IntermediateLayerGetter, or timm's features_only.
_TAKEN_APART = frozenset(
    {f"segmentation.{name}" for name in ("deeplabv3", "fcn", "lraspp")}
    | {f"detection.{name}" for name in ("faster_rcnn", "fcos", "keypoint_rcnn", "mask_rcnn")}
    | {f"detection.{name}" for name in ("retinanet", "ssd", "ssdlite")}
    | {"conditional_detr", "dab-detr", "deformable_detr", "detr", "table-transformer"}
    | {"omdet-turbo", "timm_backbone"}
)
_AGAIN = re.compile(r"(\w+)\((.*)\) ran again with defaults$")


@dataclasses.dataclass
class Outcome:
    """What came of one architecture.

    verdict: "same", "named" (the same but for tensors of which the report says that the model's
    code could not make them again, or had to assume an argument), "taken apart" (a module that
    initialized others is no longer in the model), "differs" or "not built".
    """

    package: str
    architecture: str
    model: str = ""
    verdict: str = ""
    drawn: int = 0  # parameters compared by their law
    constant: int = 0  # parameters compared by their values
    buffers: int = 0
    what: str = ""
    why: str = ""
    seconds: float = 0.0


def compare(make: Maker, outcome: Outcome) -> None:
    """Fill in what comes of a model."""
    torch.manual_seed(0)
    stock = make()
    try:
        report, made = _made_again(make)
    except RuntimeError as error:  # buffers
        outcome.verdict, outcome.what = "named", str(error).split(": ", 1)[-1].split("; make")[0]
        return
    judge(stock, made, said(report, made), outcome)


def _made_again(make: Maker) -> tuple[Report, nn.Module]:
    """From meta, or, where the model cannot be made there, with all parameters overwritten."""
    try:
        made = on_meta(make)
    except NotImplementedError:
        made = make()
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.fill_(torch.nan)
        return fastinit.init_(made, seed=1, strict=False), made
    return fastinit.materialize_(made, "cpu", seed=1, strict=False), made


def said(report: Report, made: nn.Module) -> dict[str, str]:
    """Of which parameters the report says that they may not be what the constructor made."""
    found = {}
    kinds = {m[1]: m[2] for w in report.warnings if (m := _AGAIN.match(w))}
    problems = next((w for w in report.warnings if w.startswith("code of the model could")), "")
    modules = [line.split(": ", 1)[0] for line in problems.split(": ", 1)[-1].split("; ")]
    parts = dict(made.named_modules())
    for record in report:
        steps = record.name.split(".")
        around = [".".join(steps[:end]) for end in range(len(steps))]
        if record.note.startswith(("no code", "assumes")):
            found[record.name] = record.note
        elif problems and any((name or "the model") in modules for name in around):
            found[record.name] = "code that could not run again"
        else:
            assumed = [kinds[k] for n in around if (k := type(parts[n]).__name__) in kinds]
            if assumed:
                found[record.name] = f"may rest on {assumed[0]}"
    return found


def judge(stock: nn.Module, made: nn.Module, told: dict[str, str], outcome: Outcome) -> None:
    """Compare a model of its package with one of ours."""
    ours = dict(made.named_parameters())
    pairs = [(name, p, ours[name]) for name, p in stock.named_parameters()]
    outcome.constant = len(pairs)
    buffers = dict(made.named_buffers())
    for name, buffer in stock.named_buffers():
        other = buffers[name]
        outcome.buffers += 1
        same = buffer.dtype == other.dtype and torch.allclose(
            buffer.double(), other.double(), rtol=0, atol=0, equal_nan=True
        )
        if not same:  # some are drawn
            pairs.append((name, buffer, other))
    found, wrong = p_values(pairs)
    wrong += rejected(found, ALPHA)
    outcome.drawn, outcome.constant = len(found), outcome.constant - len(found)
    unsaid = [name for name in wrong if name not in told]
    outcome.verdict = "differs" if unsaid else "named" if wrong else "same"
    if unsaid and outcome.architecture in _TAKEN_APART:
        outcome.verdict = "taken apart"
    outcome.what = ", ".join(unsaid or wrong)
    if wrong and not unsaid:
        outcome.why = "; ".join(sorted({told[name] for name in wrong}))


def run(only: list[str], path: Path | None) -> list[Outcome]:
    """All architectures that have one of these words in their name, told as they come.

    What the file has already is not run again.
    """
    outcomes = _outcomes(path) if path is not None and path.exists() else []
    done = {(one.package, one.architecture) for one in outcomes}
    for package, architecture, prepare in every_model():
        if not any(word in f"{package} {architecture}" for word in only):
            continue
        if (package, architecture) in done:
            continue
        outcome = Outcome(package, architecture)
        start = time.perf_counter()
        signal.signal(signal.SIGALRM, _give_up)
        signal.alarm(_SECONDS)
        try:
            outcome.model, make = prepare()
            compare(make, outcome)
        except NotBuiltError as error:
            outcome.verdict, outcome.what = "not built", str(error)
        except Exception as error:
            told = f"{type(error).__name__}: {error}".splitlines()[0][:200]
            outcome.verdict = "differs" if outcome.model else "not built"
            outcome.what = told
        finally:
            signal.alarm(0)
        outcome.seconds = round(time.perf_counter() - start, 2)
        outcomes.append(outcome)
        print(
            f"{outcome.verdict:10} {package:12} {architecture:28} {outcome.seconds:6.1f} s "
            f"{outcome.what[:150]}",
            flush=True,
        )
        if path is not None:
            with path.open("a") as file:
                file.write(json.dumps(dataclasses.asdict(outcome)) + "\n")
    return outcomes


def _outcomes(path: Path) -> list[Outcome]:
    return [Outcome(**json.loads(line)) for line in path.read_text().splitlines()]


def _give_up(*_: Any) -> None:
    raise TimeoutError(f"took more than {_SECONDS} s")


_HEAD = """# The sweep

`native` against the model's own constructor, for every architecture of transformers that can be
built small, one model of each family of timm and torchvision, and the layers of torch.nn. A model
is made by its package, and made on meta and filled by `materialize_`. Every parameter must follow
one law, by a two-sample Kolmogorov-Smirnov test with Holm's correction at {alpha:g} a model;
constants and buffers must be equal, up to the rounding of a constant.

`make sweep` repeats it and writes this page. It was written with {versions}.
"""
_SAYING = {
    "same": "same",
    "named": "same but for what the report names",
    "taken apart": "taken apart",
    "differs": "differs",
    "not built": "not built",
}


def written(outcomes: list[Outcome]) -> str:
    """The page of the manual."""
    outcomes = sorted(outcomes, key=lambda one: (one.package, one.architecture))
    versions = ", ".join(f"{name} {version(name)}" for name in _PACKAGES)
    counts = Counter((one.package, one.verdict) for one in outcomes)
    lines = [_HEAD.format(alpha=ALPHA, versions=versions), _row("package", *_SAYING.values())]
    lines.append(_row(*["---"] * (len(_SAYING) + 1)))
    for package in ("torch.nn", "timm", "torchvision", "transformers"):
        lines.append(_row(package, *(counts[package, verdict] for verdict in _SAYING)))
    compared = [one for one in outcomes if one.verdict != "not built"]
    drawn, constant, buffers = (
        sum(getattr(one, word) for one in compared) for word in ("drawn", "constant", "buffers")
    )
    lines.append(
        f"\nCompared in all: {drawn:,} parameters by their law, {constant:,} constant ones and "
        f"{buffers:,} buffers by their values."
    )
    lines.append("\n## Named\n\n" + _row("package", "model", "what", "as the report says"))
    lines.append(_row(*["---"] * 4))
    for one in outcomes:
        if one.verdict == "named":
            why = one.why or "buffers that no code computes: an error"
            lines.append(_row(one.package, one.model, _first(one.what), _shortened(why)))
    lines.append(
        "\n## Taken apart\n\nThese keep the layers of another model, which initialized them when "
        "it was made, and not that model itself: by torchvision's IntermediateLayerGetter, or "
        "timm's `features_only`. Nothing in the model tells of the code that was lost, and those "
        "layers get what their own constructors give. Pass a recipe for them.\n"
    )
    lines.append(_row("package", "model", "what") + "\n" + _row(*["---"] * 3))
    lines += [
        _row(one.package, one.model, _first(one.what))
        for one in outcomes
        if one.verdict in ("taken apart", "differs")
    ]
    lines.append("\n## Not built\n\n" + _row("package", "architecture", "why"))
    lines.append(_row(*["---"] * 3))
    lines += [
        _row(one.package, one.architecture, _shortened(one.what))
        for one in outcomes
        if one.verdict == "not built"
    ]
    return "\n".join(lines) + "\n"


def _row(*cells: object) -> str:
    return "| " + " | ".join(str(cell).replace("|", "/") for cell in cells) + " |"


def _first(names: str) -> str:
    first, *more = names.split(", ")
    return f"`{first}`" + (f" and {len(more)} more" if more else "")


def _shortened(text: str) -> str:
    return "`" + (text if len(text) < 110 else text[:107] + "...").replace("`", "'") + "`"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", default=[""], help="words in architectures' names")
    parser.add_argument("--json", type=Path, help="append each outcome to this file; go on with it")
    parser.add_argument("--page", type=Path, help="write the page of the manual here")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    outcomes = run(options.only, options.json)
    if options.page is not None:
        options.page.write_text(written(outcomes))
    print(Counter((one.package, one.verdict) for one in outcomes))
    return int(any(one.verdict == "differs" for one in outcomes))


if __name__ == "__main__":
    sys.exit(main())
