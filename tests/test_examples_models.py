"""The examples of whole models run, alone or on several processes, and print what is so."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import re
import runpy
import socket
from pathlib import Path

import pytest
import torch
from _clients import transformers

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def run(example: str) -> str:
    """What an example prints, run as a script would be."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        runpy.run_path(str(EXAMPLES / example), run_name="__main__")
    return out.getvalue()


def rank(number: int, world: int, example: str, folder: str) -> None:
    """One process of several, as torchrun starts them."""
    os.environ |= {"RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": str(world)}
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": Path(folder, "port").read_text()}
    torch.set_num_threads(1)
    if example == "lora.py":
        transformers()  # which peft imports
    Path(folder, str(number)).write_text(run(example))


def run_on(world: int, example: str, folder: Path) -> str:
    """What all ranks print. They are forked from a process that has imported torch once."""
    (folder / "port").write_text(str(free_port()))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "fastinit", "_clients"])
    arguments = [(number, world, example, str(folder)) for number in range(world)]
    ranks = [context.Process(target=rank, args=given) for given in arguments]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(120)
    assert [process.exitcode for process in ranks] == [0] * world
    return "".join((folder / str(number)).read_text() for number in range(world))


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("localhost", 0))
        return int(one.getsockname()[1])


def test_meta_llama() -> None:
    transformers()
    out = run("meta_llama.py")
    assert re.search(r"model\.embed_tokens\.weight +\| 8000 x 256 +\| bfloat16", out)
    loss, chance = map(float, re.search(r"loss (\S+), of chance (\S+)", out).groups())
    assert abs(loss - chance) < 0.5
    code = (EXAMPLES / "meta_llama.py").read_text().split('"""')[2]
    assert len([line for line in code.splitlines() if line]) <= 15


def test_custom_recipe() -> None:
    transformers()
    out = run("custom_recipe.py")
    assert (
        "TruncNormal(1 / (sqrt(2 * (layer + 1)) * sqrt(fan_in)) = 0.0625 to 0.0361, cut=3)" in out
    )
    assert "layers.0.mlp.down_proj.weight: std 0.0100 by '**.layers.0.mlp.down_proj.weight'" in out
    assert "layers.2.mlp.down_proj.weight: std 0.0220 by 'role ffn_out'" in out
    assert "never act" not in out


def test_fsdp2_and_tensor_parallelism(tmp_path: Path) -> None:
    out = run_on(4, "fsdp2_tp.py", tmp_path)
    assert "36 parameters on a 2 x 2 mesh, as in one process: True" in out
    loss, chance = map(float, re.search(r"loss (\S+), of chance (\S+)", out).groups())
    assert abs(loss - chance) < 0.5


def test_lora(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    out = run_on(2, "lora.py", tmp_path)
    assert "4 adapters on 2 ranks, as peft leaves them: equal False" in out
    assert "4 adapters on 2 ranks, by fastinit: equal True" in out
