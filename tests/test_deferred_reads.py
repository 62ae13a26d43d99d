"""Under `deferred`, whoever needs a value gets it; whoever does not, does not cause the fill."""

from __future__ import annotations

import contextlib
import copy
import io
import pickle
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch._dynamo  # which changes torch as it is imported
from _deferring import nothing_left_behind, value, waits
from torch import Tensor, nn

import fastinit
from fastinit._intercept import pending as waiting

pytestmark = pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")


@pytest.fixture(autouse=True)
def _torch_as_it_was() -> Iterator[None]:
    with nothing_left_behind():
        yield


# ------------------------------------------------------------------------------- who needs a value

SHAPE_ONLY: dict[str, Callable[[Tensor], object]] = {
    "parameter": nn.Parameter,
    "data": lambda t: t.data,
    "detach": lambda t: t.detach(),
    "view": lambda t: t.view(4, 8)[1:, ::2].T,
    "shape": lambda t: (t.shape, t.stride(), t.dtype, t.device, t.numel(), t.is_contiguous()),
    "like": lambda t: (torch.empty_like(t), torch.zeros_like(t), t.new_empty(3)),
    "flags": lambda t: setattr(t, "_is_hf_initialized", True),
    "requires_grad_": lambda t: t.requires_grad_(),
    "split": lambda t: t.split(4),
}
READS: dict[str, Callable[[Tensor], Any]] = {
    "item": lambda t: t[2, 1].item(),
    "sum": lambda t: t.sum(),
    "add": lambda t: t + 1,
    "clone": lambda t: t.clone(),
    "to": lambda t: t.to(torch.float64),
    "contiguous": lambda t: t.T.contiguous(),
    "reshape": lambda t: t.T.reshape(-1),
    "flatten": lambda t: t[:, 1:].flatten(),
    "bool": lambda t: bool(t[0, 0] > 0),
    "repr": repr,
    "repr of a parameter": lambda t: repr(nn.Parameter(t)),
    "format": lambda t: f"{t}",
    "format of a number": lambda t: f"{t[1, 2]:.3f}",
    "tolist": lambda t: t.tolist(),
    "numpy": lambda t: t.numpy().copy(),
    "array": lambda t: t.__array__().copy(),
    "numpy of a view": lambda t: t.T.numpy().copy(),
    "deepcopy": copy.deepcopy,
    "copy": lambda t: copy.copy(t).clone(),
    "pickle": lambda t: pickle.loads(pickle.dumps(t)),
    "save": lambda t: saved(t),
    "dlpack": lambda t: torch.from_dlpack(t).clone(),
    "dlpack capsule": lambda t: torch.utils.dlpack.from_dlpack(
        torch.utils.dlpack.to_dlpack(t)
    ).clone(),
    "capsule of torch": lambda t: torch.from_dlpack(torch.to_dlpack(t)).clone(),
    "storage": lambda t: t.untyped_storage().tolist(),
    "typed storage": lambda t: list(t.storage()),
    "stack": lambda t: torch.stack([t, t]),
    "equal": lambda t: torch.equal(t, t.clone()),
    "into another": lambda t: torch.zeros(8, 4).copy_(t),
    "index": lambda t: t[torch.tensor([1, 2])],
    "sparse": lambda t: t.to_sparse().to_dense(),
    "as a parameter": lambda t: (nn.Parameter(t) * 2).sum().item(),
    "grad": lambda t: gradient(t),
    "matmul under vmap": lambda t: torch.vmap(lambda row: row * 2)(t),
    "foreach": lambda t: torch._foreach_norm([t, t])[1],
}
EDITS: dict[str, Callable[[Tensor], object]] = {
    "add_": lambda t: t.add_(1),
    "mul_ of a view": lambda t: t[1].mul_(2),
    "data": lambda t: t.data.erfinv_(),
    "setitem": lambda t: t.__setitem__(0, 5.0),
    "numpy": lambda t: t.numpy().fill(3),
    "share_memory_": lambda t: t.share_memory_(),
    "set_": lambda t: torch.empty(0).set_(t).add_(1),
    "resize_": lambda t: t.resize_(3, 3),
    "out": lambda t: torch.add(torch.ones(8, 4), 1, out=t),
    "foreach": lambda t: torch._foreach_add_([t], 1.0),
    "exponential_ of a row": lambda t: t[2].exponential_(),
    "bernoulli_": lambda t: t.bernoulli_(0.5),
}


def saved(tensor: Tensor) -> Tensor:
    file = io.BytesIO()
    torch.save(tensor, file)
    file.seek(0)
    loaded: Tensor = torch.load(file)
    return loaded


