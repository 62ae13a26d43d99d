"""Data-dependent scales: exact after one pass, by role, for every kind of layer, and nothing else.

The oracle is always a second pass of the model with plain hooks, after `calibrate_` is through.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from _clients import timm, transformers
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import fastinit
from fastinit.recipes import depth, sqrt

WIDTH = 64
Layers = (nn.Linear, nn.modules.conv._ConvNd)


def batch(*shape: int, key: int = 0) -> Tensor:
    return fastinit.normal_(torch.empty(shape), key=key)


def mlp(activation: Callable[[], nn.Module] = nn.SiLU, count: int = 6) -> nn.Sequential:
    parts = [part for _ in range(count) for part in (nn.Linear(WIDTH, WIDTH), activation())]
    model = nn.Sequential(*parts)
    fastinit.init_(model, seed=0)
    return model


def products(module: nn.Module, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
    """W x of every layer, from a pass of its own."""
    found: dict[str, Tensor] = {}

    def hook(name: str, part: nn.Module) -> Any:
        def note(_: nn.Module, __: Any, output: Tensor) -> None:
            bias = 0.0 if part.bias is None else part.bias
            if part.bias is not None and isinstance(part, nn.modules.conv._ConvNd):
                bias = part.bias.view(-1, *([1] * len(part.kernel_size)))
            found.setdefault(name, (output - bias).double())

        return part.register_forward_hook(note)

    handles = [
        hook(name, part)
        for name, part in module.named_modules()
        if isinstance(part, Layers) or type(part).__name__ == "Conv1D"
    ]
    with torch.no_grad():
        module(*args, **kwargs)
    for handle in handles:
        handle.remove()
    return found


def std(values: Tensor) -> float:
    return float(values.detach().std(correction=0))


# ------------------------------------------------------------------------------------ exactness


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_layer_has_its_target(dtype: torch.dtype) -> None:
    model, x = mlp().to(dtype), batch(256, WIDTH).to(dtype)
    stds = {name: std(value) for name, value in products(model, x).items()}
    result = fastinit.calibrate_(model, x)
    after = products(model, x)
    assert [std(value) for value in after.values()] == pytest.approx([1.0] * 6, rel=1e-5)
    assert stds["10"] < 0.5  # it was not so before
    assert [record.after for record in result] == pytest.approx([1.0] * 6, rel=1e-5)
    assert result.records[0].before == pytest.approx(stds["0"], rel=1e-5)


def test_scales_are_those_of_the_weights() -> None:
    model = mlp()
    before = copy.deepcopy(model.state_dict())
    result = fastinit.calibrate_(model, batch(256, WIDTH))
    for record in result:
        now = model.state_dict()[record.name]
        assert torch.allclose(now, before[record.name] * record.scale, rtol=1e-6)
        bias = record.name.replace("weight", "bias")
        assert torch.equal(model.state_dict()[bias], before[bias])


def test_what_runs_in_the_pass_is_the_calibrated_model() -> None:
    """The hook's output is that of the scaled weights: later passes see the same."""
    model, x = mlp(), batch(256, WIDTH)
    during: list[Tensor] = []
    handle = model.register_forward_hook(lambda _, __, output: during.append(output))
    fastinit.calibrate_(model, x)
    handle.remove()
    assert torch.allclose(model(x), during[0], rtol=1e-4, atol=1e-5)


