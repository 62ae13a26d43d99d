"""DTensors: every shard holds the values of the whole, whoever fills it and however it is cut."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.distributed as dist
from _bits import DTYPES, assert_same_bits, short
from _memory import growth
from _simulated import every_rank, on_rank, own_part, rank_of, sharded
from conftest import POISON
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard
from torch.distributed.tensor.debug import CommDebugMode
from torch.distributed.tensor.placement_types import Placement, _StridedShard
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import fastinit

pytestmark = pytest.mark.usefixtures("no_process_group")

SHAPES = [(37, 19), (41, 17), (43, 13), (5,), (1, 7), (3, 10, 7), (6, 5, 3, 3)]
MESHES = [(1,), (2,), (4,), (2, 2), (2, 2, 2)]

ANY_SHAPE: dict[str, Callable[..., Tensor]] = {
    "uniform_": lambda t, **k: fastinit.uniform_(t, -1.0, 2.0, **k),
    "normal_": lambda t, **k: fastinit.normal_(t, 0.5, 2.0, **k),
    "trunc_normal_": lambda t, **k: fastinit.trunc_normal_(t, 0.5, 1.5, -1.0, 2.0, **k),
}
MATRIX_LIKE: dict[str, Callable[..., Tensor]] = {
    "kaiming_uniform_": lambda t, **k: fastinit.kaiming_uniform_(t, mode="fan_out", **k),
    "kaiming_normal_": lambda t, **k: fastinit.kaiming_normal_(t, nonlinearity="relu", **k),
    "xavier_uniform_": lambda t, **k: fastinit.xavier_uniform_(t, 1.5, **k),
    "xavier_normal_": fastinit.xavier_normal_,
    "lecun_uniform_": fastinit.lecun_uniform_,
    "lecun_normal_": lambda t, **k: fastinit.lecun_normal_(t, in_axis=0, out_axis=1, **k),
    "variance_scaling_": lambda t, **k: fastinit.variance_scaling_(
        t, 2.0, "fan_avg", "normal", **k
    ),
    "orthogonal_": lambda t, **k: fastinit.orthogonal_(t, 1.5, **k),
}
MATRIX: dict[str, Callable[..., Tensor]] = {
    "sparse_": lambda t, **k: fastinit.sparse_(t, 0.3, **k),
}
KEYLESS: dict[str, tuple[Callable[..., Tensor], tuple[int, ...]]] = {
    "constant_": (lambda t: fastinit.constant_(t, 0.3), (1, 2, 3, 4)),
    "ones_": (fastinit.ones_, (1, 2, 3, 4)),
    "zeros_": (fastinit.zeros_, (1, 2, 3, 4)),
    "eye_": (fastinit.eye_, (2,)),
    "dirac_": (fastinit.dirac_, (3, 4)),
    "dirac_ in groups": (lambda t: fastinit.dirac_(t, groups=3), (3, 4)),
}
RANDOM = {**ANY_SHAPE, **MATRIX_LIKE, **MATRIX}


def suits(name: str, shape: tuple[int, ...]) -> bool:
    return name in ANY_SHAPE or len(shape) == 2 or (name in MATRIX_LIKE and len(shape) > 2)


@st.composite
def placements_on(draw: st.DrawFn, mesh: tuple[int, ...], ndim: int) -> list[Placement]:
    """Placements for a mesh, strided ones as FSDP on top of tensor parallelism makes them."""
    chosen: list[Placement] = []
    for _ in mesh:
        dim = draw(st.integers(0, ndim - 1))
        kind = draw(st.sampled_from(["shard", "shard", "strided", "replicate"]))
        if kind == "shard":
            chosen.append(Shard(dim))
        elif kind == "strided":
            chosen.append(_StridedShard(dim, split_factor=draw(st.sampled_from([2, 3, 4]))))
        else:
            chosen.append(Replicate())
    return chosen


@st.composite
def cases(draw: st.DrawFn, suitable: Callable[[tuple[int, ...]], bool]) -> Any:
    shape = draw(st.sampled_from([s for s in SHAPES if suitable(s)]))
    mesh = draw(st.sampled_from(MESHES))
    return shape, mesh, draw(placements_on(mesh, len(shape)))


few = settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))


def check(
    shape: tuple[int, ...],
    mesh_shape: tuple[int, ...],
    placements: list[Placement],
    dtype: torch.dtype,
    fill: Callable[[Tensor], Tensor],
) -> None:
    """Fill every rank's part of a tensor and compare it with that part of the whole."""
    whole = fill(torch.empty(shape, dtype=dtype))
    for mesh in every_rank(mesh_shape):
        expected = own_part(
            whole.view(torch.uint8) if dtype.itemsize == 1 else whole, mesh, placements
        )
        expected = expected.view(dtype)
        local = torch.full(expected.shape, POISON, dtype=dtype)
        tensor = sharded(local, whole, mesh, placements)
        version = tensor._version
        assert fill(tensor) is tensor
        assert tensor._version > version
        assert_same_bits(local, expected)


