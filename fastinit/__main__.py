"""The command line: `python -m fastinit doctor | bench | audit | compare`.

Owns arguments, what is printed where, and the exit status: 0 all is well, 1 findings or failures,
2 bad usage. What the commands do, `fastinit.diagnostics.commands` says.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from fastinit import __version__
from fastinit.diagnostics.commands.compared import (
    ACTIVATIONS,
    SCHEMES,
    preset_names,
    scheme_names,
)
from fastinit.diagnostics.tables import show


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m fastinit", description="Look at fastinit and at what it does to networks."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    json = argparse.ArgumentParser(add_help=False)
    json.add_argument("--json", action="store_true", help="print JSON instead of a table")
    out = argparse.ArgumentParser(add_help=False)
    out.add_argument("--out", metavar="FILE.png", help="write a picture (needs matplotlib)")

    commands.add_parser("doctor", parents=[json], help="test this build on this machine")
    commands.add_parser("bench", parents=[json], help="time some fills beside stock torch")
    audit = commands.add_parser(
        "audit",
        parents=[json, out],
        help="say what is probably wrong with a model's initialization",
        description="Hold the parameters of a model against their laws, and check it by rules.",
    )
    audit.add_argument(
        "place", metavar="MODULE:FACTORY", help="a function or class that makes the model"
    )
    audit.add_argument(
        "--recipe",
        choices=preset_names(),
        metavar="NAME",
        help="a preset that the model should follow",
    )
    audit.add_argument(
        "--input",
        type=_shape,
        metavar="N,...",
        help="shape of a batch of normal numbers, to check signals as well",
    )
    compare = commands.add_parser(
        "compare",
        parents=[json, out],
        help="train a network on handwritten digits from several initializations",
        description="Train a plain network on 1,797 handwritten digits, by gradient descent, from "
        "several initializations. Every one sees the same batches.",
    )
    compare.add_argument(
        "schemes", nargs="*", metavar="SCHEME", help=f"of {', '.join(scheme_names())}"
    )
    compare.add_argument("--depth", type=_count, default=8, help="hidden layers (8)")
    compare.add_argument("--width", type=_count, default=64, help="units in each (64)")
    compare.add_argument(
        "--activation", choices=ACTIVATIONS, default="relu", help="behind each hidden layer (relu)"
    )
    compare.add_argument("--epochs", type=_count, default=8, help="passes over the data (8)")
    compare.add_argument("--seeds", type=_count, default=3, help="runs of each scheme (3)")
    return parser


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is below 1")
    return number


def _shape(text: str) -> tuple[int, ...]:
    return tuple(_count(word) for word in text.replace("x", ",").split(","))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: of the command line; by default those of the process.

    Returns: the exit status.
    """
    parser = _parser()
    given = parser.parse_args(arguments)
    out = getattr(given, "out", None)
    if out is not None:
        _require_picture(parser, out)
    try:
        result, status = _run(parser, given)
        if out is not None:
            result.plot().savefig(out)
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        print(f"{parser.prog} {given.command}: {error}", file=sys.stderr)
        return 1
    try:
        if given.json:
            print(result.to_json())
        else:
            show(result)
        sys.stdout.flush()
    except BrokenPipeError:  # as in `... | head`; nor may Python's own flush at the end say so
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return status


def _require_picture(parser: argparse.ArgumentParser, out: str) -> None:
    from fastinit.diagnostics import plots

    try:
        plots.require_matplotlib()
    except ImportError as error:
        parser.error(f"--out: {error}")
    if not out.endswith((".png", ".svg", ".pdf")):
        parser.error(f"--out: {out!r} must end in .png, .svg or .pdf")


def _run(parser: argparse.ArgumentParser, given: argparse.Namespace) -> tuple[Any, int]:
    """The result of a command, and the exit status."""
    if given.command == "doctor":
        from fastinit.diagnostics.commands.doctor import doctor

        diagnosis = doctor(__version__)
        return diagnosis, 0 if diagnosis.well else 1
    if given.command == "bench":
        from fastinit.diagnostics.commands.bench import bench

        return bench(), 0
    if given.command == "audit":
        from fastinit.diagnostics.commands.audit import audit, load

        try:
            model = load(given.place)
        except ValueError as error:
            parser.error(f"audit: {error}")
        found = audit(model, given.recipe, given.input)
        return found, 0 if found.well else 1
    from fastinit.diagnostics.commands.compared import compare_digits

    schemes = given.schemes or list(SCHEMES)
    unknown = [name for name in schemes if name not in scheme_names()]
    if unknown:
        parser.error(f"no scheme {', '.join(unknown)}; there are {', '.join(scheme_names())}")
    comparison = compare_digits(
        schemes,
        depth=given.depth,
        width=given.width,
        activation=given.activation,
        epochs=given.epochs,
        seeds=given.seeds,
    )
    return comparison, 0


if __name__ == "__main__":
    sys.exit(main())