def gradient(tensor: Tensor) -> Tensor:
    parameter = nn.Parameter(tensor)
    (parameter**2).sum().backward()
    assert parameter.grad is not None
    return parameter.grad


ELSEWHERE: dict[str, Callable[[Tensor], Tensor]] = {
    "sparse": lambda t: t.to_sparse(),
    "csr": lambda t: t.to_sparse_csr(),
    "mkldnn": lambda t: t.to_mkldnn(),
    "nested": lambda t: torch.nested.nested_tensor([t, t[1:]]),
    "view of what waits": lambda t: torch._nested_view_from_buffer(
        t.view(-1), torch.tensor([[4, 4], [4, 4]]), torch.tensor([[4, 1], [4, 1]]),
        torch.tensor([0, 16]),
    ),
}  # fmt: skip


def alike(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    return bool((a == b).all()) if hasattr(a, "all") else bool(a == b)


@pytest.mark.parametrize("look", SHAPE_ONLY)
def test_shapes_and_aliases_need_no_values(look: str) -> None:
    with fastinit.deferred(seed=1):
        tensor = nn.init.normal_(torch.empty(8, 4))
        kept = SHAPE_ONLY[look](tensor)
        assert waits(tensor)
    assert torch.equal(tensor, value(0))
    del kept


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.inference_mode])
@pytest.mark.parametrize("read", READS)
def test_reads_get_the_values(read: str, mode: Callable[[], Any]) -> None:
    if read == "grad" and mode is torch.inference_mode:
        pytest.skip("there is none")
    expected = READS[read](value(0))
    with mode(), fastinit.deferred(seed=1):
        kept = fastinit.normal_(torch.empty(3), key=0)
        tensor = nn.init.normal_(torch.full((8, 4), 1e9))  # which would show, if read
        got = READS[read](tensor)
        assert not waits(tensor)
        assert waits(kept) or read == "sparse"  # which has no storage to go by
    assert alike(got, expected)
    assert torch.equal(tensor, value(0))


@pytest.mark.parametrize("edit", EDITS)
def test_edits_find_and_keep_the_values(edit: str) -> None:
    expected = value(0)
    torch.manual_seed(0)
    EDITS[edit](expected)
    with fastinit.deferred(seed=1):
        tensor = nn.init.normal_(torch.empty(8, 4))
        torch.manual_seed(0)
        EDITS[edit](tensor)
        assert not waits(tensor)
    assert torch.equal(tensor.nan_to_num(), expected.nan_to_num())


@pytest.mark.filterwarnings("ignore:Sparse", "ignore:The PyTorch API of nested")
@pytest.mark.parametrize("kind", ELSEWHERE)
@pytest.mark.parametrize("write", ["zero_", "fill_", "copy_"])
def test_writes_to_tensors_of_another_make(kind: str, write: str) -> None:
    def outcome(tensor: Tensor) -> object:
        target = ELSEWHERE[kind](tensor)
        argument = {"zero_": (), "fill_": (2.0,), "copy_": (target.clone(),)}[write]
        try:
            getattr(target, write)(*argument)
        except (NotImplementedError, RuntimeError) as refusal:
            return str(refusal)
        parts = target.unbind() if target.is_nested else [target.to_dense()]
        return [part.tolist() for part in parts]

    expected = outcome(value(0))
    with fastinit.deferred(seed=1):
        assert outcome(nn.init.normal_(torch.empty(8, 4))) == expected


def test_memory_known_to_others_is_filled_at_once() -> None:
    import numpy as np

    array = np.zeros((8, 4), np.float32)
    before = torch.zeros(8, 4)
    seen_before = before.numpy()
    with fastinit.deferred(seed=1):
        nn.init.normal_(torch.from_numpy(array))
        assert (array == value(0).numpy()).all()
        nn.init.normal_(before)
        assert (seen_before == value(1).numpy()).all()
        inside = torch.empty(8, 4)
        pointer, seen = inside.data_ptr(), inside.numpy()
        nn.init.normal_(inside)
        assert (seen == value(2).numpy()).all() and pointer == inside.data_ptr()
        shared = torch.empty(8, 4).share_memory_()
        nn.init.normal_(shared)
        assert not waits(shared)
    assert torch.equal(shared, value(3))


def test_other_threads_run_as_ever() -> None:
    results: list[bool] = []

    def work() -> None:
        tensor = nn.init.normal_(torch.empty(8, 4), generator=torch.Generator().manual_seed(0))
        results.append(waiting.current() is None and float(tensor.std()) > 0.5)

    with fastinit.deferred(seed=1):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert results == [True]