def test_a_wrong_scale_is_noticed() -> None:
    model, x = mlp(), batch(256, WIDTH)
    fastinit.calibrate_(model, x)
    with torch.no_grad():
        model[4].weight *= 1.03
    stds = [std(value) for value in products(model, x).values()]
    assert stds != pytest.approx([1.0] * 6, rel=1e-2)


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: nn.Conv1d(8, 12, 3), (64, 8, 20)),
        (lambda: nn.Conv2d(8, 12, 3, padding=1), (16, 8, 6, 6)),
        (lambda: nn.Conv3d(4, 6, 2), (8, 4, 5, 5, 5)),
        (lambda: nn.ConvTranspose1d(8, 12, 3), (64, 8, 20)),
        (lambda: nn.ConvTranspose2d(8, 12, 3, bias=False), (16, 8, 6, 6)),
        (lambda: nn.ConvTranspose3d(4, 6, 2), (8, 4, 5, 5, 5)),
        (lambda: nn.Linear(8, 12), (16, 5, 8)),
    ],
)
def test_layers(make: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(make()), batch(*shape)
    fastinit.calibrate_(model, x)
    assert std(products(model, x)["0"]) == pytest.approx(1.0, rel=1e-5)


def test_bilinear() -> None:
    torch.manual_seed(0)
    model = nn.Bilinear(6, 7, 8)
    fastinit.calibrate_(model, (batch(64, 6), batch(64, 7, key=1)))
    out = model(batch(64, 6), batch(64, 7, key=1)) - model.bias
    assert std(out) == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Conv2d(8, 24, 3, groups=4),
        lambda: nn.ConvTranspose2d(8, 24, 3, groups=4),
        lambda: nn.Conv2d(8, 8, 3, groups=8),
    ],
)
def test_each_group_has_the_target(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(make())
    x = batch(32, 8, 6, 6) * torch.arange(1.0, 9.0).view(-1, 1, 1)  # the groups differ
    result = fastinit.calibrate_(model, x)
    groups = model[0].groups
    parts = products(model, x)["0"].unflatten(1, (groups, -1)).unbind(1)
    assert [std(part) for part in parts] == pytest.approx([1.0] * groups, rel=1e-4)
    assert result.records[0].after == pytest.approx(1.0, rel=1e-5)


def test_groups_with_few_rows_are_left_alone() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(8, 8, 3, groups=8), nn.ReLU(), nn.Conv2d(8, 8, 1))
    before = copy.deepcopy(model.state_dict())
    result = fastinit.calibrate_(model, batch(4, 8, 6, 6))
    assert "fewer than 256" in result.records[0].note and result.records[0].target is None
    assert torch.equal(model[0].weight, before["0.weight"])
    assert result.records[1].after == pytest.approx(1.0, rel=1e-5)


# ------------------------------------------------------------------------------ what is left alone


def test_what_a_norm_follows_is_left_alone_and_the_norm_sees_it_unscaled() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(2),
        nn.LayerNorm(16), nn.Linear(16, 4),
    )  # fmt: skip
    seen: list[Tensor] = []
    model[1].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    before = copy.deepcopy(model.state_dict())
    x = batch(8, 3, 8, 8)
    result = fastinit.calibrate_(model, x)
    assert [record.note for record in result] == ["a norm follows", "a norm follows", ""]
    for name in ("0.weight", "3.weight"):
        assert torch.equal(model.state_dict()[name], before[name])
    assert torch.equal(seen[0], model[0](x))  # reshaped or not, it is the very output
    assert result.records[2].after == pytest.approx(1.0, rel=1e-5)


def test_a_shortcut_around_the_norm_sees_it_unscaled_too() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.norm, self.last = nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            return self.last(x + self.norm(x))

    torch.manual_seed(0)
    model, x = Residual(), batch(64, 8)
    out: list[Tensor] = []
    model.register_forward_hook(lambda _, __, output: out.append(output))
    result = fastinit.calibrate_(model, x)
    assert [record.note for record in result] == ["a norm follows", ""]
    assert torch.allclose(model(x), out[0], atol=1e-5)


def test_a_norm_behind_an_activation_does_not_count() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(inplace=True), nn.LayerNorm(8))
    assert fastinit.calibrate_(model, batch(64, 8)).records[0].note == ""


def test_asked_targets_win() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 8))
    x = batch(64, 8)
    result = fastinit.calibrate_(model, x, targets={"0.weight": 0.5, "2.*": None})
    assert [record.target for record in result] == [0.5, None]
    assert std(products(model, x)["0"]) == pytest.approx(0.5, rel=1e-5)


def test_frozen_parametrized_and_recurrent_weights_are_reported() -> None:
    torch.manual_seed(0)
    frozen = nn.Linear(8, 8).requires_grad_(False)
    normed = nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))
    model = nn.Sequential(frozen, normed, nn.GRU(8, 8))
    before = copy.deepcopy(model.state_dict())
    result = fastinit.calibrate_(model, batch(64, 8))
    notes = {record.name: record.note for record in result}
    assert notes["0.weight"] == "frozen"
    assert "parametrized" in notes.values() and notes["2.weight_ih_l0"] == "recurrent"
    assert all(torch.equal(now, before[name]) for name, now in model.state_dict().items())


# ------------------------------------------------------------------------------------ transformers