@pytest.mark.parametrize("name", RANDOM)
@few
@given(st.data())
def test_shards_hold_the_values_of_the_whole(name: str, data: st.DataObject) -> None:
    shape, mesh, placements = data.draw(cases(lambda shape: suits(name, shape)))
    key = data.draw(st.integers(0, 2**64 - 1))
    check(shape, mesh, placements, torch.float32, lambda t: RANDOM[name](t, key=key))


@pytest.mark.parametrize("dtype", DTYPES, ids=short)
@few
@given(st.data())
def test_every_dtype(dtype: torch.dtype, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(list(RANDOM)))
    if dtype.is_complex and not fills_complex(name):
        return
    shape, mesh, placements = data.draw(cases(lambda shape: suits(name, shape)))
    check(shape, mesh, placements, dtype, lambda t: RANDOM[name](t, key=3))


def fills_complex(name: str) -> bool:
    try:
        RANDOM[name](torch.empty(2, 2, dtype=torch.complex64), key=0)
    except (RuntimeError, TypeError):
        return False
    return True


@pytest.mark.parametrize("name", KEYLESS)
@few
@given(st.data())
def test_shards_of_constants(name: str, data: st.DataObject) -> None:
    fill, dims = KEYLESS[name]
    divisible = 3 if "groups" in name else 1
    shape, mesh, placements = data.draw(
        cases(lambda shape: len(shape) in dims and shape[0] % divisible == 0)
    )
    check(shape, mesh, placements, torch.float32, fill)


@pytest.mark.parametrize(
    ("shape", "placements"),
    [
        ((16, 6), [_StridedShard(0, split_factor=2), Shard(0)]),
        ((37, 19), [_StridedShard(0, split_factor=2), Shard(0)]),
        ((37, 19), [_StridedShard(1, split_factor=5), _StridedShard(0, split_factor=7)]),
        ((37, 19), [Shard(1), Shard(1)]),
        ((3, 2), [Shard(0), Shard(0)]),
    ],
    ids=str,
)
def test_strided_and_repeated_shards(shape: tuple[int, ...], placements: list[Placement]) -> None:
    for fill in RANDOM.values():
        check(shape, (2, 2), placements, torch.float32, lambda t, fill=fill: fill(t, key=1))


# -------------------------------------------------------------------------------- what is touched


def test_padding_is_left_alone() -> None:
    """FSDP2 pads its shards: the local tensor is the first rows of a larger buffer."""
    expected = fastinit.normal_(torch.empty(5, 3), key=1)
    for mesh in every_rank((4,)):
        buffer = torch.full((2, 3), POISON)
        rows = own_part(expected, mesh, [Shard(0)])
        fastinit.normal_(sharded(buffer[: len(rows)], expected, mesh, [Shard(0)]), key=1)
        assert_same_bits(buffer[: len(rows)], rows)
        assert (buffer[len(rows) :] == POISON).all()


def test_a_local_tensor_of_any_strides() -> None:
    expected = fastinit.kaiming_uniform_(torch.empty(6, 5, 3, 3), key=1)
    with rank_of((2,), 1) as mesh:
        local = torch.empty(3, 5, 3, 3).to(memory_format=torch.channels_last)
        fastinit.kaiming_uniform_(sharded(local, expected, mesh, [Shard(0)]), key=1)
        assert_same_bits(local, expected[3:])


