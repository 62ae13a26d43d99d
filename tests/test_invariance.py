"""What must not matter: threads, instruction set, strides, sharding, position; and what must.

Every comparison is of bits. The last part is the contract with torch's generators: a draw with no
key takes two 64-bit values from the generator, whatever the size of the tensor.
"""

from __future__ import annotations

import itertools
import math
import os
import subprocess
import sys
from functools import partial

import pytest
import torch
from _bits import COMPLEX, DTYPES, assert_same_bits, raw, short
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fastinit
from fastinit import _C, Key, Region

KEY = Key(0x0123456789ABCDEF, 2**64 - 1000)

# Every random fill that is elementwise; those in MATRICES need two dimensions or more.
VECTORS = {
    "uniform_": partial(fastinit.uniform_, a=-0.3, b=0.2),
    "normal_": partial(fastinit.normal_, mean=0.1, std=0.7),
    "trunc_normal_": partial(fastinit.trunc_normal_, mean=0.1, std=0.5, a=-0.9, b=1.0),
}
MATRICES = {
    "kaiming_normal_": fastinit.kaiming_normal_,
    "xavier_uniform_": fastinit.xavier_uniform_,
    "lecun_normal_": fastinit.lecun_normal_,
}
FUNCTIONS = VECTORS | MATRICES
SPARSE = {"sparse_": partial(fastinit.sparse_, sparsity=0.4)}