def gpt2() -> Any:
    package = transformers()
    config = package.GPT2Config(
        n_layer=3, n_embd=32, n_head=2, vocab_size=64, bos_token_id=0, eos_token_id=0
    )
    torch.manual_seed(0)
    return package.GPT2LMHeadModel(config).eval()


def llama(**more: Any) -> Any:
    package = transformers()
    config = package.LlamaConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=64, **more,
    )  # fmt: skip
    torch.manual_seed(0)
    return package.LlamaForCausalLM(config).eval()


TOKENS = torch.arange(128).view(4, 32) * 37 % 64


def test_gpt2_by_role() -> None:
    model = gpt2()
    before = copy.deepcopy(model.state_dict())
    result = fastinit.calibrate_(model, {"input_ids": TOKENS})
    out = products(model, input_ids=TOKENS)
    for at in range(3):
        block = f"transformer.h.{at}"
        assert std(out[f"{block}.attn.c_proj"]) == pytest.approx(6**-0.5, rel=1e-4)
        assert std(out[f"{block}.mlp.c_proj"]) == pytest.approx(6**-0.5, rel=1e-4)
        assert std(out[f"{block}.mlp.c_fc"]) == pytest.approx(1.0, rel=1e-4)
        assert std(out[f"{block}.attn.c_attn"][..., 64:]) == pytest.approx(1.0, rel=1e-4)
        q_and_k = model.state_dict()[f"{block}.attn.c_attn.weight"][:, :64]
        assert torch.equal(q_and_k, before[f"{block}.attn.c_attn.weight"][:, :64])
    assert torch.equal(model.transformer.wte.weight, before["transformer.wte.weight"])
    assert model.lm_head.weight is model.transformer.wte.weight
    left = {record.name: record.note for record in result if record.target is None}
    assert left["transformer.wte.weight"] == left["lm_head.weight"] == "embedding"
    assert left["transformer.h.0.attn.c_attn.weight[0:32]"] == "sets the softmax"


def test_llama_by_role() -> None:
    model = llama()
    result = fastinit.calibrate_(model, TOKENS)
    targets = {record.name: record.target for record in result}
    layer = "model.layers.2"
    assert targets[f"{layer}.self_attn.q_proj.weight"] is None
    assert targets[f"{layer}.self_attn.v_proj.weight"] == 1.0
    assert targets[f"{layer}.self_attn.o_proj.weight"] == pytest.approx(8**-0.5)
    assert targets[f"{layer}.mlp.down_proj.weight"] == pytest.approx(8**-0.5)
    assert targets["lm_head.weight"] is None and targets["model.embed_tokens.weight"] is None
    out = products(model, TOKENS)
    assert std(out["model.layers.2.mlp.down_proj"]) == pytest.approx(8**-0.5, rel=1e-4)


def test_packed_projections_of_phi3_go_by_slices() -> None:
    package = transformers()
    config = package.Phi3Config(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=64, pad_token_id=0, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = package.Phi3ForCausalLM(config).eval()
    fastinit.calibrate_(model, TOKENS)
    out = products(model, TOKENS)
    assert std(out["model.layers.0.self_attn.qkv_proj"][..., 48:]) == pytest.approx(1, rel=1e-4)
    halves = out["model.layers.0.mlp.gate_up_proj"].chunk(2, -1)
    assert [std(half) for half in halves] == pytest.approx([1.0, 1.0], rel=1e-4)


def test_slices_can_be_told() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(8, 12)), batch(64, 8)
    fastinit.calibrate_(model, x, targets={"**": ((4, None), (2, 0.5), (6, 2.0))})
    out = products(model, x)["0"]
    assert [std(out[:, 4:6]), std(out[:, 6:])] == pytest.approx([0.5, 2.0], rel=1e-5)


def test_interleaved_heads_are_left_alone() -> None:
    package = transformers()
    config = package.GPTNeoXConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        vocab_size=64,
    )  # fmt: skip
    torch.manual_seed(0)
    result = fastinit.calibrate_(package.GPTNeoXForCausalLM(config).eval(), TOKENS)
    notes = {record.name: record.note for record in result}
    assert notes["gpt_neox.layers.0.attention.query_key_value.weight"] == "packed, order unknown"


@pytest.mark.parametrize("train", [True, False])
def test_torch_encoder(train: bool) -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).train(train)
    x = batch(8, 16, 32)
    fastinit.calibrate_(model, x)
    attention = model.layers[0].self_attn
    out = attention(x, x, x, need_weights=False)[0] - attention.out_proj.bias
    assert std(out) == pytest.approx(0.5, rel=1e-4)