def test_meta_and_fake_dtensors_are_left_alone() -> None:
    before = torch.get_rng_state()
    with rank_of((2,), 1) as mesh:
        whole = torch.empty(6, 5, device="meta")
        for placements in ([Shard(0)], [_StridedShard(1, split_factor=2)]):
            local = own_part(whole, mesh, placements)
            for fill in RANDOM.values():
                fill(sharded(local, whole, mesh, placements))
            for fill, dims in KEYLESS.values():
                if 2 in dims:
                    fill(sharded(local, whole, mesh, placements))
        with FakeTensorMode():
            fastinit.kaiming_normal_(sharded(torch.empty(3, 5), whole, mesh, [Shard(0)]))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_tensor_without_elements() -> None:
    before = torch.get_rng_state()
    with rank_of((2,), 1) as mesh:
        tensor = on_rank((0, 5), [Shard(0)], mesh)
        fastinit.normal_(tensor)
        with pytest.warns(UserWarning, match="zero-element") as caught:
            fastinit.kaiming_normal_(tensor)
    assert caught[0].filename == __file__
    assert torch.equal(torch.get_rng_state(), before)


def test_dirac_without_out_channels() -> None:
    with rank_of((2,), 1) as mesh:
        for placement in (Shard(0), Shard(1), Replicate()):
            tensor = on_rank((0, 4, 3), [placement], mesh)
            assert fastinit.dirac_(tensor) is tensor


def test_an_empty_shard_of_an_orthogonal_matrix_needs_no_matrix() -> None:
    """Here one of 2^50 elements. The key is drawn all the same."""
    shape = (1, 1 << 50)
    generator = torch.Generator().manual_seed(3)
    fastinit.normal_(torch.empty(1), generator=generator)
    after = generator.get_state()
    with rank_of((2,), 1) as mesh:
        whole = torch.empty(shape, device="meta")
        local = torch.empty(0, shape[1])
        tensor = sharded(local, whole, mesh, [Shard(0)])
        for shard, region in (
            (tensor, None),
            (local, fastinit.Region(shape, (1, 0))),
        ):
            generator.manual_seed(3)
            fastinit.orthogonal_(shard, generator=generator, region=region)
            assert torch.equal(generator.get_state(), after)


def test_scalars_and_parameters() -> None:
    with rank_of((2,), 1) as mesh:
        scalar = sharded(torch.tensor(POISON), torch.tensor(0.0), mesh, [Replicate()])
        fastinit.uniform_(scalar, key=2)
        assert_same_bits(scalar.to_local(), fastinit.uniform_(torch.tensor(0.0), key=2))
        parameter = nn.Parameter(on_rank((6, 5), [Shard(0)], mesh))
        assert fastinit.normal_(parameter, key=2) is parameter
        assert parameter.grad_fn is None
        assert_same_bits(
            parameter.detach().to_local(), fastinit.normal_(torch.empty(6, 5), key=2)[3:]
        )


class Largest(TorchDispatchMode):
    """Notes the bytes of the largest tensor that any operator makes or sees."""

    bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves((args, kwargs, result)):
            if isinstance(value, Tensor) and not value.is_meta and type(value) is Tensor:
                self.bytes = max(self.bytes, value.untyped_storage().nbytes())
        return result


@pytest.mark.parametrize("name", [*(n for n in RANDOM if n != "orthogonal_"), *KEYLESS])
@pytest.mark.parametrize(
    "placement", [Shard(0), Shard(1), _StridedShard(0, split_factor=4)], ids=str
)
def test_no_rank_holds_more_than_its_shard(name: str, placement: Placement) -> None:
    fill = RANDOM[name] if name in RANDOM else KEYLESS[name][0]
    matrix = (8448, 8192)  # 264 MB
    shape = matrix if name not in KEYLESS or 2 in KEYLESS[name][1] else (*matrix, 1)
    with rank_of((8,), 3) as mesh:
        tensor = on_rank(shape, [placement], mesh)
        shard = tensor._local_tensor.untyped_storage().nbytes()
        assert shard == 8448 * 8192 * 4 // 8
        with growth() as grown, Largest() as largest:
            fill(tensor)
        assert largest.bytes <= shard
        assert grown.bytes < 8 << 20


def test_splitting_indices_needs_no_memory() -> None:
    """The rectangles of a rank come from arithmetic, whatever the extent."""
    shape = (1 << 40, 1 << 20)
    whole = torch.empty(shape, device="meta")
    with growth() as grown, rank_of((4096,), 4095) as mesh:
        fastinit.normal_(sharded(own_part(whole, mesh, [Shard(0)]), whole, mesh, [Shard(0)]))
    assert grown.bytes < 8 << 20


