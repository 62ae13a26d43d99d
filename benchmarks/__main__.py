"""The command line: `python -m benchmarks run | report | list`; see README.md."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks import contenders, cuda, figures, models, report
from benchmarks.cases import Case, cases, selected
from benchmarks.contenders import CEILING, OURS, STOCK
from benchmarks.goals import judge
from benchmarks.laws import WrongResultError
from benchmarks.timing import CLOCKS, QUICK, Clock, Plan, interleaved

HERE = Path(__file__).parent
SEED = 20240607
PEERS = {*contenders.PEERS, *cuda.PEERS}
ESSENTIAL = {OURS, STOCK, CEILING}
Result = dict[str, Any]


def measure(case: Case, clock: Clock, plan: Plan) -> Result:
    """Check every contender of a case, then time them in turn.

    A peer that breaks down is left out; what it says goes to stderr.

    Raises:
        WrongResultError: a contender's result is wrong; nothing has been timed.
    """
    torch.set_num_threads(case.threads)
    torch.manual_seed(SEED)
    able = []
    metrics = {}
    for contender in case.contenders():
        try:
            metrics[contender.name] = contender.check()
        except WrongResultError as error:
            raise WrongResultError(f"{contender.name}: {error}") from error
        except Exception as error:
            if contender.name not in PEERS or contender.name in ESSENTIAL:
                raise
            print(f"  without {contender.name}: {error}", file=sys.stderr, flush=True)
            continue
        able.append(contender)
    samples = interleaved(able, clock, plan)
    result: Result = {
        "name": case.name,
        "threads": case.threads,
        "elements": case.elements,
        "bytes": case.bytes,
        "baseline": case.baseline,
        "malloc": os.environ.get("GLIBC_TUNABLES"),
        "contenders": {
            name: {"seconds": [float(f"{s:.4g}") for s in seconds], **metrics[name]}
            for name, seconds in samples.items()
        },
    }
    result["goals"] = [judge(goal, result) for goal in case.goals]
    return result


def renewed(document: Result, path: Path) -> Result:
    """The document of an earlier run, with the cases of this one in place of those of that name."""
    earlier, about = report.load(path), document["machine"]
    fresh = {
        (case["name"], case["threads"]): {**case, "renewed": about["date"]}
        for case in document["cases"]
    }
    cases = [fresh.pop((case["name"], case["threads"]), case) for case in earlier["cases"]]
    machine = earlier["machine"]
    packages = {**machine["packages"], **about["packages"]}
    return {
        **earlier,
        "machine": {**machine, "packages": packages},
        "cases": [*cases, *fresh.values()],
    }


def run(options: argparse.Namespace) -> int:
    sizes = (512, 256, models.TINY) if options.quick else (4096, 2048, models.LARGE)
    if options.device == "cuda" and not torch.cuda.is_available():
        print("this machine has no CUDA device that torch can use")
        return 2
    everything = cuda.cases(options.quick) if options.device == "cuda" else cases(*sizes)
    chosen = selected(everything, options.select)
    if not chosen:
        print("no case has such a name; see `python -m benchmarks list`")
        return 2
    plan = QUICK if options.quick else Plan()
    document: Result = {
        "device": options.device,
        "quick": options.quick,
        "machine": report.machine(),
        "cases": [],
        "refused": [],
        "left_out": [],
    }
    path = None
    if options.output:
        path = options.output / f"{options.device}-torch-{torch.__version__.split('+')[0]}.json"
        options.output.mkdir(parents=True, exist_ok=True)
    for case in chosen:
        print(report.label(case.name, case.threads), file=sys.stderr, flush=True)
        try:
            document["cases"].append(measure(case, CLOCKS[options.device], plan))
        except ModuleNotFoundError as error:
            print(f"  left out: {error}", file=sys.stderr, flush=True)
            document["left_out"].append({"name": case.name, "reason": str(error)})
        except WrongResultError as error:
            print(f"  refused, not timed: {error}", file=sys.stderr, flush=True)
            document["refused"].append({"name": case.name, "refused": str(error)})
        if path and not options.renew:  # after each case: a run may be cut short
            path.write_text(json.dumps(document, indent=1) + "\n")
    print(report.rates(document))
    if options.goals:
        print("\n" + report.goals(document))
    if options.quick:
        print("\nquick: small sizes, two rounds; these figures mean nothing", file=sys.stderr)
    if path and options.renew:
        document = renewed(document, path) if path.exists() else document
        path.write_text(json.dumps(document, indent=1) + "\n")
    if path:
        figures.draw(document, path)
        print(f"\nwrote {path} and the figures beside it", file=sys.stderr)
    if options.publish:
        report.write_readme(HERE / "README.md", options.output)
    return 1 if document["refused"] else 0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run", help="check and time, print the tables")
    running.add_argument(
        "--select",
        nargs="+",
        default=[],
        metavar="WORD",
        help="only the cases whose name contains one of these words",
    )
    running.add_argument("--device", choices=CLOCKS, default="cpu")
    running.add_argument("--goals", action="store_true", help="goal, reached, met or missed")
    running.add_argument(
        "--quick",
        action="store_true",
        help="small sizes and two rounds: to see that it works, never to publish",
    )
    running.add_argument(
        "--output", type=Path, metavar="FOLDER", help="write the results file and the plot there"
    )
    running.add_argument(
        "--renew",
        action="store_true",
        help="keep what the results file in FOLDER has of other cases",
    )
    running.add_argument(
        "--publish",
        action="store_true",
        help="write to benchmarks/results and renew the tables of README.md",
    )
    commands.add_parser("report", help="renew plots and README.md from benchmarks/results")
    commands.add_parser("list", help="names of the cases")
    options = parser.parse_args(arguments)
    if options.command == "list":
        for case in cases():
            print(f"{report.label(case.name, case.threads)}: {', '.join(map(str, case.goals))}")
        return 0
    if options.command == "report":
        for path in report.results_files(HERE / "results"):
            figures.draw(report.load(path), path)
        report.write_readme(HERE / "README.md", HERE / "results")
        return 0
    if options.renew and not options.output:
        parser.error("--renew goes with --output")
    if options.publish:
        if options.quick or options.select or options.output:
            parser.error("--publish goes with a full run: no --quick, --select or --output")
        options.output = HERE / "results"
    return run(options)


if __name__ == "__main__":
    sys.exit(main())
