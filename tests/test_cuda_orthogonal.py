"""`orthogonal_` on a GPU: the CPU's bits, graphs, no host synchronisation, memory.

test_cuda_bodies_orthogonal.py shows the kernels' bodies right without a GPU, for more shapes.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from _bits import DTYPES, assert_same_bits, short
from test_cuda import KEY, no_synchronisation

import fastinit
from fastinit import Region

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=short)
__all__ = ["no_synchronisation"]  # a fixture


def both(shape: Any, dtype: torch.dtype = torch.float32, **given: Any) -> None:
    given = {"key": KEY, **given}
    ours, expected = (torch.full(shape, torch.nan).to(dtype).to(d) for d in ("cuda", "cpu"))
    fastinit.orthogonal_(ours, **given)
    assert_same_bits(ours, fastinit.orthogonal_(expected, **given))


@dtypes
@pytest.mark.parametrize("shape", [(1, 1), (70, 67), (34, 150), (200, 130)], ids=str)
def test_bits_of_the_cpu(shape: tuple[int, int], dtype: torch.dtype) -> None:
    both(shape, dtype)


def test_a_larger_matrix() -> None:
    both((300, 500))


@dtypes
def test_layouts(dtype: torch.dtype) -> None:
    for view in (lambda t: t.T, lambda t: t[:, ::2], lambda t: t[3:-2, 1:-1]):
        ours, expected = (torch.zeros(70, 90, dtype=dtype, device=d) for d in ("cuda", "cpu"))
        for tensor in (ours, expected):
            fastinit.orthogonal_(view(tensor), key=KEY)
        assert_same_bits(ours, expected)


def test_parts_and_batches() -> None:
    both((31, 20), region=Region((130, 170), (70, 99)))
    both((9, 4, 5, 2), region=Region((20, 6, 5, 3), (3, 1, 0, 1)))
    both((500,), region=Region.flat((40, 30), 11))
    both((9, 40, 30), batch_axis=0)
    both((20, 7, 30), torch.bfloat16, batch_axis=1)
    both((5, 40, 30), key=fastinit.Key(3).split(5))


def test_a_gain_and_a_key_on_the_device() -> None:
    ours = torch.empty(40, 70, device="cuda")
    gain = torch.tensor(0.3, device="cuda")
    fastinit.orthogonal_(ours, gain, key=KEY.to_tensor(device="cuda"))
    assert_same_bits(ours, fastinit.orthogonal_(torch.empty(40, 70), torch.tensor(0.3), key=KEY))


@pytest.mark.usefixtures("no_synchronisation")
def test_no_synchronisation() -> None:
    gain = torch.full((), 0.5, device="cuda")
    for shape, batch in (((70, 90), ()), ((90, 70), ()), ((5, 20, 30), 0), ((6, 4, 3, 3), 1)):
        w = torch.empty(shape, device="cuda")
        fastinit.orthogonal_(w, key=KEY, batch_axis=batch)
        fastinit.orthogonal_(w, gain, batch_axis=batch)


@pytest.mark.parametrize(
    ("shape", "batch"), [((70, 90), ()), ((5, 20, 30), 0), ((6, 5, 3, 3), 2)], ids=str
)
def test_graphs_draw_anew(shape: tuple[int, ...], batch: Any) -> None:
    """Each replay is what the same call would have drawn without a graph."""
    w = torch.empty(shape, device="cuda")
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        fastinit.orthogonal_(w, batch_axis=batch)
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.manual_seed(5)
    expected = [fastinit.orthogonal_(torch.empty_like(w), batch_axis=batch) for _ in range(3)]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        fastinit.orthogonal_(w, batch_axis=batch)
    torch.cuda.manual_seed(5)
    for each in expected:
        w.fill_(torch.nan)
        graph.replay()
        assert_same_bits(w, each)
    assert not torch.equal(expected[0], expected[1])


def test_a_matrix_without_memory_is_refused() -> None:
    w = torch.zeros(2, 4, device="cuda")
    with pytest.raises(RuntimeError, match=r"a matrix of 274877906944 x 4 .* no memory for one \("):
        fastinit.orthogonal_(w, key=0, region=Region((1 << 38, 4), (7, 0)))
    assert (w == 0).all()
    both((20, 30))


def test_memory_beside_the_matrix() -> None:
    """Panels and what belongs to them; columns of which a part is wanted as well."""
    w = torch.zeros(2048, 2048, dtype=torch.float64, device="cuda")
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    fastinit.orthogonal_(w[:32], key=0, region=Region((2048, 2048), (2016, 0)))
    assert torch.cuda.max_memory_allocated() - before < 8 << 20
    torch.cuda.reset_peak_memory_stats()
    fastinit.orthogonal_(w[:, :3], key=0, region=Region((2048, 2048), (0, 7)))
    assert torch.cuda.max_memory_allocated() - before < 112 << 20
