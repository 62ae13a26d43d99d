"""`native`: what a model's own code does, keyed by name, from meta or in place.

Statistical tests: two-sample Kolmogorov-Smirnov between the model's constructor and `native`, Holm
over the tensors of a model, alpha 1e-3 for each model, fixed seeds. `test_another_law_is_noticed`
is the twin that rejects a wrong one.
"""

from __future__ import annotations

import gc
import types
import weakref
from collections.abc import Callable

import pytest
import torch
from _bits import assert_same_bits
from _models import Net, on_meta, p_values, rejected, torch_layers
from torch import Tensor, nn

import fastinit

ALPHA = 1e-3


def state(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def assert_same_state(a: nn.Module, b: nn.Module) -> None:
    assert state(a).keys() == state(b).keys()
    for name, tensor in state(a).items():
        assert_same_bits(tensor.detach(), state(b)[name].detach())


@pytest.mark.parametrize("kind", sorted(torch_layers()))
def test_torch_layers_have_the_law_of_their_constructors(kind: str) -> None:
    make = torch_layers()[kind]
    torch.manual_seed(0)
    stock = state(make())
    layer = on_meta(make)
    fastinit.materialize_(layer, "cpu", seed=1)
    found, wrong = p_values((name, stock[name], t) for name, t in state(layer).items())
    assert wrong == [] and rejected(found, ALPHA) == []
    again = make()
    fastinit.init_(again, seed=1)
    assert_same_state(layer, again)


def test_another_law_is_noticed() -> None:
    stock = nn.Linear(64, 64)
    other = fastinit.normal_(torch.empty(64, 64), std=stock.weight.std().item(), key=0)
    assert rejected(p_values([("weight", stock.weight, other)])[0], ALPHA) == ["weight"]


def test_a_model_that_initializes_in_its_constructor() -> None:
    torch.manual_seed(0)
    stock, model = Net(width=32), on_meta(lambda: Net(width=32))
    report = fastinit.materialize_(model, "cpu", seed=0)
    found, wrong = p_values((name, stock.get_parameter(name), p) for name, p in
                            model.named_parameters())  # fmt: skip
    assert wrong == [] and rejected(found, ALPHA) == []
    assert torch.equal(model.frequencies, stock.frequencies)
    assert model.head.weight is model.words.weight
    assert (model.words.weight[3] == 0).all() and (model.words.weight[4] != 0).any()
    assert not any("scale=0.1" in warning for warning in report.warnings)  # as the call shows
    assert "Net(depth=2) ran again with defaults" in report.warnings  # which no call shows
    assert report["blocks.1.down.weight"].std == pytest.approx(0.02 / 2**0.5)
    assert len(report) == len(list(model.named_parameters()))


def test_keys_are_those_of_names() -> None:
    model = Net()
    fastinit.init_(model, seed=5)
    key = fastinit.Key(5).fold_in("blocks.0.down.weight")
    expected = fastinit.normal_(torch.empty(8, 32), std=0.02 / 2**0.5, key=key)
    assert_same_bits(model.blocks[0].down.weight.detach(), expected)
    assert fastinit.init_(model, seed=5)["blocks.0.down.weight"].key == key


def test_several_draws_of_one_tensor_are_numbered() -> None:
    class Halves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.empty(6, 4))
            self.reset_parameters()

        def reset_parameters(self) -> None:
            nn.init.uniform_(self.weight)  # overwritten unread: does not count
            nn.init.normal_(self.weight[:3])
            nn.init.normal_(self.weight[3:])

    layer = Halves()
    fastinit.init_(layer, seed=0)
    key = fastinit.Key(0).fold_in("weight")
    a, b = layer.weight.detach()[:3], layer.weight.detach()[3:]
    # The first fill is not covered by one of the two, so it keeps its number.
    assert_same_bits(a, fastinit.normal_(torch.empty(3, 4), key=key.fold_in(1)))
    assert_same_bits(b, fastinit.normal_(torch.empty(3, 4), key=key.fold_in(2)))


