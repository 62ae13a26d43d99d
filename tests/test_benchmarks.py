"""The benchmarks refuse to time a wrong result, and judge times as they say they do."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

pytest.importorskip("scipy")
# Behind everything else: where fastinit is installed, that one is tested.
sys.path.append(str(Path(__file__).parents[1]))

import fastinit
from benchmarks import __main__ as command
from benchmarks import report
from benchmarks.cases import Case, cases
from benchmarks.contenders import KEY, OURS, STOCK
from benchmarks.goals import Goal, judge, ratio
from benchmarks.laws import Orthogonal, WrongResultError
from benchmarks.timing import QUICK, Contender, Plan, interleaved

Fill = Callable[..., Tensor]


@pytest.fixture(autouse=True)
def _same_threads_afterwards() -> object:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def case_of(function: str, dtype: str = "float32") -> Case:
    """The first case of this function, small, alone with stock."""
    name = f"{function} {dtype}"
    case = next(case for case in cases(256, 64) if case.name.startswith(name))
    return replace(case, only=(OURS, STOCK), threads=1)


def no_clock(call: Callable[[], object], number: int) -> float:
    raise AssertionError("a wrong result was timed")


def wrong_std(fill: Fill) -> Fill:
    return lambda tensor, **arguments: fill(tensor, **arguments).mul_(1.02)


def key_ignored(fill: Fill) -> Fill:
    return lambda tensor, key=None, **arguments: fill(tensor, **arguments)


def another_key(fill: Fill) -> Fill:
    return lambda tensor, key=None, **arguments: fill(tensor, key=1, **arguments)


def one_unwritten(fill: Fill) -> Fill:
    def wrong(tensor: Tensor, **arguments: object) -> Tensor:
        kept = tensor.view(-1)[-1].clone()
        fill(tensor, **arguments).view(-1)[-1] = kept
        return tensor

    return wrong


def shifted_by_one(fill: Fill) -> Fill:
    """Right values, right law, every one at its neighbour's place."""
    return lambda tensor, **arguments: tensor.copy_(fill(tensor, **arguments).roll(1))


def last_bits_off(fill: Fill) -> Fill:
    return lambda tensor, **arguments: fill(tensor, **arguments).mul_(1 + 2e-5)


def one_more_zero(fill: Fill) -> Fill:
    def wrong(tensor: Tensor, **arguments: object) -> Tensor:
        column = fill(tensor, **arguments)[:, 0]
        column[int(column.nonzero()[0])] = 0.0
        return tensor

    return wrong


def one_sign_turned(fill: Fill) -> Fill:
    """Still orthogonal, but no longer uniform among orthogonal matrices."""

    def wrong(tensor: Tensor, **arguments: object) -> Tensor:
        fill(tensor, **arguments)[:, 0].neg_()
        return tensor

    return wrong


WRONG = [
    *(("normal_", "float32", wrong) for wrong in (wrong_std, key_ignored, another_key)),
    *(("normal_", "float32", wrong) for wrong in (one_unwritten, shifted_by_one, last_bits_off)),
    ("kaiming_uniform_", "float32", last_bits_off),
    ("uniform_", "bfloat16", wrong_std),
    ("normal_", "float64", last_bits_off),
    ("trunc_normal_", "float32", shifted_by_one),
    ("sparse_", "float32", one_more_zero),
    ("sparse_", "float32", key_ignored),
    ("orthogonal_", "float32", one_sign_turned),
    ("orthogonal_", "float32", last_bits_off),
]


@pytest.mark.parametrize(("function", "dtype", "wrong"), WRONG)
def test_wrong_result_is_refused_before_it_is_timed(
    function: str, dtype: str, wrong: Callable[[Fill], Fill], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fastinit, function, wrong(getattr(fastinit, function)))
    with pytest.raises(WrongResultError, match="^fastinit: "):
        command.measure(case_of(function, dtype), no_clock, QUICK)


def test_wrong_peer_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    stock = torch.nn.init.normal_
    monkeypatch.setattr(torch.nn.init, "normal_", lambda t, std: stock(t, std=1.1 * std))
    with pytest.raises(WrongResultError, match=r"^torch\.nn\.init: "):
        command.measure(case_of("normal_"), no_clock, QUICK)


@pytest.mark.parametrize(
    ("function", "dtype"), dict.fromkeys((function, dtype) for function, dtype, _ in WRONG)
)
def test_right_result_is_timed(function: str, dtype: str) -> None:
    result = command.measure(case_of(function, dtype), lambda call, number: 1.0, QUICK)
    assert result["contenders"][OURS]["seconds"] == [1.0, 1.0]