settings_here = settings(
    deadline=None,
    derandomize=True,
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def filled(function, shape, dtype=torch.float32, device="cpu", **extra):
    """A poisoned contiguous tensor after the fill."""
    w = torch.full(shape, torch.nan).to(dtype).to(device)
    return function(w, key=KEY, **extra)


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


THREADS_AT_WORK = """
import os, torch, fastinit
torch.set_num_threads(3)
w = torch.empty({elements})
before = len(os.listdir("/proc/self/task"))
fastinit.normal_(w, key=0)
print(len(os.listdir("/proc/self/task")) - before)
"""


@pytest.mark.skipif(
    not os.path.isdir("/proc/self/task"), reason="counts threads as Linux shows them"
)
@pytest.mark.parametrize(("elements", "started"), [(1 << 20, 2), (1 << 10, 0)])
def test_large_fills_start_torchs_threads_and_small_ones_none(elements: int, started: int) -> None:
    code = THREADS_AT_WORK.format(elements=elements)
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert int(result.stdout) == started


@pytest.fixture
def instruction_set():
    yield _C.force_instruction_set
    _C.force_instruction_set(None)


@pytest.mark.parametrize("dtype", DTYPES, ids=short)
@pytest.mark.parametrize("name", FUNCTIONS | SPARSE)
def test_threads_do_not_matter(name, dtype, threads):
    function = (FUNCTIONS | SPARSE)[name]
    shape = (1021, 509)  # large enough to be split, and not evenly
    results = []
    for count in (1, 2, 3, 7):
        threads(count)
        results.append(filled(function, shape, dtype))
        strided = torch.zeros(2 * shape[0], shape[1]).to(dtype)
        results.append(function(strided[::2], key=KEY))
    for result in results[1:]:
        assert_same_bits(result, results[0])


@pytest.mark.parametrize("dtype", DTYPES, ids=short)
@pytest.mark.parametrize("name", FUNCTIONS | SPARSE)
def test_instruction_sets_do_not_matter(name, dtype, instruction_set):
    function = (FUNCTIONS | SPARSE)[name]
    results = {}
    for isa in _C.instruction_sets():
        instruction_set(isa)
        # Odd lengths and starts, so that heads and tails of packs are used.
        results[isa] = [
            filled(function, (17, 241), dtype),
            filled(function, (5, 3), dtype),
            filled(function, (7, 13), dtype, region=Region((2**20, 2**20), (3, 2**19 + 5))),
            function(torch.zeros(31, 29).to(dtype).t(), key=KEY),
            function(torch.zeros(9, 40).to(dtype)[:, 1::3], key=KEY),
        ]
    baseline = results[_C.instruction_sets()[0]]
    for isa, tensors in results.items():
        for index, (tensor, expected) in enumerate(zip(tensors, baseline, strict=True)):
            assert torch.equal(raw(tensor), raw(expected)), f"{isa} differs in case {index}"


@pytest.mark.parametrize("name", VECTORS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=short)
def test_a_million_elements_on_every_instruction_set(name, dtype, instruction_set):
    """Enough draws to meet the rare branches: far tails, the ends of the unit interval."""
    results = []
    for isa in _C.instruction_sets():
        instruction_set(isa)
        results.append(filled(VECTORS[name], (1 << 20,), dtype))
    for result in results[1:]:
        assert_same_bits(result, results[0])


LAYOUTS = {
    "transposed": lambda shape: torch.empty(shape[::-1]).permute(3, 2, 1, 0),
    "permuted": lambda shape: torch.empty(shape[2], shape[0], shape[3], shape[1]).permute(
        1, 3, 0, 2
    ),
    "channels_last": lambda shape: torch.empty(shape).to(memory_format=torch.channels_last),
    "sliced": lambda shape: torch.empty([n + 3 for n in shape])[
        tuple(slice(1, 1 + n) for n in shape)
    ],
    "every second": lambda shape: torch.empty(*shape[:-1], 2 * shape[-1])[..., ::2],
    "every third row": lambda shape: torch.empty(3 * shape[0], *shape[1:])[1::3],
    "offset storage": lambda shape: torch.empty(math.prod(shape) + 3)[3:].view(shape),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=short)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_strides_do_not_matter(name, layout, dtype, device):
    shape = (6, 5, 7, 9)
    whole = LAYOUTS[layout](shape)
    base = torch.full_like(whole if whole._base is None else whole._base, torch.nan)
    base = base.to(dtype).to(device)
    view = base.as_strided(whole.shape, whole.stride(), whole.storage_offset())
    untouched = torch.ones_like(base, dtype=torch.bool)
    untouched.as_strided(view.shape, view.stride(), view.storage_offset()).fill_(False)
    before = base.clone()
    FUNCTIONS[name](view, key=KEY)
    assert_same_bits(view, filled(FUNCTIONS[name], shape, dtype, device))
    assert not bool(
        torch.isnan(view.to(torch.complex128 if dtype in COMPLEX else torch.float64)).any()
    )
    # The neighbours in memory keep their poison.
    as_bytes = [x.contiguous().view(torch.uint8).reshape(base.numel(), -1) for x in (base, before)]
    assert torch.equal(as_bytes[0][untouched.flatten()], as_bytes[1][untouched.flatten()])


@settings_here
@given(data=st.data())
def test_any_strides(data):
    shape = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=5))
    order = data.draw(st.permutations(range(len(shape))))
    steps = [data.draw(st.integers(1, 3)) for _ in shape]
    base = torch.empty([shape[d] * steps[d] for d in order])
    view = base[tuple(slice(None, None, steps[d]) for d in order)]
    view = view.permute([order.index(d) for d in range(len(shape))])
    assert list(view.shape) == shape
    for name, function in VECTORS.items():
        assert_same_bits(function(view, key=KEY), filled(function, shape)), name


@pytest.mark.parametrize("dtype", COMPLEX, ids=short)
def test_a_conjugated_view_holds_the_values_logically(dtype):
    """Logical values are what counts: reading the view back gives the contiguous fill."""
    base = torch.zeros(8, 5, dtype=dtype)
    try:
        fastinit.normal_(base.conj(), key=KEY)
    except (RuntimeError, ValueError, TypeError):
        assert not bool(base.any())  # refused: then untouched
    else:
        assert_same_bits(base.conj().resolve_conj(), filled(fastinit.normal_, (8, 5), dtype))


# Regions


def partitions(draw, size):
    """Cuts of [0, size) into intervals, uneven and possibly empty ones left out."""
    cuts = draw(st.lists(st.integers(1, max(size - 1, 1)), max_size=3, unique=True))
    edges = [0, *sorted(c for c in cuts if c < size), size]
    return list(itertools.pairwise(edges))