@pytest.mark.parametrize("change", ["add", "remove", "rename", "reorder"])
def test_other_layers_change_nothing(change: str) -> None:
    layers: dict[str, Callable[[], nn.Module]] = {
        "a": lambda: nn.Linear(5, 4),
        "b": lambda: nn.MultiheadAttention(4, 2),
        "c": lambda: nn.GRU(4, 3),
    }
    changed = dict(layers)
    if change == "add":
        changed = {"new": lambda: nn.Conv2d(3, 3, 3), **changed}
    elif change == "remove":
        del changed["a"]
    elif change == "rename":
        changed["z"] = changed.pop("b")
    else:
        changed = dict(reversed(changed.items()))
    models = [nn.ModuleDict({n: f() for n, f in which.items()}) for which in (layers, changed)]
    for model in models:
        fastinit.init_(model, seed=7)
    first, second = map(state, models)
    for name in first.keys() & second.keys():
        assert_same_bits(first[name].detach(), second[name].detach())


def test_wrappers_change_nothing() -> None:
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    plain, wrapped = Net(), Net()
    wrapped.blocks[0] = checkpoint_wrapper(wrapped.blocks[0])
    wrapped.blocks[1].up = torch.compile(wrapped.blocks[1].up)
    reports = [fastinit.init_(model, seed=0) for model in (plain, wrapped)]
    assert [r.name for r in reports[0]] == [r.name for r in reports[1]]
    for a, b in zip(plain.parameters(), wrapped.parameters(), strict=True):
        assert_same_bits(a.detach(), b.detach())


def test_dtype_is_a_rounding_and_buffers_keep_theirs() -> None:
    wide, narrow = on_meta(Net), on_meta(Net)
    fastinit.materialize_(wide, "cpu", seed=0)
    fastinit.materialize_(narrow, "cpu", seed=0, dtype=torch.bfloat16)
    for name, p in narrow.named_parameters():
        if not name.endswith("up.bias"):  # uniform: what rounds to its upper bound stays below
            assert_same_bits(p.detach(), wide.get_parameter(name).detach().bfloat16())
    made_narrow = Net().bfloat16()
    fastinit.init_(made_narrow, seed=0)
    for a, b in zip(made_narrow.parameters(), narrow.parameters(), strict=True):
        assert_same_bits(a.detach(), b.detach())
    assert [b.dtype for b in narrow.buffers()] == [b.dtype for b in wide.buffers()]


def test_ties_attributes_hooks_and_flags_are_kept() -> None:
    model = on_meta(Net)
    weight = model.blocks[0].up.weight
    weight.mup_type = "weight"
    model.blocks[0].up.bias.requires_grad_(False)
    seen = []
    weight.register_hook(lambda grad: seen.append("gradient"))
    model.blocks[0].down.weight.register_post_accumulate_grad_hook(lambda p: seen.append("done"))
    fastinit.materialize_(model, "cpu", seed=0)
    assert model.head.weight is model.words.weight
    assert model.blocks[0].up.weight.mup_type == "weight"
    assert not model.blocks[0].up.bias.requires_grad
    block = model.blocks[0]
    block.down(block.up(block.norm(torch.randn(2, 8)))).sum().backward()
    assert sorted(seen) == ["done", "gradient"]
    rnn = on_meta(lambda: nn.LSTM(3, 4))
    fastinit.materialize_(rnn, "cpu", seed=0)
    assert rnn(torch.randn(2, 1, 3))[0].isfinite().all()


def test_shared_modules_and_ties_are_written_once() -> None:
    layer, table = nn.Linear(4, 4), nn.Embedding(6, 4, padding_idx=0)
    model = nn.ModuleDict({"a": nn.Sequential(layer, layer), "b": layer, "table": table})
    model["head"] = nn.Linear(4, 6, bias=False)
    model["head"].weight = table.weight  # in whose constructor it was another tensor
    report = fastinit.init_(model, seed=0)
    assert [record.name for record in report] == ["a.0.weight", "a.0.bias", "table.weight"]
    expected = fastinit.normal_(torch.empty(6, 4), key=fastinit.Key(0).fold_in("table.weight"))
    expected[0] = 0
    assert_same_bits(table.weight.detach(), expected)


def test_torch_is_left_as_it_was() -> None:
    model = Net()
    state_before = torch.get_rng_state()
    fastinit.init_(model, seed=0)
    assert torch.equal(torch.get_rng_state(), state_before)
    assert torch._C._len_torch_dispatch_stack() == 0
    assert all(p.device.type == "cpu" and p.is_leaf for p in model.parameters())


class Secret(nn.Module):
    """A parameter that no method knows and whose value the constructor has forgotten."""

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.start = nn.Parameter(start * 2)