# ------------------------------------------------------------------------------------ communication


@pytest.mark.parametrize("keyed", [True, False])
def test_no_collective_per_tensor(keyed: bool) -> None:
    with rank_of((2, 2), 1) as mesh:
        tensors = [on_rank((6, 5), [Shard(0), Shard(1)], mesh) for _ in range(3)]
        with CommDebugMode() as communication:
            for fill in RANDOM.values():
                for tensor in tensors:
                    fill(tensor, **({"key": 1} if keyed else {}))
            for fill, dims in KEYLESS.values():
                if 2 in dims:
                    fill(tensors[0])
        assert communication.get_total_counts() == 0


# ---------------------------------------------------------------------------------------- refusals


def refuses(tensor: Tensor, error: type[Exception], message: str) -> None:
    before = torch.get_rng_state()
    for fill in RANDOM.values():
        with pytest.raises(error, match=message):
            fill(tensor)
    for fill, dims in KEYLESS.values():
        if 2 in dims:
            with pytest.raises(error, match=message):
                fill(tensor)
    assert torch.equal(torch.get_rng_state(), before)


def test_partial_is_refused() -> None:
    with rank_of((2, 2), 1) as mesh:
        for partial in (Partial(), Partial("avg")):
            local = torch.full((3, 5), POISON)
            whole = torch.empty(6, 5)
            tensor = sharded(local, whole, mesh, [Shard(0), partial])
            refuses(tensor, ValueError, r"^tensor has the placement Partial\(\w+\) on mesh .* 1:")
            assert (local == POISON).all()


def test_partial_over_one_rank_is_a_value() -> None:
    """What torch makes of a reduction over a mesh dimension that happens to have one rank."""
    for partial in (Partial(), Partial("avg"), Partial("max")):
        check((6, 5), (1,), [partial], torch.float32, lambda t: fastinit.normal_(t, key=1))
        check((6, 5), (1,), [partial], torch.float32, lambda t: fastinit.orthogonal_(t, key=1))
        with rank_of((2, 1), 1) as mesh:
            tensor = sharded(torch.empty(3, 5), torch.empty(6, 5), mesh, [Shard(0), partial])
            fastinit.kaiming_normal_(tensor, key=1)
            expected = fastinit.kaiming_normal_(torch.empty(6, 5), key=1)[3:]
            assert_same_bits(tensor._local_tensor, expected)
            assert (fastinit.ones_(tensor)._local_tensor == 1).all()


def test_another_order_of_the_splits_is_refused() -> None:
    spec_of_torch = pytest.importorskip("torch.distributed.tensor._dtensor_spec")
    if not hasattr(spec_of_torch, "ShardOrderEntry"):
        pytest.skip("this torch splits in the order of the mesh dimensions only")
    order = (spec_of_torch.ShardOrderEntry(tensor_dim=0, mesh_dims=(1, 0)),)
    with rank_of((2, 2), 1) as mesh:
        tensor = on_rank((8, 5), [Shard(0), Shard(0)], mesh)
        spec = dataclasses.replace(tensor._spec, shard_order=order)
        local = tensor._local_tensor
        tensor = DTensor(local, spec, requires_grad=False)
        refuses(tensor, ValueError, r"^tensor has the shard_order .* mesh dimensions \(1, 0\)")
        assert (local == POISON).all()


def test_a_mesh_without_this_rank_is_refused() -> None:
    with rank_of((4,), 3):
        mesh = DeviceMesh("cpu", [0, 1])
        tensor = sharded(torch.empty(0), torch.empty(6, 5), mesh, [Shard(0)])
        refuses(tensor, ValueError, r"does not hold this rank \(3\)")


def test_a_local_tensor_of_another_shape_is_refused() -> None:
    with rank_of((2,), 1) as mesh:
        for shape in ((4, 5), (3, 6), (5, 3), (3,), (0, 5)):
            tensor = sharded(torch.empty(shape), torch.empty(6, 5), mesh, [Shard(0)])
            refuses(tensor, ValueError, r"^tensor holds a local tensor of shape .* gives \(3, 5\)")


def test_a_region_is_refused() -> None:
    region = fastinit.Region((6, 5), (3, 0))
    with rank_of((2,), 1) as mesh:
        tensor = on_rank((6, 5), [Shard(0)], mesh)
        for fill in RANDOM.values():
            with pytest.raises(ValueError, match="^region is given with a DTensor"):
                fill(tensor, region=region)


