"""On a GPU: the CPU's bits, generators, graphs, streams, devices, and no host synchronisation.

test_cuda_bodies.py shows the kernels' bodies right without a GPU; left for here is what only a GPU
has. Other tests, the golden checksums among them, run there as well.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator

import pytest
import torch
from _bits import COMPLEX, DTYPES, assert_same_bits, short
from conftest import POISON
from torch import Tensor

import fastinit
from fastinit._fill.extension import native
from fastinit._intercept import routes

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

KEY = fastinit.Key(0x0123456789ABCDEF, 2**64 - 5)

Fill = Callable[..., Tensor]
FILLS: dict[str, Fill] = {
    "uniform_": lambda t, **stream: fastinit.uniform_(t, -0.3, 0.5, **stream),
    "normal_": lambda t, **stream: fastinit.normal_(t, 0.1, 0.7, **stream),
    "trunc_normal_": lambda t, **stream: fastinit.trunc_normal_(t, 0.1, 0.7, -1.0, 1.5, **stream),
    "kaiming_normal_": lambda t, **stream: fastinit.kaiming_normal_(t.view(-1, 5), **stream),
}
functions = pytest.mark.parametrize("function", FILLS)
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=short)


@pytest.fixture
def no_synchronisation() -> Iterator[None]:
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode(mode)


def poisoned(size: int, dtype: torch.dtype, device: str) -> Tensor:
    return torch.full((size,), POISON, dtype=dtype).to(device)


# The CPU's bits


@dtypes
@functions
def test_bits_of_the_cpu(function: str, dtype: torch.dtype) -> None:
    more_than_a_wave = 3_000_000 // dtype.itemsize + 5  # of blocks, on the largest GPUs
    for size in (5, 125, 4095, 100_005, more_than_a_wave):
        ours, expected = (poisoned(size, dtype, device) for device in ("cuda", "cpu"))
        FILLS[function](ours, key=KEY)
        assert_same_bits(ours, FILLS[function](expected, key=KEY).view(-1))


@dtypes
@functions
def test_layouts_and_alignments(function: str, dtype: torch.dtype) -> None:
    views: list[Callable[[Tensor], Tensor]] = [
        *(lambda t, b=b: t[b : b + 10_000] for b in range(1, 18)),
        lambda t: t[: 200 * 50].view(200, 50).t(),
        lambda t: t[: 4 * 8 * 10 * 35].view(4, 10, 35, 8).permute(0, 3, 1, 2),
        lambda t: t.view(-1)[:20_000].view(100, 200)[:, 3:58],
        lambda t: t[1::7][:3000],
    ]
    for view in views:
        ours, expected = (poisoned(20_020, dtype, device) for device in ("cuda", "cpu"))
        for buffer in (ours, expected):
            target = view(buffer)
            name = "normal_" if function == "kaiming_normal_" else function
            FILLS[name](target, key=KEY)
        assert_same_bits(ours, expected)


def test_beyond_32_bits() -> None:
    """2^32 + 100 elements of 8 bits; the values of the last ones, and of a region far out."""
    size = 2**32 + 100
    if torch.cuda.mem_get_info()[0] < 6 * 2**30:
        pytest.skip("needs 6 GiB of GPU memory")
    tensor = torch.empty(size, dtype=torch.float8_e5m2, device="cuda")
    fastinit.normal_(tensor, key=KEY)
    for begin in (0, 2**31 - 50, 2**32 - 50, 2**32):
        expected = torch.empty(100, dtype=torch.float8_e5m2)
        fastinit.normal_(expected, key=KEY, region=fastinit.Region((size,), (begin,)))
        assert_same_bits(tensor[begin : begin + 100], expected)


@dtypes
def test_sparse(dtype: torch.dtype) -> None:
    ours, expected = (poisoned(60_000, dtype, device).view(300, 200) for device in ("cuda", "cpu"))
    fastinit.sparse_(ours, 0.3, key=KEY)
    assert_same_bits(ours, fastinit.sparse_(expected, 0.3, key=KEY))


def test_many_tensors() -> None:
    sizes = [1, 5, 64, 4096] * 30 + [1_000_003] * 3
    ours, expected = (
        [poisoned(n, dtype, device) for n in sizes for dtype in (torch.float32, torch.bfloat16)]
        for device in ("cuda", "cpu")
    )
    count = len(ours)
    given = ([i % 3 for i in range(count)], *([x] * count for x in (0.1, 0.7, -1.0, 1.5)))
    for tensors in (ours, expected):
        native.multi_fill_(tensors, *given, list(range(2 * count)))
    for a, b in zip(ours, expected, strict=True):
        assert_same_bits(a, b)


# Generators


def test_generator() -> None:
    generator = torch.Generator("cuda").manual_seed(7)
    first, second, again = (torch.empty(100, device="cuda") for _ in range(3))
    fastinit.normal_(first, generator=generator)
    state = generator.get_state()
    fastinit.normal_(second, generator=generator)
    assert not torch.equal(first, second)
    generator.set_state(state)
    fastinit.normal_(again, generator=generator)
    assert_same_bits(again, second)


def test_generators_with_and_without_an_index() -> None:
    drawn = []
    for given in ("cuda", f"cuda:{torch.cuda.current_device()}"):
        generator = torch.Generator(given).manual_seed(7)
        drawn.append(fastinit.normal_(torch.empty(100, device="cuda"), generator=generator))
    assert_same_bits(*drawn)


def test_default_generator_and_its_key() -> None:
    ours, expected, size = torch.empty(100, device="cuda"), torch.empty(100), 10_000
    torch.cuda.manual_seed(11)
    torch.rand(size, device="cuda")
    offset = torch.cuda.default_generators[torch.cuda.current_device()].get_offset()
    fastinit.normal_(ours)
    now = torch.cuda.default_generators[torch.cuda.current_device()].get_offset()
    assert now == offset + 4
    fastinit.normal_(expected, key=fastinit.Key(*native.cuda_generator_key(11, offset)))
    assert_same_bits(ours, expected)


def test_deferred_draws_take_the_keys_of_their_turn() -> None:
    def build() -> list[torch.Tensor]:
        with torch.device("cuda"):
            layers = [torch.nn.Linear(30, 20), torch.nn.Conv2d(3, 4, 3)]
        torch.nn.init.orthogonal_(layers[0].weight)
        torch.nn.init.trunc_normal_(layers[1].weight)
        return [parameter.detach() for layer in layers for parameter in layer.parameters()]

    torch.cuda.manual_seed(3)
    with fastinit.patch():
        expected = build()
    state = torch.cuda.get_rng_state()
    torch.cuda.manual_seed(3)
    with fastinit.deferred():
        ours = build()
    assert torch.equal(torch.cuda.get_rng_state(), state)
    for a, b in zip(ours, expected, strict=True):
        assert_same_bits(a, b)


@functions
def test_cuda_graph(function: str) -> None:
    """Each replay draws anew; the values are those of eager calls from the same state."""
    tensor, eager = torch.empty(1000, device="cuda"), torch.empty(1000, device="cuda")
    FILLS[function](tensor)  # loads the kernels
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        FILLS[function](tensor)
        FILLS[function](eager)
    results = []
    torch.cuda.manual_seed(5)
    for _ in range(3):
        graph.replay()
        results += [tensor.clone(), eager.clone()]
    torch.cuda.manual_seed(5)
    for result in results:
        FILLS[function](eager)
        assert_same_bits(result, eager)
    assert len({float(r[0]) for r in results}) == len(results)


def test_cuda_graph_of_many_tensors() -> None:
    tensors = [torch.empty(100, device="cuda") for _ in range(50)]
    given = ([1] * 50, [0.0] * 50, [1.0] * 50, [0.0] * 50, [0.0] * 50, list(range(100)))
    native.multi_fill_(tensors, *given)
    expected = [t.clone() for t in tensors]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        native.multi_fill_(tensors, *given)
    for _ in range(3):
        for t in tensors:
            t.fill_(POISON)
        garbage = [torch.full((100_000,), 255, dtype=torch.uint8).pin_memory() for _ in range(8)]
        graph.replay()
        for ours, single in zip(tensors, expected, strict=True):
            assert_same_bits(ours, single)
        del garbage


# Streams, synchronisation, devices


def test_current_stream() -> None:
    """The fill waits for what its stream does, and not for another one's work."""
    tensor = torch.zeros(1_000_000, device="cuda")
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        tensor.fill_(POISON)
        fastinit.normal_(tensor, key=KEY)
    stream.synchronize()
    assert_same_bits(tensor, fastinit.normal_(torch.empty(1_000_000), key=KEY))


