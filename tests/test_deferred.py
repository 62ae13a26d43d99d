"""`deferred` gives what runs without it give, however the tensors are used meanwhile, and does not
do what nobody sees.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch._dynamo  # which changes torch as it is imported
from _clients import CountedDraws
from _deferring import nothing_left_behind, recorded, value, waits
from torch import Tensor, nn

import fastinit
from fastinit._intercept import pending as waiting

pytestmark = pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")


@pytest.fixture(autouse=True)
def _torch_as_it_was() -> Iterator[None]:
    with nothing_left_behind():
        yield


# --------------------------------------------------------------------------------- what it is for


def build(bias: bool = True) -> nn.Module:
    model = nn.Sequential(
        nn.Linear(5, 7, bias),
        nn.Embedding(10, 6, padding_idx=2),
        nn.Conv2d(3, 4, 3),
        nn.MultiheadAttention(8, 2),
        nn.LSTM(3, 4),
        nn.Bilinear(3, 4, 5),
        nn.BatchNorm2d(3),
    )
    nn.init.normal_(model[0].weight, std=0.02)
    nn.init.sparse_(model[1].weight, 0.3)
    nn.init.trunc_normal_(model[2].bias)
    nn.init.dirac_(model[2].weight)
    nn.init.orthogonal_(model[5].weight[0])
    fastinit.lecun_normal_(model[5].weight[1], region=fastinit.Region((9, 7), (3, 1)))
    nn.init.xavier_uniform_(model[5].weight[2])
    model[0].weight.data[1:3].zero_()
    with torch.no_grad():
        model[3].in_proj_weight[1].fill_(3)
    nn.init.eye_(model[4].weight_hh_l0)
    return model


@pytest.mark.parametrize("seed", [None, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_values_generators_and_versions_are_those_of_the_patch(
    seed: int | None, dtype: torch.dtype
) -> None:
    torch.set_default_dtype(dtype)
    try:
        with torch.random.fork_rng():
            torch.manual_seed(1)
            with fastinit.patch(seed=seed):
                eager = build()
            state = torch.get_rng_state()
            torch.manual_seed(1)
            with fastinit.deferred(seed):
                model = build()
            assert torch.equal(torch.get_rng_state(), state)
    finally:
        torch.set_default_dtype(torch.float32)
    for (name, a), (other, b) in zip(
        eager.state_dict().items(), model.state_dict().items(), strict=True
    ):
        assert name == other and torch.equal(a, b), name
    for a, b in zip(eager.parameters(), model.parameters(), strict=True):
        assert a._version == b._version and a.requires_grad == b.requires_grad


FILLS: dict[str, Callable[[Tensor], object]] = {
    "uniform_": lambda t: fastinit.uniform_(t, -1.0, 3.0),
    "normal_": lambda t: fastinit.normal_(t, 1.0, 3.0),
    "trunc_normal_": lambda t: fastinit.trunc_normal_(t, 0.2, 1.0, -1.0, 3.0),
    "kaiming_uniform_": lambda t: fastinit.kaiming_uniform_(t, 0.2),
    "kaiming_normal_ fan_out": lambda t: fastinit.kaiming_normal_(t, mode="fan_out"),
    "xavier_normal_": lambda t: fastinit.xavier_normal_(t, 1.7),
    "lecun_normal_": lambda t: fastinit.lecun_normal_(t),
    "lecun_uniform_ of a region": lambda t: fastinit.lecun_uniform_(
        t, region=fastinit.Region((40, 40), (7, 9))
    ),
    "sparse_": lambda t: fastinit.sparse_(t, 0.4),
    "orthogonal_": lambda t: fastinit.orthogonal_(t, 1.3),
    "an int key": lambda t: fastinit.normal_(t, key=-3),
    "a key tensor": lambda t: fastinit.normal_(t, key=fastinit.Key(3).to_tensor()),
    "a std tensor": lambda t: fastinit.normal_(t, std=torch.tensor(2.0)),
    "a generator": lambda t: fastinit.normal_(t, generator=torch.Generator().manual_seed(4)),
    "ones_": fastinit.ones_,
    "eye_": fastinit.eye_,
}


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float64, torch.complex64, torch.float8_e5m2]
)
@pytest.mark.parametrize("layout", ["contiguous", "transposed", "sliced"])
def test_every_fill_gives_the_same_bits(fill: str, dtype: torch.dtype, layout: str) -> None:
    def run() -> Tensor:
        whole = torch.zeros(12, 14, dtype=dtype)
        part = {"contiguous": whole, "transposed": whole.T, "sliced": whole[2:, 1:12:2]}[layout]
        FILLS[fill](part)
        return whole

    with fastinit.keyed(2):
        try:
            eager = run()
        except (NotImplementedError, RuntimeError, TypeError) as refusal:
            with fastinit.deferred(2), pytest.raises(type(refusal)):
                run()
            return
    with fastinit.deferred(2):
        late = run()
    assert torch.equal(late.view(torch.uint8), eager.view(torch.uint8))


def test_only_the_last_of_several_is_drawn() -> None:
    with CountedDraws() as draws:
        with fastinit.deferred(seed=1):
            layer = nn.Linear(4, 8, bias=False)
            for _ in range(3):
                nn.init.normal_(layer.weight)
            assert recorded() == 1
            late = nn.init.orthogonal_(torch.empty(8, 4))
            nn.init.normal_(late)
        assert draws.ours == {"multi_fill_": 1}
    assert not draws.stock
    assert torch.equal(layer.weight, value(3))
    assert torch.equal(late, value(5))


def test_one_call_fills_all_dtypes_of_a_device() -> None:
    with CountedDraws() as draws, fastinit.deferred(seed=1):
        made = [nn.Linear(4, 8, dtype=d) for d in (torch.float32, torch.bfloat16, torch.float64)]
    assert draws.ours == {"multi_fill_": 1}
    assert all(layer.weight.std() > 0 for layer in made)


def test_parts_of_one_storage_are_filled_together() -> None:
    with CountedDraws() as draws, fastinit.deferred(seed=1):
        flat = torch.empty(40)
        for part in flat.split(8):
            nn.init.normal_(part)
        nn.init.uniform_(flat[4:12])
    assert draws.ours == {"multi_fill_": 2}
    with fastinit.keyed(1):
        expected = torch.empty(40)
        for part in expected.split(8):
            fastinit.normal_(part)
        fastinit.uniform_(expected[4:12])
    assert torch.equal(flat, expected)


@pytest.mark.parametrize("order", ["forward", "backward"])
def test_one_storage_has_few_records_to_be_held_against_another(order: str) -> None:
    rows = range(3000)
    drawn, most = [], 0
    for scope in (fastinit.patch, fastinit.deferred):
        with scope(seed=1):
            drawn.append(torch.zeros(3000, 4))
            for row in rows if order == "forward" else reversed(rows):
                drawn[-1][row].normal_()
                if scope is fastinit.deferred:
                    most = max(most, recorded())
    assert torch.equal(*drawn)
    assert most == 512


def test_a_tensor_that_is_gone_is_not_kept_nor_drawn() -> None:
    with CountedDraws() as draws, fastinit.deferred(seed=1):
        gone = nn.init.normal_(torch.empty(1000))
        storage = weakref.ref(waiting._storage_of(gone))
        nn.init.normal_(gone)
        reference = weakref.ref(gone)
        del gone
        gc.collect()
        assert reference() is None and storage() is None
        for _ in range(3000):
            nn.init.normal_(torch.empty(3))
        pending = waiting.current()
        assert pending is not None and pending._records.storages <= 1100
    assert draws.ours["multi_fill_"] == 0


def test_a_record_keeps_nothing_of_its_tensor() -> None:
    with fastinit.deferred(seed=1):
        for fill in FILLS.values():
            tensor = torch.empty(8, 4)
            fill(tensor)
            storage = weakref.ref(waiting._storage_of(tensor))
            reference = weakref.ref(tensor)
            del tensor
            assert reference() is None and storage() is None


def test_padding_rows_keep_their_order() -> None:
    with fastinit.deferred(seed=1):
        embedding = nn.Embedding(8, 4, padding_idx=3)
        assert recorded() == 2
        nn.init.normal_(embedding.weight)
        assert recorded() == 1
        with torch.no_grad():
            embedding.weight[3].zero_()
        tied = embedding.weight
        assert recorded() == 2
    expected = value(1)
    expected[3] = 0
    assert torch.equal(tied, expected)


def test_an_edit_disjoint_from_what_waits_runs_at_once() -> None:
    with fastinit.deferred(seed=1):
        flat = torch.zeros(64)
        nn.init.normal_(flat[:32].view(8, 4))
        flat[32:].copy_(torch.ones(32))
        assert waits(flat)
        flat[8:40].copy_(torch.ones(32))
        assert not waits(flat)
    expected = value(0).flatten()
    expected[8:] = 1
    assert torch.equal(flat[:32], expected) and torch.equal(flat[32:], torch.ones(32))


def test_copies_drop_what_they_overwrite() -> None:
    with CountedDraws() as draws, fastinit.deferred(seed=1):
        weight = nn.init.normal_(torch.empty(8, 4))
        weight.copy_(torch.ones(8, 4))
        assert not waits(weight)
        nn.init.normal_(weight)
        with pytest.raises(RuntimeError):
            weight.copy_(torch.ones(3, 3))
        assert waits(weight)
    assert draws.ours == {"multi_fill_": 1}
    assert torch.equal(weight, value(1))


def test_calls_alike_are_told_apart_where_it_counts() -> None:
    """A second call with the arguments of a first is recorded by what the first came to."""

    def run(scope: Callable[..., Any]) -> list[object]:
        made: list[object] = []
        with scope(seed=1):
            for _ in range(2):
                for call in (
                    lambda t: nn.init.kaiming_uniform_(t, a=1),
                    lambda t: nn.init.kaiming_uniform_(t, a=True),  # no slope to torch
                    lambda t: nn.init.kaiming_uniform_(t, a=1.0),
                    lambda t: nn.init.normal_(t, 0.0, 1e-30),
                    lambda t: nn.init.normal_(t, -0.0, 1e-30),
                    lambda t: nn.init.normal_(t, -0.0, 0.0),
                    lambda t: nn.init.normal_(t, 0.0, 0.0),
                    lambda t: nn.init.normal_(t, 0, std=2),
                    lambda t: nn.init.normal_(t, std=[2.0]),  # which has no hash
                    lambda t: nn.init.normal_(t, generator=torch.Generator().manual_seed(4)),
                    lambda t: nn.init.uniform_(t, -0.5, 0.5).erfinv_(),
                    lambda t: nn.init.uniform_(t[1], -0.5, 0.5),
                    lambda t: nn.init.kaiming_uniform_(t[1], a=1),
                    lambda t: nn.init.xavier_normal_(t.T),
                    lambda t: nn.init.xavier_normal_(t[:, ::2]),
                ):
                    tensor = torch.full((8, 4), 3.0)
                    try:
                        call(tensor)
                    except (RuntimeError, TypeError, ValueError) as refusal:
                        made.append(str(refusal))
                    made.append((tensor._version, tensor))
        return [
            one if isinstance(one, str) else (one[0], one[1].view(torch.uint8).tolist())
            for one in made
        ]

    assert run(fastinit.deferred) == run(fastinit.patch)


def test_warnings_come_at_each_call() -> None:
    with fastinit.deferred(seed=1):
        for _ in range(2):
            with pytest.warns(UserWarning, match="more than 2 std"):
                nn.init.trunc_normal_(torch.empty(8, 4), mean=9.0)


def test_function_modes_see_calls_that_are_known() -> None:
    from _clients import SeenFunctions

    with fastinit.deferred(seed=1), SeenFunctions() as mode:
        tensors = [torch.empty(8, 4) for _ in range(3)]
        for tensor in tensors:
            nn.init.normal_(tensor)
            tensor[0].zero_()
    names = [function.__name__ for function in mode.seen]
    assert names.count("normal_") >= 3 and names.count("zero_") == 3
    for n, tensor in enumerate(tensors):
        expected = value(n)
        expected[0] = 0
        assert torch.equal(tensor, expected)


def test_a_function_mode_that_reads_gets_values() -> None:
    class Reading(torch.overrides.TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
        ) -> Any:
            if func is torch.empty or getattr(func, "__name__", "") == "empty":
                seen.append(float(first.sum()))
            return func(*args, **(kwargs or {}))

    seen: list[float] = []
    with fastinit.deferred(seed=1):
        first = nn.init.normal_(torch.full((8, 4), 1e9))
        with Reading():
            torch.empty(3)
    assert seen == [float(value(0).sum())]


@pytest.mark.parametrize("kind", ["ints", "a table", "one"])
def test_keys_in_tensors_wait_and_cannot_be_changed(kind: str) -> None:
    fills: list[Callable[[Tensor, Any], object]] = [
        lambda t, key: fastinit.normal_(t, key=key),
        lambda t, key: fastinit.kaiming_uniform_(t, key=key),
        lambda t, key: fastinit.trunc_normal_(t, key=key),
        lambda t, key: fastinit.sparse_(t, 0.5, key=key),
    ]
    keys = {
        "ints": [3, 4, 5],
        "a table": torch.tensor([[3, 0], [4, 0], [5, 7]], dtype=torch.uint64),
        "one": torch.tensor([3, 2**63 + 1], dtype=torch.uint64),
    }[kind]
    expected = [torch.zeros(3, 8, 4) for _ in fills]
    shape = slice(None) if kind != "one" else 0  # sparse_ takes matrices
    for fill, tensor in zip(fills, expected, strict=True):
        fill(tensor[shape], keys)
    with fastinit.deferred(seed=1):
        late = [torch.zeros(3, 8, 4) for _ in fills]
        for fill, tensor in zip(fills, late, strict=True):
            fill(tensor[shape], keys)
        assert waits(*late)
        with pytest.raises(ValueError, match="keys, but the tensor has shape"):
            fastinit.normal_(late[0][0], key=[1, 2])
        if isinstance(keys, Tensor):
            keys.zero_()
    for a, b in zip(expected, late, strict=True):
        assert torch.equal(a, b) and a.any()