@pytest.mark.parametrize("shape", [(8, 8), (8, 20), (3, 8, 20)], ids=str)
def test_orthogonal_matrices_are_held_to_their_reflections(shape: tuple[int, ...]) -> None:
    batch = 0 if len(shape) == 3 else ()
    made = fastinit.orthogonal_(torch.empty(shape), key=KEY, batch_axis=batch)
    assert Orthogonal().strict(made, (KEY.seed, KEY.offset))["error"] < 1e-6
    for wrong in (made.neg(), made.flip(-2), fastinit.orthogonal_(torch.empty(shape), key=1)):
        with pytest.raises(WrongResultError):
            Orthogonal().strict(wrong, (KEY.seed, KEY.offset))


def test_contenders_take_turns() -> None:
    order: list[str] = []

    def clock(call: Callable[[], object], number: int) -> float:
        call()
        return 1.0

    names = ["A", "B", "C"]
    contenders = [
        Contender(name, lambda name=name: order.append(name), dict, torch.get_num_threads())
        for name in names
    ]
    samples = interleaved(contenders, clock, Plan(least=3, most=3))
    assert order == names * 4  # one call each to estimate, then three rounds
    assert {name: len(times) for name, times in samples.items()} == dict.fromkeys(names, 3)


def test_ratio_is_taken_within_rounds() -> None:
    """The machine is ten times slower in the second round, for both."""
    result = {"contenders": {"us": {"seconds": [1, 10, 1]}, "them": {"seconds": [4, 40, 4]}}}
    assert ratio(result, "us", "them") == (4.0, 4.0, 4.0)
    assert ratio(result, "us", "absent") is None


@pytest.mark.parametrize(
    ("goal", "reached", "verdict"),
    [
        (Goal("us", "them", 4.0, "speed"), 4.0, "met"),
        (Goal("us", "them", 4.1, "speed"), 4.0, "missed"),
        (Goal("us", "them", 0.25, "time"), 0.25, "met"),
        (Goal("us", "them", 0.24, "time"), 0.25, "missed"),
        (Goal("us", "them", 1.0, "error"), 2.0, "missed"),
        (Goal("us", "absent", 4.0, "speed"), None, "not measured"),
    ],
)
def test_goals_are_judged(goal: Goal, reached: float | None, verdict: str) -> None:
    result = {
        "contenders": {
            "us": {"seconds": [1, 1], "error": 2e-7},
            "them": {"seconds": [4, 4], "error": 1e-7},
        }
    }
    judged = judge(goal, result)
    assert judged["verdict"] == verdict
    if reached is None:
        assert judged["reached"] is None
    else:
        assert math.isclose(judged["reached"], reached)


def test_command_line_measures_and_writes_results(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    words = ["--select", "float32 16x16", "--goals", "--output", str(tmp_path)]
    assert command.main(["run", "--quick", *words]) == 0
    assert "time <= 0.35 x torch.nn.init" in capsys.readouterr().out
    [path] = tmp_path.glob("*.json")
    document = json.loads(path.read_text())
    assert document["machine"]["packages"]["torch"].startswith(torch.__version__.split("+")[0])
    assert [case["elements"] for case in document["cases"]] == [256, 256]
    assert [p.name for p in tmp_path.glob("*.svg")] == [f"{path.stem}-functions.svg"]
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    report.write_readme(readme, tmp_path)
    text = readme.read_text()
    assert "kaiming_normal_ float32 16x16" in text and "old" not in text
    assert f"![functions]({path.stem}-functions.svg)" in text
    assert text.startswith("before\n") and text.endswith("after\n")


def test_one_case_is_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    words = ["run", "--quick", "--output", str(tmp_path), "--select"]
    assert command.main([*words, "float32 16x16"]) == 0
    [path] = tmp_path.glob("*.json")
    before = report.load(path)
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.hugetlb=2")
    assert command.main([*words, "trunc_normal_ float32 16x16", "sparse_", "--renew"]) == 0
    kept, renewed, new = report.load(path)["cases"]
    assert kept == before["cases"][0] and kept["malloc"] is None
    assert renewed["name"] == before["cases"][1]["name"] and renewed["malloc"]
    text = report.section(report.load(path), [])
    assert f"of {new['renewed']} with GLIBC_TUNABLES=glibc.malloc.hugetlb=2: trunc_normal_" in text


def test_command_line_fails_on_a_wrong_result(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fastinit, "kaiming_normal_", key_ignored(fastinit.kaiming_normal_))
    assert command.main(["run", "--quick", "--select", "kaiming_normal_ float32 16x16"]) == 1
    captured = capsys.readouterr()
    assert "refused, not timed: fastinit: the same key gave two different" in captured.err
    assert "16x16" not in captured.out


@pytest.mark.parametrize("option", [["--quick"], ["--select", "normal_"]])
def test_only_a_full_run_is_published(option: list[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(["run", "--publish", *option])
