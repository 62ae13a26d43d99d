"""`native` where a constructor used a value and did not keep it: told by the call that made it.

The oracle is the model itself, which the same constructor makes.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from _models import on_meta
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import orthogonal, weight_norm

import fastinit


class Scale(nn.Module):
    """Keeps none of its arguments."""

    def __init__(self, width: int, start: float = 1.0, *, power: int = 1) -> None:
        super().__init__()
        self.weight = nn.Parameter(start**power * torch.ones(width))


class Half(Scale):
    def __init__(self, width: int, **kwargs: Any) -> None:
        super().__init__(width, start=0.5, **kwargs)


class Around(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner


class Direct(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        options = {"power": 2}
        start = 3.0
        self.plain = Scale(4)
        self.place = Scale(4, 2.0)
        self.word = Scale(4, start=start)
        self.splat = Scale(4, start=start, **options)
        self.half = Half(4, power=3)
        start = 5.0  # comes too late
        self.late = Scale(4, start)


class Contained(nn.Module):
    def __init__(self, small: bool = True) -> None:
        super().__init__()
        self.small = small
        kind = functools.partial(Scale, power=2)
        self.sequence = nn.Sequential(Scale(4, 2.0), nn.ReLU(), Around(kind(4, 3.0)))
        self.named = nn.Sequential(OrderedDict([("a", Scale(4)), ("b", Scale(4, start=4.0))]))
        self.dictionary = nn.ModuleDict({"x": Scale(4, 5.0), "y": Scale(4, 6.0)})
        self.blocks = nn.ModuleList([Scale(4, start=0.1 * i) for i in range(1, 4)])
        self.pairs = nn.ModuleList(Scale(n, s) for n, s in zip((4, 5), (7.0, 8.0), strict=True))
        self.starred = nn.Sequential(*[Around(Scale(4, start=9.0 + i)) for i in range(2)])
        self.either = Scale(4, 10.0) if small else Scale(4, 11.0)
        if small:
            self.chosen = Scale(4, 12.0)
        else:
            self.chosen = Scale(4, 13.0)
        self.add_module("added", Scale(4, 14.0))
        first = Scale(4, 15.0)
        self.local = first


@pytest.mark.parametrize("make", [Direct, Contained, lambda: Contained(False)])
def test_arguments_are_read_off_the_call(make: Callable[[], nn.Module]) -> None:
    stock, model = make(), on_meta(make)
    report = fastinit.materialize_(model, "cpu", seed=0)
    expected = {name: p.tolist() for name, p in stock.named_parameters()}
    assert {name: p.tolist() for name, p in model.named_parameters()} == expected
    assert report.warnings == () and not any(record.note for record in report)


def test_wrappers_do_not_hide_the_call() -> None:
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    model = Contained()
    model.blocks[1] = checkpoint_wrapper(model.blocks[1])
    before = model.blocks[1]._checkpoint_wrapped_module.weight.detach().clone()
    assert fastinit.init_(model, seed=0).warnings == ()
    assert torch.equal(model.blocks[1]._checkpoint_wrapped_module.weight, before)


class Passing(nn.Module):
    def __init__(self, start: float = 0.25, again: bool = False) -> None:
        super().__init__()
        self.scale = Scale(4, start)
        self.other = Scale(4)
        self.own = nn.Parameter(torch.zeros(3))
        if again:
            nn.init.ones_(self.own)


def test_what_only_the_caller_knows_is_assumed_and_noted() -> None:
    report = fastinit.materialize_(on_meta(lambda: Passing(0.5)), "cpu", seed=0)
    notes = {record.name: record.note for record in report}
    assert notes == {"own": "", "scale.weight": "assumes start=0.25", "other.weight": ""}
    assert "Scale(start=0.25) ran again with defaults" in report.warnings
    assert "Passing(again=False) ran again with defaults" in report.warnings


def test_a_parameter_written_afterwards_rests_on_nothing() -> None:
    class Written(nn.Module):
        def __init__(self, start: float = 1.0) -> None:
            super().__init__()
            self.a = nn.Parameter(start * torch.ones(3))
            self.b = nn.Parameter(start * torch.ones(3))
            nn.init.normal_(self.a)

    report = fastinit.init_(Written(), seed=0)
    assert [record.note for record in report] == ["", "assumes start=1.0"]


class Odd(nn.Module):
    """Its blocks are not made where they are kept, or not by one call."""

    def __init__(self, tensor: Tensor, unknown: bool) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        for i in range(2):
            blocks.append(Scale(4, start=float(i + 2)))
        self.blocks = nn.Sequential(*blocks)
        if unknown:
            self.one = Scale(4, 2.0)
        else:
            self.one = Scale(4, 3.0)


def test_a_call_that_is_not_found_is_no_guess() -> None:
    report = fastinit.init_(Odd(torch.ones(2), True), seed=0)
    assert {record.note for record in report} == {"assumes power=1, start=1.0"}


def test_methods_that_are_said_to_initialize_others_run() -> None:
    class Part(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 3)

        def local_init(self) -> None:
            nn.init.eye_(self.linear.weight)

    def _weight_init(module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.constant_(module.bias, 2.0)

    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part = Part()
            for part in self.modules():
                if hasattr(part, "local_init"):
                    part.local_init()
            for part in self.modules():
                _weight_init(part)

    model = on_meta(Whole)
    fastinit.materialize_(model, "cpu", seed=0)
    assert torch.equal(model.part.linear.weight, torch.eye(3))
    assert (model.part.linear.bias == 2).all()


class Normed(nn.Module):
    def __init__(self, square: nn.Module) -> None:
        super().__init__()
        self.conv = weight_norm(nn.Conv1d(8, 6, 3))
        self.square = square


def test_parametrized_weights_have_the_law_they_had_before() -> None:
    square = orthogonal(nn.Linear(5, 5))  # which torch does not make on meta
    model, other = on_meta(lambda: Normed(square)), Normed(orthogonal(nn.Linear(5, 5)))
    report = fastinit.materialize_(model, "cpu", seed=0)
    fastinit.init_(other, seed=0)
    key = fastinit.Key(0).fold_in("conv.weight")
    expected = fastinit.kaiming_uniform_(torch.empty(6, 8, 3), a=5**0.5, key=key)
    for one in (model, other):
        # weight_norm computes norm * weight / norm.
        torch.testing.assert_close(one.conv.weight.detach(), expected, rtol=1e-6, atol=0)
        identity = one.square.weight @ one.square.weight.T
        torch.testing.assert_close(identity.detach(), torch.eye(5), rtol=0, atol=1e-5)
        assert type(one.conv).__name__ == "ParametrizedConv1d"
        assert "weight" not in one.conv._parameters
    assert report["conv.weight"].key == key and report.warnings == ()
    assert fastinit.verify(other, report.manifest()) == []


def test_a_parametrization_that_cannot_be_undone_is_named() -> None:
    class Double(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * x

    layer = nn.Linear(3, 3)
    parametrize.register_parametrization(layer, "weight", Double())
    with pytest.raises(ValueError, match=r"parametrizations\.weight\.original"):
        fastinit.init_(layer, seed=0)