def test_vit_of_timm() -> None:
    package = timm()
    torch.manual_seed(0)
    model = package.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, depth=3, embed_dim=32, num_heads=2
    ).eval()
    x = batch(8, 3, 32, 32)
    fastinit.calibrate_(model, x)
    out = products(model, x)
    assert std(out["blocks.1.mlp.fc2"]) == pytest.approx(6**-0.5, rel=1e-4)
    assert std(out["blocks.1.attn.qkv"][..., 64:]) == pytest.approx(1.0, rel=1e-4)


def test_experts_with_few_rows_are_left_alone() -> None:
    class Mixture(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q_proj = nn.Linear(8, 8)
            self.experts = nn.ModuleList([nn.ModuleDict({"w1": nn.Linear(8, 8)}) for _ in "ab"])

        def forward(self, x: Tensor) -> Tensor:
            x = self.q_proj(x)
            return torch.cat([self.experts[0]["w1"](x[:300]), self.experts[1]["w1"](x[300:])])

    torch.manual_seed(0)
    result = fastinit.calibrate_(Mixture(), batch(400, 8))
    found = {record.name: record for record in result}
    assert found["experts.0.w1.weight"].after == pytest.approx(1.0, rel=1e-5)
    assert found["experts.1.w1.weight"].target is None
    assert "100 rows" in found["experts.1.w1.weight"].note


def test_targets_take_expressions_and_depth_can_be_told() -> None:
    model = llama()
    rules = {"**.down_proj.weight": 1 / sqrt(depth)}
    result = fastinit.calibrate_(model, TOKENS, targets=rules, depth=16)
    targets = {record.name: record.target for record in result}
    assert targets["model.layers.0.mlp.down_proj.weight"] == pytest.approx(0.25)
    assert targets["model.layers.0.self_attn.o_proj.weight"] == pytest.approx(32**-0.5)


def test_an_ambiguous_depth_has_to_be_told() -> None:
    package = transformers()
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_heads": 4, "vocab_size": 64}
    torch.manual_seed(0)
    config = package.T5Config(num_layers=3, decoder_start_token_id=0, **sizes)
    model = package.T5ForConditionalGeneration(config).eval()
    x = {"input_ids": TOKENS, "decoder_input_ids": TOKENS}
    with pytest.raises(ValueError, match="give depth="):
        fastinit.calibrate_(model, x)
    result = fastinit.calibrate_(model, x, depth={"encoder.**": 3, "decoder.**": 4.5})
    targets = {record.name: record.target for record in result}
    assert targets["encoder.block.0.layer.0.SelfAttention.o.weight"] == pytest.approx(6**-0.5)
    assert targets["decoder.block.2.layer.2.DenseReluDense.wo.weight"] == pytest.approx(9**-0.5)


# --------------------------------------------------------------------------- sharing, precision


def test_a_module_called_twice_is_scaled_at_its_first_use() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(16, 16)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(torch.tanh(self.layer(x)))

    torch.manual_seed(0)
    model, x = Twice(), batch(128, 16)
    out: list[Tensor] = []
    model.register_forward_hook(lambda _, __, output: out.append(output))
    result = fastinit.calibrate_(model, x)
    assert std(model.layer(x) - model.layer.bias) == pytest.approx(1.0, rel=1e-5)
    assert torch.allclose(model(x), out[0], atol=1e-5)
    assert "called 2 times" in result.records[0].note


def test_layers_that_share_a_weight_are_scaled_once() -> None:
    model = mlp(nn.Tanh, 2)
    model[2].weight = model[0].weight
    x = batch(128, WIDTH)
    result = fastinit.calibrate_(model, x)
    assert len(result) == 1 and "2 layers share it" in result.records[0].note
    assert std(products(model, x)["0"]) == pytest.approx(1.0, rel=1e-5)
    assert model[2].weight is model[0].weight


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast(dtype: torch.dtype) -> None:
    model, x = mlp(), batch(256, WIDTH)
    with torch.autocast("cpu", dtype):
        fastinit.calibrate_(model, x)
        stds = [std(value) for value in products(model, x).values()]
    assert stds == pytest.approx([1.0] * 6, rel=0.01)
    assert model[0].weight.dtype == torch.float32


def test_narrow_weights() -> None:
    model, x = mlp().to(torch.bfloat16), batch(256, WIDTH).to(torch.bfloat16)
    fastinit.calibrate_(model, x)
    stds = [std(value) for value in products(model, x).values()]
    assert stds == pytest.approx([1.0] * 6, rel=0.02)


# -------------------------------------------------------------------------- all else as it was


def test_all_else_is_left_as_found() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Dropout(0.5), nn.Conv2d(8, 8, 3), nn.ReLU()
    )
    model[2].eval()
    model[0].weight.grad = torch.ones_like(model[0].weight)
    handle = model[3].register_forward_hook(lambda *_: None)
    hooks = {
        name: (list(part._forward_hooks), list(part._forward_pre_hooks))
        for name, part in model.named_modules()
    }
    training = [part.training for part in model.modules()]
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    same = {name: id(value) for name, value in model.named_buffers()}
    parameters = {name: (id(p), p.requires_grad) for name, p in model.named_parameters()}
    state = torch.get_rng_state()
    fastinit.calibrate_(model, batch(8, 3, 8, 8))
    assert torch.equal(torch.get_rng_state(), state)
    assert [part.training for part in model.modules()] == training
    assert all(torch.equal(value, buffers[name]) for name, value in model.named_buffers())
    assert {name: id(value) for name, value in model.named_buffers()} == same
    assert {name: (id(p), p.requires_grad) for name, p in model.named_parameters()} == parameters
    assert torch.equal(model[0].weight.grad, torch.ones_like(model[0].weight))
    assert hooks == {
        name: (list(part._forward_hooks), list(part._forward_pre_hooks))
        for name, part in model.named_modules()
    }
    handle.remove()


