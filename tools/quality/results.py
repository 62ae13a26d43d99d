"""What a battery found in a stream, its verdict, and the tables of docs/quality/.

Owns the rule by which a stream passes: no p-value lies outside [1e-6, 1 - 1e-6]. Batteries print
what is below 1e-3 as suspect, but a run of all of them has thousands of p-values, of which some
must be that small; what is wrong soon has one of 1e-10 and less.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

LIMIT = 1e-6
SHOWN = 1e-3


@dataclass(frozen=True)
class Statistic:
    """One test: its name, its p-value as printed, and how near that is to 0 or 1."""

    name: str
    printed: str
    tail: float


def processor() -> str:
    """The machine's name of its processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    found = (line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    return next(found, platform.machine())


@dataclass(frozen=True)
class Result:
    """A battery's word on a stream; `extremes` holds the statistics with the smallest tails."""

    battery: str
    version: str
    stream: str
    spoiled: bool
    amount: str
    seed: int
    seconds: float
    statistics: int
    extremes: list[Statistic]
    date: str = field(default_factory=lambda: time.strftime("%Y-%m-%d"))
    processor: str = field(default_factory=processor)

    @property
    def failures(self) -> list[Statistic]:
        """The statistics whose p-value lies outside [1e-6, 1 - 1e-6]."""
        return [s for s in self.extremes if not s.tail >= LIMIT]

    @property
    def as_it_should(self) -> bool:
        """Whether a sound stream passed, or a spoiled one failed."""
        return bool(self.failures) == self.spoiled

    def line(self) -> str:
        """The result in one line of a table."""
        verdict = "FAILED" if self.failures else "passed"
        note = "" if self.as_it_should else ", AND SHOULD NOT HAVE"
        note = ", as it must" if self.spoiled and self.failures else note
        least = min(self.extremes, key=lambda s: s.tail, default=None)
        what = f"{least.printed} ({least.name})" if least else f"none beyond {SHOWN:g}"
        return (
            f"{self.stream:<24} {self.amount:>8} {self.statistics:>6} {self.seconds:>8.0f}  "
            f"{verdict}{note}; most extreme p: {what}"
        )


def save(result: Result, work: Path) -> None:
    """Keep a result, in place of an older one of the same battery and stream."""
    folder = work / "results"
    folder.mkdir(exist_ok=True)
    name = f"{result.battery}-{result.stream}".replace(" ", "_")
    (folder / f"{name}.json").write_text(json.dumps(asdict(result), indent=1))


def load(battery: str, work: Path) -> list[Result]:
    """The results kept of a battery: sound streams first, by their order in time."""
    found = []
    for path in (work / "results").glob(f"{battery}-*.json"):
        record = json.loads(path.read_text())
        record["extremes"] = [Statistic(**s) for s in record["extremes"]]
        found.append((record["spoiled"], path.stat().st_mtime, Result(**record)))
    return [result for _, _, result in sorted(found, key=lambda entry: entry[:2])]


def table(results: Sequence[Result]) -> str:
    """A page of docs/quality/: what was run, on what, and what came of it."""
    first = results[0]
    dates = sorted({r.date for r in results})
    lines = [
        f"{first.version}, of python -m tools.quality {first.battery}",
        f"seed {first.seed}; {', '.join(sorted({r.processor for r in results}))}, one core beside "
        "other work",
        f"{' to '.join(dict.fromkeys((dates[0], dates[-1])))}",
        "",
        f"{'stream':<24} {'amount':>8} {'tests':>6} {'seconds':>8}  verdict",
        *(r.line() for r in results),
    ]
    notable = [(r, s) for r in results if not r.spoiled for s in r.extremes if s.tail < SHOWN]
    lines += ["", f"p-values of sound streams outside [{SHOWN:g}, 1 - {SHOWN:g}]:"]
    lines += [f"  {r.stream:<22} {s.printed:>14}  {s.name}" for r, s in notable] or ["  none"]
    lines += ["", "failures of the spoiled streams, at most five of each:"]
    failed = [(r, s) for r in results if r.spoiled for s in least(r.failures)]
    lines += [f"  {r.stream:<22} {s.printed:>14}  {s.name}" for r, s in failed] or ["  none run"]
    return "\n".join(lines) + "\n"


def least(statistics: Iterable[Statistic], count: int = 5) -> list[Statistic]:
    """The most extreme statistics."""
    return sorted(statistics, key=lambda s: s.tail)[:count]