def boxes(intervals):
    """The rectangles of a grid of intervals, as (offsets, shape)."""
    if not intervals:
        return [((), ())]
    return [
        ((begin, *offsets), (end - begin, *shape))
        for begin, end in intervals[0]
        for offsets, shape in boxes(intervals[1:])
    ]


@pytest.mark.parametrize("dtype", DTYPES, ids=short)
@settings_here
@given(data=st.data())
def test_any_partition_equals_the_whole(dtype, device, data):
    shape = data.draw(st.lists(st.integers(1, 14), min_size=1, max_size=4))
    functions = FUNCTIONS if len(shape) > 1 else VECTORS
    if len(shape) == 2:
        functions = functions | SPARSE
    function = functions[data.draw(st.sampled_from(sorted(functions)))]
    whole = filled(function, shape, dtype, device)
    grid = [partitions(data.draw, size) for size in shape]
    for offsets, part_shape in boxes(grid):
        part = filled(function, part_shape, dtype, device, region=Region(shape, offsets))
        inside = tuple(slice(o, o + n) for o, n in zip(offsets, part_shape, strict=True))
        assert_same_bits(part, whole[inside])


@pytest.mark.parametrize("dtype", DTYPES, ids=short)
@pytest.mark.parametrize("name", VECTORS)
def test_indices_beyond_32_bits(name, dtype, device):
    """The same elements by a flat and by a square description, across 2^32 and near 2^61."""
    function = VECTORS[name]
    fill = partial(filled, function, dtype=dtype, device=device)
    for start in (2**32 - 7, 2**33 + 1, 2**61 - 64):
        flat = fill((50,), region=Region((2**61,), (start,)))
        row, column = divmod(start, 2**31)
        first = min(50, 2**31 - column)
        square = fill((1, first), region=Region((2**30, 2**31), (row, column)))
        assert_same_bits(square[0], flat[:first])
        # An element is the same seen from a counter moved by whole blocks.
        per_block = 2 if dtype in (torch.float64, torch.complex128) else 4
        moved = (start - start % 4) * (2 if dtype in COMPLEX else 1) // per_block
        near = function(
            torch.empty(start % 4 + 50, dtype=dtype, device=device),
            key=Key(KEY.seed, KEY.offset + moved),
        )
        assert_same_bits(near[start % 4 :], flat)


def test_a_region_that_straddles_the_32_bit_index(device):
    whole = Region((3, 2**32 + 10), (0, 2**32 - 5))
    part = filled(fastinit.normal_, (3, 15), device=device, region=whole)
    for row in range(3):
        index = row * (2**32 + 10) + 2**32 - 5
        flat = Region((2**40,), (index,))
        assert_same_bits(part[row], filled(fastinit.normal_, (15,), device=device, region=flat))


@pytest.mark.parametrize("name", VECTORS)
def test_what_follows_an_element_does_not_matter(name, device):
    function = VECTORS[name]
    long = filled(function, (5000,), device=device)
    for size in (1, 2, 3, 4, 5, 7, 8, 63, 64, 65, 999, 4999):
        assert_same_bits(filled(function, (size,), device=device), long[:size])


def test_shape_does_not_matter_only_the_row_major_index(device):
    flat = filled(fastinit.normal_, (360,), device=device)
    for shape in [(360, 1), (1, 360), (2, 180), (3, 4, 5, 6), (1, 1, 360)]:
        assert_same_bits(filled(fastinit.normal_, shape, device=device).flatten(), flat)


def test_many_dimensions(device):
    shape = (2, 1, 3, 2, 1, 2, 2, 3, 1, 2)
    flat = filled(fastinit.normal_, (math.prod(shape),), device=device)
    backwards = torch.empty(shape[::-1], device=device).permute(*reversed(range(len(shape))))
    assert_same_bits(fastinit.normal_(backwards, key=KEY).flatten(), flat)