class Reads(TorchDispatchMode):
    """Fails where the host would wait for the device: a number is read from a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        names = ("_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select")
        self.reads += func._schema.name.split("::")[1] in names
        return func(*args, **(kwargs or {}))


@contextmanager
def reads() -> Iterator[Reads]:
    with Reads() as counted:
        yield counted


def test_nothing_is_read_from_the_device_during_the_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    from fastinit.diagnostics.calibration import run as module

    model, x = mlp(count=20), batch(256, WIDTH)
    counts = []
    inner = module._pass

    def counted(*args: Any) -> None:
        with reads() as seen:
            inner(*args)
        counts.append(seen.reads)

    monkeypatch.setattr(module, "_pass", counted)
    fastinit.calibrate_(model, x)
    assert counts == [0]
    with reads() as seen:  # the guard does see one
        float(x.sum())
    assert seen.reads == 1


# ------------------------------------------------------------------------------------------- lsuv


def test_lsuv_is_orthogonal_and_of_unit_variance() -> None:
    model, x = mlp(nn.Tanh), batch(256, WIDTH)
    fastinit.lsuv_(model, x, seed=3)
    for value in products(model, x).values():
        assert std(value) == pytest.approx(1.0, rel=1e-5)
    weight = model[4].weight.detach().double()
    square = weight @ weight.T
    assert torch.allclose(square / square[0, 0], torch.eye(WIDTH).double(), atol=1e-5)


def test_lsuv_is_keyed_by_name() -> None:
    one, other, x = mlp(), mlp(), batch(256, WIDTH)
    fastinit.lsuv_(one, x, seed=3)
    torch.manual_seed(9)
    fastinit.lsuv_(other, x, seed=3)
    assert torch.equal(one[2].weight, other[2].weight)
    key = fastinit.Key(3).fold_in("0.weight")
    expected = fastinit.orthogonal_(torch.empty(WIDTH, WIDTH), key=key)
    ratio = one[0].weight / expected
    assert torch.allclose(ratio, ratio[0, 0].expand_as(ratio), rtol=1e-4)


def test_lsuv_draws_from_the_generator() -> None:
    models = [mlp(), mlp()]
    for model in models:
        generator = torch.Generator().manual_seed(5)
        fastinit.lsuv_(model, batch(64, WIDTH), generator=generator)
    assert torch.equal(models[0][0].weight, models[1][0].weight)
    with pytest.raises(ValueError, match="exclude"):
        fastinit.lsuv_(models[0], batch(64, WIDTH), seed=1, generator=generator)


def test_lsuv_of_groups() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Conv2d(8, 16, 1, groups=4)), batch(32, 8, 4, 4)
    fastinit.lsuv_(model, x, seed=0)
    parts = products(model, x)["0"].unflatten(1, (4, -1)).unbind(1)
    assert [std(part) for part in parts] == pytest.approx([1.0] * 4, rel=1e-4)
    group = model[0].weight[:4, :, 0, 0]
    square = group.T @ group
    assert torch.allclose(square / square[0, 0], torch.eye(2), atol=1e-5)


# -------------------------------------------------------------------------------------- bad input


def refused(model: nn.Module, x: Any, kind: type[Exception], words: str, **more: Any) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()} if model else {}
    for function in (fastinit.calibrate_, fastinit.lsuv_):
        with pytest.raises(kind, match=words):
            function(model, x, **more)
        for name, value in model.state_dict().items():
            assert torch.equal(value, before[name])
        assert not any(part._forward_hooks for part in model.modules())


def test_bad_batches() -> None:
    model = mlp()
    refused(model, batch(8, 5), RuntimeError, r"batch, of shape \(8, 5\)")
    refused(model, batch(1, WIDTH), ValueError, "two rows")
    refused(model, torch.tensor(1.0), ValueError, "two rows")
    refused(model, (), TypeError, "batch must be a tensor")
    refused(model, "text", TypeError, "batch must be a tensor")
    refused(model, {"wrong": batch(8, WIDTH)}, TypeError, "wrong")


def test_bad_targets() -> None:
    model, x = mlp(), batch(8, WIDTH)
    refused(model, x, ValueError, "matches nothing", targets={"nowhere.weight": 1.0})
    refused(model, x, ValueError, "above 0", targets={"**": -1.0})
    refused(model, x, TypeError, "number", targets={"**": "one"})
    refused(model, x, TypeError, "targets must map", targets=1.0)
    refused(model, x, ValueError, "slices of 3", targets={"0.weight": ((3, 1.0),)})


def test_modules_that_cannot_be_measured() -> None:
    x = batch(8, WIDTH)
    for function in (fastinit.calibrate_, fastinit.lsuv_):
        with pytest.raises(ValueError, match="no parameters"):
            function(nn.ReLU(), x)
        with pytest.raises(ValueError, match="lazy"):
            function(nn.LazyLinear(4), x)
        with pytest.raises(ValueError, match="meta"):
            function(nn.Linear(4, 4, device="meta"), x)
        with pytest.raises(TypeError, match="module must be"):
            function(F.relu, x)
        with pytest.raises(RuntimeError, match="before torch.compile"):
            function(torch.compile(mlp()), x)
        inside = mlp()
        inside[2].compile()
        with pytest.raises(RuntimeError, match="2 of module is compiled"):
            function(inside, x)


class OwnError(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__(one, two)


def test_hooks_that_raise() -> None:
    model = mlp()

    def fails(*_: Any) -> None:
        raise OwnError(1, 2)

    handle = model[6].register_forward_hook(fails)
    before = copy.deepcopy(model.state_dict())
    for function in (fastinit.calibrate_, fastinit.lsuv_):
        with pytest.raises(OwnError):
            function(model, batch(8, WIDTH))
        assert all(torch.equal(v, before[name]) for name, v in model.state_dict().items())
        assert sum(len(part._forward_hooks) for part in model.modules()) == 1
    handle.remove()


def test_values_that_are_not_finite_are_reported() -> None:
    model = mlp()
    with torch.no_grad():
        model[4].weight[0, 0] = float("nan")
    before = copy.deepcopy(model.state_dict())
    result = fastinit.calibrate_(model, batch(64, WIDTH))
    notes = {record.name: record.note for record in result}
    assert notes["2.weight"] == "" and notes["4.weight"] == notes["10.weight"] == "not finite"
    assert "not finite: 4.weight, the first of 4" in str(result)
    assert torch.equal(model[6].weight, before["6.weight"])


def test_layers_without_signal_are_reported() -> None:
    model = mlp()
    nn.init.zeros_(model[4].weight)
    result = fastinit.calibrate_(model, batch(64, WIDTH))
    assert {r.name: r.note for r in result}["4.weight"] == "no signal"
    assert not model[4].weight.any()


def test_the_table_fits_a_terminal() -> None:
    text = str(fastinit.calibrate_(gpt2(), TOKENS))
    assert max(map(len, text.splitlines())) <= 80
    assert "transformer.h.0.attn.c_attn[64:96]" in text