def test_tables_live_until_they_are_read() -> None:
    """Tables in pinned memory and on the device, many under way at a time, on three streams."""
    streams = [torch.cuda.current_stream(), torch.cuda.Stream(), torch.cuda.Stream()]
    law = ([0, 1, 2], *([x] * 3 for x in (0.1, 0.7, -1.0, 1.5)))
    filled = []
    for i in range(60):
        with torch.cuda.stream(streams[i % 3]):
            filled.append([torch.empty(50 + i, device="cuda") for _ in range(3)])
            native.multi_fill_(filled[-1], *law, [i] * 6)
    torch.cuda.synchronize()
    for i, tensors in enumerate(filled):
        expected = [torch.empty(50 + i) for _ in range(3)]
        native.multi_fill_(expected, *law, [i] * 6)
        for a, b in zip(tensors, expected, strict=True):
            assert_same_bits(a, b)


@pytest.mark.usefixtures("no_synchronisation")
def test_nothing_synchronises() -> None:
    tensor = torch.empty(40, 50, device="cuda")
    scale, key = torch.ones((), device="cuda"), torch.zeros(2, dtype=torch.uint64, device="cuda")
    fastinit.normal_(tensor)
    fastinit.trunc_normal_(tensor)
    fastinit.normal_(tensor, 0.0, scale, key=key)
    fastinit.xavier_uniform_(tensor, scale, key=key)
    fastinit.sparse_(tensor, 0.5)
    native.multi_fill_([tensor], [1], [0.0], [1.0], [0.0], [0.0], [1, 2])
    native.multi_fill_(list(tensor), [1] * 40, *([0.0] * 40 for _ in range(4)), [0] * 80)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_scale_on_the_device(dtype: torch.dtype) -> None:
    ours, expected = torch.empty(40, 50, device="cuda"), torch.empty(40, 50)
    scale = torch.tensor(0.40625, dtype=dtype)
    for fill in (
        lambda t, s: fastinit.normal_(t, 0.1, s, key=KEY),
        lambda t, s: fastinit.xavier_normal_(t, s, key=KEY),
        lambda t, s: fastinit.trunc_normal_(t, 0.0, s, -1.0, 1.0, key=KEY),
    ):
        fill(ours, scale.cuda())
        fill(expected, scale)
        assert_same_bits(ours, expected)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_second_device() -> None:
    assert torch.cuda.current_device() == 0
    tensor = torch.empty(1000, device="cuda:1")
    fastinit.normal_(tensor, key=KEY)
    assert_same_bits(tensor, fastinit.normal_(torch.empty(1000), key=KEY))
    native.multi_fill_(
        [tensor, torch.empty(5, device="cuda:1")], [1, 1], *([0.5] * 2,) * 4, [0] * 4
    )
    assert torch.cuda.current_device() == 0
    both, given = [tensor, torch.zeros(5, device="cuda:0")], ([1, 1], *([0.5] * 2,) * 4, [0] * 4)
    before = tensor.clone()
    with pytest.raises(ValueError, match="cuda:1 and on cuda:0 in one list"):
        native.multi_fill_(both, *given)
    assert torch.equal(tensor, before) and not both[1].any()
    for wrong in (
        {"generator": torch.Generator("cuda:0")},
        {"key": torch.zeros(2, dtype=torch.uint64, device="cuda:0")},
        {"std": torch.ones((), device="cuda:0")},
    ):
        with pytest.raises(ValueError, match="cuda:0"):
            fastinit.normal_(tensor, **wrong)


