"""Batteries and laws against the random numbers: python -m tools.quality --help.

    python -m tools.quality short                     # a minute, once the batteries are built
    python -m tools.quality smallcrush                # every stream, and the spoiled ones
    python -m tools.quality practrand --size 2GB
    python -m tools.quality laws --values 1e9
    python -m tools.quality crush key
    python -m tools.quality tables                    # docs/quality/*.txt from what was run

Exits with 1 if a sound stream fails or a spoiled one passes.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

from tools.quality import batteries, laws
from tools.quality.results import Result, load, save, table

BATTERIES = [*batteries.TESTU01, "practrand", "laws"]
DOCS = Path(__file__).parents[2] / "docs" / "quality"
ALL = [*batteries.STREAMS, *batteries.SPOILED]


def run_one(battery: str, streams: Iterable[str], options: argparse.Namespace) -> Iterable[Result]:
    """The results of a battery, one after the other."""
    if battery == "laws":
        yield from laws.results(int(options.values), options.seed, list(streams))
        return
    for stream in streams or ALL:
        if stream not in ALL:
            raise SystemExit(f"no stream is called {stream!r}; there are {', '.join(ALL)}")
        if battery == "practrand":
            yield batteries.run_practrand(options.size, stream, options.seed, options.work)
        else:
            yield batteries.run_testu01(battery, stream, options.seed, options.work, options.jobs)


def short(options: argparse.Namespace) -> Iterable[Result]:
    """What takes a minute: a sound and a spoiled stream by each battery, and the laws."""
    options.size, options.values = "128MB", 1 << 25
    yield from run_one("smallcrush", ["key", "four-rounds"], options)
    yield from run_one("practrand", ["seeds", "normal64", "shared-key"], options)
    yield from run_one("laws", [], options)


def write_tables(work: Path) -> None:
    """docs/quality/ from the results that were kept."""
    DOCS.mkdir(exist_ok=True)
    for battery in BATTERIES:
        if found := load(battery, work):
            (DOCS / f"{battery}.txt").write_text(table(found))


def main() -> int:
    """Run what the command line names, and print a line for each result."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.quality",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("battery", choices=["short", *BATTERIES, "tables"])
    parser.add_argument("streams", nargs="*", help=f"of a battery: {', '.join(ALL)}; default: all")
    parser.add_argument("--seed", type=int, default=20260101)
    parser.add_argument("--size", default="1GB", help="how much PractRand reads")
    parser.add_argument("--jobs", type=int, default=1, help="tests of BigCrush at a time")
    parser.add_argument("--values", type=float, default=1e9, help="how many values a law is of")
    parser.add_argument(
        "--work",
        type=Path,
        default=Path.home() / ".cache" / "fastinit-quality",
        help="where the batteries are built and results kept (%(default)s)",
    )
    options = parser.parse_intermixed_args()
    options.work = options.work.absolute()
    options.work.mkdir(parents=True, exist_ok=True)
    if options.battery == "tables":
        write_tables(options.work)
        return 0
    brief = options.battery == "short"
    found = short(options) if brief else run_one(options.battery, options.streams, options)
    wrong = 0
    for result in found:
        print(f"{result.battery:<10} {result.line()}", flush=True)
        wrong += not result.as_it_should
        if not brief:
            save(result, options.work)
    if wrong:
        print(f"{wrong} of these should have come out otherwise")
    return int(wrong > 0)


if __name__ == "__main__":
    raise SystemExit(main())