def test_what_no_code_initializes_is_named() -> None:
    model = on_meta(lambda: Secret(torch.ones(3)))
    with pytest.raises(ValueError, match=r"initializes start\."):
        fastinit.materialize_(model, "cpu", seed=0)
    assert all(p.is_meta for p in model.parameters())
    real = Secret(torch.ones(3))
    before = {name: p.detach().clone() for name, p in real.named_parameters()}
    with pytest.raises(ValueError, match="start"):
        fastinit.init_(real, seed=0)
    for name, p in real.named_parameters():
        assert_same_bits(p.detach(), before[name])
    report = fastinit.init_(real, seed=0, strict=False)
    assert any("start" in warning for warning in report.warnings)
    assert torch.equal(real.start, before["start"])
    assert not torch.equal(real.linear.weight, before["linear.weight"])


def test_buffers_that_nobody_computes_are_named() -> None:
    class Table(nn.Module):
        def __init__(self, table: Tensor) -> None:
            super().__init__()
            self.register_buffer("table", table)

    model = on_meta(lambda: Table(torch.ones(3)))
    with pytest.raises(RuntimeError, match="table"):
        fastinit.materialize_(model, "cpu", seed=0)
    assert model.table.is_meta


@pytest.mark.parametrize("hook", ["init_non_persistent_buffers", "_init_self_buffers",
                                  "reset_parameters", "rope_init"])  # fmt: skip
def test_hooks_compute_buffers(hook: str) -> None:
    class Rotary(nn.Module):
        def __init__(self, table: Tensor) -> None:
            super().__init__()
            self.register_buffer("table", table, persistent=False)

    def replace(self: nn.Module) -> None:
        self.register_buffer("table", torch.arange(4.0), persistent=False)

    def write(self: nn.Module) -> None:
        self.table.copy_(torch.arange(4.0))

    setattr(Rotary, hook, replace if hook.startswith("_") else write)
    model = on_meta(lambda: Rotary(torch.ones(4)))
    fastinit.materialize_(model, "cpu", seed=0)
    assert torch.equal(model.table, torch.arange(4.0))
    assert "table" in model._non_persistent_buffers_set


@pytest.mark.parametrize("case", ["lazy", "meta", "storage", "dtype", "device", "seed", "module"])
def test_bad_input_is_refused_and_named(case: str) -> None:
    model = Net()
    if case == "lazy":
        model.extra = nn.LazyLinear(3)
        with pytest.raises(ValueError, match=r"lazy.*extra\.weight"):
            fastinit.init_(model, seed=0)
    elif case == "meta":
        with pytest.raises(ValueError, match=r"words\.weight.*materialize_"):
            fastinit.init_(on_meta(Net), seed=0)
    elif case == "storage":
        model.blocks[1].up.weight.untyped_storage().resize_(0)
        with pytest.raises(ValueError, match=r"storage.*blocks\.1\.up\.weight"):
            fastinit.init_(model, seed=0)
    elif case == "dtype":
        with pytest.raises(TypeError, match="int32"):
            fastinit.materialize_(on_meta(Net), "cpu", seed=0, dtype=torch.int32)
    elif case == "device":
        with pytest.raises(ValueError, match="meta"):
            fastinit.materialize_(on_meta(Net), "meta", seed=0)
    elif case == "seed":
        with pytest.raises(TypeError, match=r"seed.*1\.5"):
            fastinit.init_(model, seed=1.5)
    else:
        with pytest.raises(TypeError, match="module"):
            fastinit.init_(torch.zeros(3), seed=0)


def test_read_only_memory_is_refused(tmp_path) -> None:
    import numpy

    numpy.zeros(4096, dtype=numpy.float32).tofile(tmp_path / "weights")
    mapped = numpy.memmap(tmp_path / "weights", numpy.float32, "r")
    layer = nn.Module()
    layer.weight = nn.Parameter(torch.from_numpy(mapped))
    with pytest.raises(ValueError, match=r"read-only: weight"):
        fastinit.init_(layer, seed=0, strict=False)