def test_wrong_devices() -> None:
    tensor = torch.zeros(100, device="cuda")
    with pytest.raises(RuntimeError, match="generator"):
        fastinit.normal_(tensor, generator=torch.Generator("cpu"))
    with pytest.raises(RuntimeError, match="more than one element"):
        fastinit.normal_(tensor[:1].expand(5))
    assert not tensor.any() and tensor._version == 0


def test_without_cuda_the_patch_tells_that_stock_fills(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "_DEVICES", {"cpu", "meta"})
    with fastinit.patch(seed=0):
        with pytest.warns(UserWarning, match="built without CUDA"):
            torch.nn.init.normal_(torch.empty(5, device="cuda"))
        with pytest.warns(UserWarning, match="built without CUDA"):
            torch.randn(5, device="cuda")


def test_key_on_the_cpu() -> None:
    ours, expected = torch.empty(100, device="cuda"), torch.empty(100)
    fastinit.normal_(ours, key=KEY.to_tensor())
    assert_same_bits(ours, fastinit.normal_(expected, key=KEY))


def test_operator_checks() -> None:
    arguments = (torch.empty(20, 30, device="cuda"), 0.0, 1.0)
    given = {"key": [1, 2]}
    torch.library.opcheck(torch.ops.fastinit.normal_.default, arguments, given)


@pytest.mark.parametrize("dtype", COMPLEX, ids=short)
def test_complex_transposed(dtype: torch.dtype) -> None:
    ours, expected = (poisoned(6000, dtype, device).view(60, 100).t() for device in ("cuda", "cpu"))
    fastinit.normal_(ours, key=KEY)
    assert_same_bits(ours, fastinit.normal_(expected, key=KEY))


@functions
def test_failed_launches_are_told(function: str) -> None:
    runtime = ctypes.CDLL(None)
    if not hasattr(runtime, "standin_fail_next_launch"):
        pytest.skip("needs a device that fails on demand: the stand-in")
    tensors = [torch.empty(size, device="cuda") for size in (100, 200)]
    for fill in (
        lambda: FILLS[function](tensors[0]),
        lambda: native.multi_fill_(tensors, [1, 1], *([0.5] * 2,) * 4, [0] * 4),
    ):
        runtime.standin_fail_next_launch()
        with pytest.raises(RuntimeError, match="CUDA error"):
            fill()
        fill()