def test_refusals_come_at_once_and_draw_nothing() -> None:
    with torch.inference_mode():
        inferred = torch.zeros(8, 4)
    with fastinit.deferred(seed=1):
        tensor = torch.zeros(8, 4)
        for bad in (
            lambda: nn.init.normal_(tensor, std=-1.0),
            lambda: nn.init.uniform_(tensor, 1.0, 0.0),
            lambda: nn.init.kaiming_uniform_(tensor[0]),
            lambda: nn.init.normal_(tensor[:1].expand(8, 4)),
            lambda: tensor.half().fill_(1e9),
            lambda: nn.init.normal_(tensor, generator="no"),  # type: ignore[arg-type]
            lambda: fastinit.normal_(tensor, region=fastinit.Region((3, 3), (0, 0))),
            # autograd lets no inference tensor be written to outside of inference mode
            lambda: nn.init.normal_(inferred),
            lambda: nn.init.sparse_(inferred, 0.5),
            lambda: nn.init.orthogonal_(inferred),
            lambda: nn.init.zeros_(inferred),
        ):
            with pytest.raises((RuntimeError, ValueError, TypeError)):
                bad()
        assert not waits(tensor) and not waits(inferred)
    assert not tensor.any()


@pytest.mark.parametrize("strategy", ["file_descriptor", "file_system"])
def test_memory_shared_with_other_processes_is_filled_at_once(strategy: str) -> None:
    before = torch.multiprocessing.get_sharing_strategy()
    if strategy not in torch.multiprocessing.get_all_sharing_strategies():
        pytest.skip("not on this system")
    torch.multiprocessing.set_sharing_strategy(strategy)
    try:
        with fastinit.deferred(seed=1):
            shared = torch.empty(8, 4).share_memory_()
            nn.init.normal_(shared)
            nn.init.zeros_(shared[0])
            assert not waits(shared)
    finally:
        torch.multiprocessing.set_sharing_strategy(before)
    expected = value(0)
    expected[0] = 0
    assert torch.equal(shared, expected)


def test_numbers_of_any_kind_are_written_as_ever() -> None:
    def write(deferring: bool) -> list[Any]:
        made: list[Any] = []
        with fastinit.deferred(seed=1) if deferring else fastinit.patch(seed=1):
            for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.bool):
                for number in (0, -0.0, True, 1.5, 2**53 + 1, float("nan"), float("inf"), 1e39):
                    tensor = torch.full((5,), 3, dtype=dtype)
                    view = tensor[1:4]
                    for write in (lambda t: t.fill_(number), lambda t: t.zero_()):  # noqa: B023
                        try:
                            assert write(view) is view
                        except RuntimeError as refusal:
                            made.append(str(refusal))
                        made.append((tensor._version, view.clone().view(torch.uint8).tolist()))
                made.append(torch.tensor(2, dtype=dtype).item())
        return made

    assert write(True) == write(False)


def test_numbers_are_not_written_past_autograd() -> None:
    with fastinit.deferred(seed=1):
        leaf = torch.zeros(3, requires_grad=True)
        for write in (lambda: leaf.zero_(), lambda: leaf.fill_(2)):
            with pytest.raises(RuntimeError, match="leaf Variable"):
                write()
        doubled = leaf * 2
        doubled.fill_(3.0)
        doubled.sum().backward()
        with pytest.raises(TypeError):
            leaf.zero_(3)  # type: ignore[call-arg]
    assert leaf.grad is not None and not leaf.grad.any() and doubled.tolist() == [3, 3, 3]


def test_what_is_made_past_the_mode_is_as_ever() -> None:
    def made() -> list[Any]:
        found: list[Any] = []
        for mode in (torch.enable_grad, torch.no_grad, torch.inference_mode):
            for place in ("cpu", "meta", None):
                with mode(), torch.device(place) if place else contextlib.nullcontext():
                    tensors = [
                        torch.tensor(2.5, requires_grad=mode is torch.enable_grad),
                        torch.tensor(True),
                        torch.zeros(3, dtype=torch.float64, requires_grad=True),
                        torch.ones((2, 3), device="meta"),
                        torch.empty(0),
                        torch.empty(2, 3, 4, 5, memory_format=torch.channels_last),
                    ]
                for t in tensors:
                    version = None if t.is_inference() else t._version
                    flags = (t.requires_grad, t.is_leaf, t.is_inference(), version)
                    found.append((t.dtype, t.shape, t.stride(), str(t.device), flags))
        return found

    with fastinit.deferred(seed=1):
        inside = made()
        leaf = torch.tensor(2.0, requires_grad=True)
        (leaf * 3).backward()
    assert inside == made() and leaf.grad == 3