def test_progress_is_told_and_an_interrupt_leaves_whole_tensors() -> None:
    told: list[tuple[int, int]] = []
    model, whole = Net(), Net()
    fastinit.init_(whole, seed=0, progress=lambda done, total: told.append((done, total)))
    assert told[0][0] == 0 and told[-1][0] == told[-1][1] and len(told) > 3

    def interrupt(done: int, total: int) -> None:
        if done > total // 3:
            raise KeyboardInterrupt

    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    with pytest.raises(KeyboardInterrupt) as caught:
        fastinit.init_(model, seed=0, progress=interrupt)
    done, left = caught.value.__notes__[0].split("; ")
    assert done.startswith("fastinit had written words.weight") and "again completes" in left
    for name, p in model.named_parameters():
        finished = torch.equal(p, whole.get_parameter(name))
        assert finished or torch.equal(p, before[name])
        assert name not in left or torch.equal(p, before[name])
    fastinit.init_(model, seed=0)
    assert_same_state(model, whole)


def test_inside_other_scopes() -> None:
    """What surrounds the call has no say."""
    expected = Net()
    fastinit.init_(expected, seed=0)
    for scope in (torch.device("meta"), fastinit.patch(seed=9), torch.inference_mode()):
        model = Net()
        with scope:
            fastinit.init_(model, seed=0)
        assert_same_state(model, expected)
    model = Net()
    with fastinit.deferred(seed=9):
        fastinit.init_(model, seed=0)
    assert_same_state(model, expected)


class Last(nn.Module):
    """A constructor that tells layers apart, by an argument and by a name that it does not keep."""

    def __init__(self, width: int, with_scale: bool, dtype: torch.dtype = torch.bfloat16) -> None:
        super().__init__()
        last = nn.Linear(width, 40)
        self.layers = nn.Sequential(nn.Linear(width, width), last)
        self.scale = None
        if with_scale:
            self.scale = nn.Parameter(torch.zeros(width))
            nn.init.normal_(self.scale, std=0.5)
        self.register_buffer("floor", torch.tensor(-1e-6, dtype=dtype))
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=0.01 if layer is last else 0.3)


def test_what_a_constructor_does_not_keep_is_told_by_what_it_made() -> None:
    model = on_meta(lambda: Last(40, True, torch.float32))
    report = fastinit.materialize_(model, "cpu", seed=0)
    assert [report[name].std for name in ("layers.0.weight", "layers.1.weight", "scale")] == [
        0.3, 0.01, 0.5
    ]  # fmt: skip
    assert report["scale"].key == fastinit.Key(0).fold_in("scale")
    assert model.floor == torch.tensor(-1e-6)
    without = on_meta(lambda: Last(40, False))
    assert len(fastinit.materialize_(without, "cpu", seed=0)) == 4


def test_a_module_under_a_name_that_is_lost_is_a_problem_and_no_guess() -> None:
    class Lost(nn.Module):
        def __init__(self, layers: list[nn.Module]) -> None:
            super().__init__()
            last = nn.Linear(4, 4)
            self.inner = nn.ModuleDict({"a": nn.Linear(4, 4), "b": last})
            for layer in self.modules():
                if isinstance(layer, nn.Linear):
                    nn.init.constant_(layer.weight, 1.0 if layer is last else 2.0)

    with pytest.raises(ValueError, match="last is a module that is not known by that name"):
        fastinit.init_(Lost([]), seed=0)


def test_an_own_reset_may_be_any_callable_and_keeps_no_module_alive() -> None:
    class Resets:
        __hash__ = None  # type: ignore[assignment]

        def __init__(self, layer: nn.Linear) -> None:
            self.weight = layer.weight  # the stand-in takes its place in the layer alone

        def __call__(self) -> None:
            calls.append("object")

    calls: list[str] = []
    layer = nn.Linear(3, 3, bias=False)
    layer.reset_parameters = Resets(layer)  # type: ignore[method-assign, assignment]
    with pytest.raises(ValueError, match="no code of the model initializes weight"):
        fastinit.init_(layer, seed=0)
    assert calls == ["object"]

    layer = nn.Linear(3, 3, bias=False)

    def reset(self: nn.Linear, held: nn.Linear = layer) -> None:
        nn.init.constant_(held.weight, 2.0)

    layer.reset_parameters = types.MethodType(reset, layer)  # type: ignore[method-assign]
    fastinit.init_(layer, seed=0)
    assert (layer.weight == 2).all()
    gone = weakref.ref(layer)
    del layer, reset
    gc.collect()
    assert gone() is None