@pytest.mark.parametrize("seeded", ["default", "generator"])
def test_a_refused_fill_draws_nothing(seeded: str) -> None:
    with rank_of((2,), 1) as mesh:
        tensor = on_rank((6, 5), [Shard(0)], mesh)
        generator = torch.default_generator if seeded == "default" else torch.Generator()
        before = generator.get_state()
        for attempt in (
            lambda **k: fastinit.normal_(tensor, std=-1.0, **k),
            lambda **k: fastinit.normal_(tensor, std=torch.tensor(-1.0), **k),
            lambda **k: fastinit.uniform_(tensor, 2.0, 1.0, **k),
            lambda **k: fastinit.kaiming_normal_(tensor, groups=4, **k),
            lambda **k: fastinit.sparse_(tensor, float("nan"), **k),
            lambda **k: fastinit.orthogonal_(tensor, gain=torch.ones(2), **k),
        ):
            with pytest.raises((ValueError, RuntimeError)):
                attempt(**({} if seeded == "default" else {"generator": generator}))
        assert torch.equal(generator.get_state(), before)
        assert (tensor._local_tensor == POISON).all()


def test_fans_are_those_of_the_whole() -> None:
    with rank_of((2,), 1) as mesh:
        fastinit.kaiming_normal_(on_rank((6, 5), [Shard(0)], mesh), groups=2)  # 3 rows are odd
        with pytest.raises(ValueError, match="groups is 4"):
            fastinit.kaiming_normal_(on_rank((6, 5), [Shard(0)], mesh), groups=4)


def test_stock_differs() -> None:
    """What these tests are for: torch.nn.init gives other values to other shardings."""
    parts = []
    for placement in (Shard(0), Shard(1), Replicate()):
        with rank_of((2,), 0) as mesh:
            torch.manual_seed(1)
            tensor = on_rank((6, 6), [placement], mesh)
            nn.init.normal_(tensor)
            parts.append(tensor._local_tensor[:3, :3].clone())
    assert not torch.equal(parts[0], parts[2]) or not torch.equal(parts[1], parts[2])


class Tracker:
    """As DTensor has for GPUs: a state of its own on every rank, while a shard is made."""

    @contextmanager
    def _distribute_region(self, spec: object) -> Iterator[None]:
        with torch.random.fork_rng():
            torch.manual_seed(dist.get_rank())
            yield


@pytest.mark.parametrize("name", ["randn", "rand"])
def test_shards_of_new_dtensors_are_left_to_stock(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are asked for as plain tensors: a patch would give all of them the same values."""
    monkeypatch.setattr(torch.distributed.tensor._random, "_rng_tracker", Tracker())
    make: Any = getattr(torch.distributed.tensor, name)
    for rank in range(2):
        with rank_of((2,), rank) as mesh:
            expected = make(6, 5, device_mesh=mesh, placements=[Shard(0)])
            with fastinit.patch(seed=1):
                tensor = make(6, 5, device_mesh=mesh, placements=[Shard(0)])
                plain = getattr(torch, name)(3, 5)
        assert_same_bits(tensor._local_tensor, expected._local_tensor)
        assert not torch.equal(tensor._local_tensor, plain)


def test_torch_distributed_is_not_imported_for_plain_tensors() -> None:
    code = (
        "import sys, torch, fastinit; before = 'torch.distributed.tensor' in sys.modules; "
        "fastinit.normal_(torch.empty(3)); fastinit.eye_(torch.empty(3, 3)); "
        "assert before or 'torch.distributed.tensor' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", ["normal_", "orthogonal_", "eye_", "zeros_"])
def test_compile_leaves_dtensors_to_python(name: str) -> None:
    """A graph break, with the values of the eager call."""
    fill: Any = getattr(fastinit, name)

    @torch.compile(backend="eager")
    def initialize(tensor: Tensor) -> Tensor:
        return fill(tensor)

    torch.manual_seed(3)
    expected = [fill(torch.empty(6, 5)) for _ in range(2)]
    torch.manual_seed(3)
    with rank_of((2,), 1) as mesh:
        for whole in expected:
            tensor = on_rank((6, 5), [Shard(0)], mesh)
            initialize(tensor)
            assert_same_bits(tensor.to_local(), whole[3:])