def test_a_key_may_be_a_key_an_int_or_a_tensor(device):
    expected = fastinit.normal_(torch.empty(50, device=device), key=Key(7))
    for key in (7, Key(7).to_tensor(device), 7 + 2**64):
        assert_same_bits(fastinit.normal_(torch.empty(50, device=device), key=key), expected)


def test_different_keys_differ():
    drawn = {
        raw(fastinit.normal_(torch.empty(4), key=key)).numpy().tobytes()
        for key in [*range(50), *(Key(0, n) for n in range(1, 50)), *Key(1).split(50)]
    }
    assert len(drawn) == 149


# Generators


def generator_state(generator=None):
    return (generator or torch.default_generator).get_state()


def two_random64():
    """Two 64-bit draws from the default CPU generator, as torch itself makes them."""
    return [torch.empty(1, dtype=torch.int64).random_(-(2**63), None).item() for _ in range(2)]


def test_manual_seed_reproduces(device):
    drawn = []
    for _ in range(2):
        torch.manual_seed(99)
        drawn.append([fastinit.normal_(torch.empty(33, device=device)) for _ in range(3)])
    for first, second in zip(*drawn, strict=True):
        assert_same_bits(first, second)
    assert not torch.equal(drawn[0][0], drawn[0][1])


@pytest.mark.parametrize("name", FUNCTIONS | SPARSE)
def test_a_fill_takes_exactly_two_64_bit_draws(name):
    function = (FUNCTIONS | SPARSE)[name]
    torch.manual_seed(5)
    two_random64()
    expected = generator_state()
    for shape in [(1, 1), (3, 5), (600, 700)]:
        for dtype in (torch.float32, torch.float64, torch.bfloat16):
            torch.manual_seed(5)
            function(torch.empty(shape, dtype=dtype))
            assert torch.equal(generator_state(), expected), (shape, dtype)


def test_the_two_draws_are_seed_and_offset():
    torch.manual_seed(6)
    seed, offset = two_random64()
    torch.manual_seed(6)
    drawn = fastinit.normal_(torch.empty(100))
    assert_same_bits(drawn, fastinit.normal_(torch.empty(100), key=Key(seed, offset)))


def test_a_generator_is_used_and_the_default_one_left_alone(device):
    generator = torch.Generator(device).manual_seed(3)
    before = generator_state()
    first = fastinit.normal_(torch.empty(40, device=device), generator=generator)
    second = fastinit.normal_(torch.empty(40, device=device), generator=generator)
    assert torch.equal(generator_state(), before)
    assert not torch.equal(first, second)
    generator.manual_seed(3)
    again = fastinit.normal_(torch.empty(40, device=device), generator=generator)
    assert_same_bits(again, first)


def test_state_can_be_saved_and_restored(device):
    generator = torch.Generator(device).manual_seed(8)
    fastinit.normal_(torch.empty(40, device=device), generator=generator)
    state = generator.get_state()
    first = fastinit.normal_(torch.empty(40, device=device), generator=generator)
    generator.set_state(state)
    second = fastinit.normal_(torch.empty(40, device=device), generator=generator)
    assert_same_bits(second, first)


def test_fork_rng(device):
    torch.manual_seed(10)
    with torch.random.fork_rng():
        inside = fastinit.normal_(torch.empty(40, device=device))
    outside = fastinit.normal_(torch.empty(40, device=device))
    assert_same_bits(outside, inside)


def test_nothing_to_fill_draws_nothing(device):
    torch.manual_seed(1)
    before = generator_state()
    fastinit.normal_(torch.empty(0, device=device))
    fastinit.uniform_(torch.empty(3, 0, device=device))
    fastinit.normal_(torch.empty(5, device="meta"))
    fastinit.normal_(torch.empty(5, device=device), key=1)
    assert torch.equal(generator_state(), before)


def test_a_key_makes_the_generator_irrelevant(device):
    drawn = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        drawn.append(fastinit.normal_(torch.empty(40, device=device), key=3))
    assert_same_bits(*drawn)
