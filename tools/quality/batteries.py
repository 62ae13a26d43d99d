"""Runs a battery of TestU01 or PractRand on a stream, and reads what it prints.

TestU01: L'Ecuyer and Simard, "TestU01: a C library for empirical testing of random number
generators", ACM TOMS 33(4), 2007. PractRand: Chris Doty-Humphrey, pracrand.sourceforge.net.
"""

from __future__ import annotations

import re
import resource
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tools.quality import build
from tools.quality.results import SHOWN, Result, Statistic

STREAMS = {
    "key": "the words of one key",
    "seeds": "64 words of each of the seeds s, s + 1, s + 2, ...",
    "integers": "64 words of each of key.fold_in(0), key.fold_in(1), ...",
    "names": "64 words at a time of key.fold_in(name), 2^20 names of parameters in turn",
    "tree": "64 words of each leaf of a tree of keys split in two, 32 deep",
    "rows": "the first 64 elements of each row of a matrix with 2^20 columns",
    "columns": "matrices of 2^20 rows and 2^16 columns, column after column",
    "uniform32": "the 24 bits of each float32 of uniform_",
    "uniform32-reversed": "the same, each from its lowest bit to its highest",
    "normal32": "8 bits of the probability below each float32 of normal_",
    "normal64": "32 bits of the probability below each float64 of normal_",
    "trunc32": "8 bits of the probability below each float32 of trunc_normal_, +-2 std",
    "trunc64": "32 bits of the probability below each float64 of trunc_normal_, +-2 std",
}
SPOILED = {
    "four-rounds": "one key, but 4 rounds of Philox in place of 10",
    "shared-key": "64 words of each of the seeds s, s, s + 1, s + 1, ...",
    "cut-tail": "as normal32, of values that lack what lies beyond 2.5 std",
}
TESTU01 = {"smallcrush": "SmallCrush", "crush": "Crush", "bigcrush": "BigCrush"}
BIGCRUSH_TESTS = 106

TESTU01_SECONDS = re.compile(r"^seconds\t(\S+)$", re.MULTILINE)
PRACTRAND_LENGTH = re.compile(r"^length= (.+?) \(2\^(\d+) bytes\)", re.MULTILINE)
PRACTRAND_ANOMALY = re.compile(r"^  (\S.*?)\s+R=.*?p\s*~?=\s*(\S+)", re.MULTILINE)
PRACTRAND_REST = re.compile(r"(?:no anomalies in|and) (\d+) test result\(s\)")


def read_testu01(text: str) -> list[Statistic]:
    """The lines that feed.cpp prints for each statistic."""
    found = []
    for _, printed, name in (x.split("\t") for x in text.splitlines() if x.startswith("p\t")):
        p = float(printed)
        shown = f"{p:.2g}" if p <= 0.5 else f"1 - {1 - p:.2g}"
        found.append(Statistic(name, shown, min(p, 1 - p)))
    return found


def read_practrand(text: str) -> tuple[int, list[Statistic]]:
    """How many results RNG_test tells of, at all lengths, and those that it names."""
    anomalies = []
    for name, printed in PRACTRAND_ANOMALY.findall(text):
        tail = float(printed.removeprefix("1-"))
        anomalies.append(Statistic(name, printed.replace("1-", "1 - ", 1), tail))
    rest = sum(map(int, PRACTRAND_REST.findall(text)))
    return rest + len(anomalies), [s for s in anomalies if s.tail < SHOWN]


def processor_time() -> float:
    """Seconds of a core that the programs run so far have used, whatever else ran beside them."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _big_test(command: list[str], number: int, folder: Path) -> str:
    """What a test of BigCrush prints; from an earlier run, if that ended, as hours get lost."""
    log = folder / f"{number}.log"
    if not log.exists() or log.stat().st_mtime < Path(command[0]).stat().st_mtime:
        printed = subprocess.run(
            [*command, str(number)], check=True, capture_output=True, text=True
        )
        log.write_text(printed.stdout)
    return log.read_text()


def run_testu01(battery: str, stream: str, seed: int, work: Path, jobs: int = 1) -> Result:
    """One of TestU01's batteries on a stream; BigCrush test by test, `jobs` at a time."""
    feeder, names = build.build_feeder(work), build.write_names(work)
    command = [str(feeder), stream, str(seed), str(names), TESTU01[battery]]
    log = work / f"{battery}-{stream}.log"
    if battery == "bigcrush":
        folder = work / f"{battery}-{stream}-{seed}"
        folder.mkdir(exist_ok=True)
        with ThreadPoolExecutor(jobs) as pool:
            tests = range(1, BIGCRUSH_TESTS + 1)
            log.write_text("".join(pool.map(lambda n: _big_test(command, n, folder), tests)))
    else:
        log.write_text(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    text = log.read_text()
    statistics = read_testu01(text)
    if not statistics:
        raise SystemExit(f"{TESTU01[battery]} of {stream} printed no p-value; see {work}")
    version = re.search(r"Version:\s+(TestU01 \S+)", text)
    return Result(
        battery=battery,
        version=f"{version[1] if version else 'TestU01'} {TESTU01[battery]}",
        stream=stream,
        spoiled=stream in SPOILED,
        amount="-",
        seed=seed,
        seconds=sum(map(float, TESTU01_SECONDS.findall(text))),
        statistics=len(statistics),
        extremes=sorted(statistics, key=lambda s: s.tail)[:10],
    )


def run_practrand(size: str, stream: str, seed: int, work: Path) -> Result:
    """PractRand on a stream, until `size` ("2GB") or a failure."""
    feeder, names, program = (
        build.build_feeder(work),
        build.write_names(work),
        build.build_practrand(work),
    )
    began = processor_time()
    with subprocess.Popen([feeder, stream, str(seed), names], stdout=subprocess.PIPE) as source:
        text = subprocess.run(
            [program, "stdin32", "-tlmin", "16MB", "-tlmax", size],
            stdin=source.stdout,
            capture_output=True,
            text=True,
            check=False,
        ).stdout
        source.kill()
    seconds = processor_time() - began
    (work / f"practrand-{stream}.log").write_text(text)
    lengths = PRACTRAND_LENGTH.findall(text)
    count, anomalies = read_practrand(text)
    if not lengths or count == 0:
        raise SystemExit(f"PractRand of {stream} printed no result; see {work}")
    version = re.search(r"using (PractRand) version (\S+)", text)
    power = int(lengths[-1][1])
    return Result(
        battery="practrand",
        version=" ".join(version.groups()) if version else "PractRand",
        stream=stream,
        spoiled=stream in SPOILED,
        amount=f"{2 ** (power - 30)} GB" if power >= 30 else f"{2 ** (power - 20)} MB",
        seed=seed,
        seconds=seconds,
        statistics=count,
        extremes=anomalies,
    )
