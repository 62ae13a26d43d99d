"""python -m fastinit: exit status, tables of 80 columns, JSON, pictures, and what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from vectors import make_golden

import fastinit
from fastinit import _C
from fastinit import __main__ as command_line
from fastinit.diagnostics.commands import bench, doctor

SMALL = ["--depth", "2", "--epochs", "2", "--seeds", "1"]


def run(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """As users do, in a process of its own, its output in a pipe."""
    root = Path(fastinit.__file__).parents[1]
    env = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "fastinit", *arguments],
        capture_output=True, text=True, cwd=cwd, env=env,
    )  # fmt: skip


def called(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    try:
        status = command_line.main(arguments)
    except SystemExit as stop:
        status = int(stop.code or 0)
    return status, *capsys.readouterr()


def test_doctor_in_a_pipe() -> None:
    done = run("doctor")
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.endswith("all is well\n")
    for name in _C.instruction_sets():
        assert f"CPU, {name}" in done.stdout
    assert "\x1b" not in done.stdout and max(map(len, done.stdout.splitlines())) <= 80


def test_doctor_finds_a_changed_bit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    filled = doctor._filled

    def changed(case: dict[str, Any], device: str) -> torch.Tensor:
        w = filled(case, device)
        w.view(torch.uint8).view(-1)[-1] ^= 1
        return w

    monkeypatch.setattr(doctor, "_filled", changed)
    status, out, _ = called(capsys, "doctor", "--json")
    assert status == 1
    states = {r["name"]: r["state"] for r in json.loads(out)["records"]}
    assert states["CPU, baseline"] == "failed" and states["Philox4x32-10"] == "ok"
    assert _C.build_info()["instruction_set"] == _C.instruction_sets()[-1]


def test_the_shipped_answers_are_those_of_the_golden_file() -> None:
    golden = json.loads(make_golden.PATH.read_text())
    wanted = [case for case in golden["cases"] if make_golden.shipped(case)]
    assert json.loads(make_golden.SHIPPED.read_text()) == {**golden, "cases": wanted}
    assert {case["function"] for case in wanted} == {case["function"] for case in golden["cases"]}
    text = Path(__file__).with_name("vectors").joinpath("philox4x32_10.txt").read_text()
    lines = [line.split() for line in text.splitlines() if line and not line.startswith("#")]
    assert [" ".join(line).split() for line in doctor._PHILOX] == lines


def test_bench(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(bench, "REPEATS", 1)
    status, out, _ = called(capsys, "bench", "--json")
    records = json.loads(out)["records"]
    assert status == 0 and len(records) >= 5
    assert all(r["ratio"] > 0 and r["stock"] > 0 and r["fastinit"] > 0 for r in records)


def test_bench_checks_before_it_times(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = {"normal_": ((64, 64), torch.float32, lambda m, w: m.normal_(w, std=0.02), 0.03)}
    monkeypatch.setattr(bench, "_cases", lambda device: wrong)
    with pytest.raises(RuntimeError, match="normal_ has a standard deviation of 0.0"):
        bench.bench()


def test_compare(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "picture.png"
    status, out, err = called(
        capsys, "compare", "default", "kaiming_normal_", "torch", *SMALL, "--out", str(picture)
    )
    assert status == 0 and err == ""
    assert [line.split()[0] for line in out.splitlines()[1:4]] == [
        "default", "kaiming_normal_", "torch",
    ]  # fmt: skip
    assert picture.read_bytes().startswith(b"\x89PNG")
    status, out, _ = called(capsys, "compare", "orthogonal_", *SMALL, "--json")
    assert status == 0 and len(json.loads(out)["losses"]["orthogonal_"][0]) == 2


MODELS = """
import torch
from torch import nn

def sound():
    torch.manual_seed(0)
    layers = [nn.Linear(256, 256), nn.ReLU()]
    nn.init.kaiming_normal_(layers[0].weight, nonlinearity="relu")
    nn.init.zeros_(layers[0].bias)
    return nn.Sequential(*layers, nn.Linear(256, 10))

def broken():
    model = sound()
    nn.init.constant_(model[0].weight, 0.1)
    return model

def unseeded():
    return nn.Linear(256, 10)

def wide():
    return nn.Sequential(*[nn.Linear(4, 4) for _ in range(200)])

three = 3
"""


@pytest.fixture
def models(tmp_path: Path) -> Path:
    (tmp_path / "their_models.py").write_text(MODELS)
    return tmp_path


def test_audit(models: Path) -> None:
    done = run("audit", "their_models:sound", "--input", "1024,256", cwd=models)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0.weight" in done.stdout and max(map(len, done.stdout.splitlines())) <= 80
    done = run("audit", "their_models:broken", "--json", cwd=models)
    found = json.loads(done.stdout)
    assert done.returncode == 1 and found["records"][0]["severity"] == "error"
    assert [r["name"] for r in found["weights"]["records"]][:2] == ["0.weight", "0.bias"]


def test_audit_without_a_batch_says_so(
    models: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And it looks at the same model each time, without touching the generator."""
    monkeypatch.chdir(models)
    state = torch.get_rng_state()
    outputs = [called(capsys, "audit", "their_models:unseeded")[1] for _ in range(2)]
    assert outputs[0] == outputs[1] and "--input N,..." in outputs[0]
    assert torch.equal(torch.get_rng_state(), state)
    assert "--input" not in called(capsys, "audit", "their_models:sound", "--input", "64,256")[1]


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_a_reader_that_has_seen_enough(models: Path, more: list[str]) -> None:
    """As in `... | head -1`: no traceback."""
    root = Path(fastinit.__file__).parents[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "fastinit", "audit", "their_models:wide", *more],
        cwd=models, env={**os.environ, "PYTHONPATH": str(root)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()  # before it has written anything
    assert process.stderr.read() == ""
    assert process.wait() in (0, 1)


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ("their_models", "MODULE:FACTORY"),
        ("no_models:sound", "no module 'no_models'"),
        ("their_models:nonesuch", "no 'nonesuch'"),
        ("their_models:three", "int"),
    ],
)
def test_audit_of_what_is_not_there(
    place: str,
    text: str,
    models: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(models)
    status, out, err = called(capsys, "audit", place)
    assert status == 2 and out == "" and text in err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "COMMAND"),
        (["cure"], "invalid choice"),
        (["compare", "nonesuch"], "kaiming_normal_"),
        (["compare", "--epochs", "0"], "below 1"),
        (["compare", "--epochs", "many"], "invalid"),
        (["compare", "--out", "picture"], ".png"),
        (["doctor", "--out", "picture.png"], "unrecognized"),
    ],
)
def test_bad_usage(arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = called(capsys, *arguments)
    assert status == 2 and out == "" and text in err


def test_no_matplotlib(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    status, _, err = called(capsys, "compare", *SMALL, "--out", "picture.png")
    assert status == 2 and "pip install matplotlib" in err


def test_a_picture_that_cannot_be_written(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    status, _, err = called(capsys, "compare", "default", *SMALL, "--out", "/nonesuch/a.png")
    assert status == 1 and "nonesuch" in err
