"""Build a real language model twice, with stock initialization and with fastinit, and compare.

    python examples/demo.py                  # about 265 million parameters, under two minutes
    python examples/demo.py --layers 2 --hidden 256 --intermediate 1024 --vocabulary 8000

The model is transformers' LlamaForCausalLM with a configuration made here; nothing is downloaded.
Three ways to get the same model with random weights are timed:

  stock constructor   LlamaForCausalLM(config). torch.nn layers fill every weight when they are
                      made (uniform), then transformers fills it again (normal).
  meta + torch.nn.init   the modules are made on the meta device, where init does nothing, get
                      memory with to_empty, and every weight is filled once, by torch.nn.init.
  meta + fastinit     the same, filled by fastinit, each weight under a key made of the seed and
                      its own name.

The second shows how much of the gain is owed to filling once, the third what fastinit adds. Then
every weight matrix is tested against the normal law that the configuration asks for, and so is one
model with a wrong sampler, which the test has to refuse. Exit status 0 only if all of that holds.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterator
from time import perf_counter

import numpy as np
import torch
from scipy import stats
from scipy.special import ndtr
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

import fastinit

ALPHA = 1e-3  # family-wise: how often a correct model would be refused
SAMPLE = 1 << 19  # elements per matrix; enough to see a standard deviation that is 2 % off
WRONG_FACTOR = 1.02

FillNormal = Callable[[Tensor, str, float], object]


def make_config(
    hidden: int = 1024,
    layers: int = 8,
    intermediate: int = 4096,
    vocabulary: int = 64000,
    tied: bool = False,
) -> LlamaConfig:
    heads = max(1, hidden // 64)
    return LlamaConfig(
        hidden_size=hidden,
        num_hidden_layers=layers,
        intermediate_size=intermediate,
        vocab_size=vocabulary,
        num_attention_heads=heads,
        num_key_value_heads=max(1, heads // 4),
        max_position_embeddings=2048,
        pad_token_id=0,
        tie_word_embeddings=tied,
    )


def build_stock(config: LlamaConfig, seed: int = 0) -> PreTrainedModel:
    torch.manual_seed(seed)
    return LlamaForCausalLM(config)


def build_with_stock_fill(config: LlamaConfig, seed: int = 0) -> PreTrainedModel:
    torch.manual_seed(seed)
    return _build(config, lambda weight, name, std: nn.init.normal_(weight, std=std))


def build_with_fastinit(config: LlamaConfig, seed: int = 0, factor: float = 1.0) -> PreTrainedModel:
    """`factor` other than 1 makes the wrong model that the test below must refuse."""
    key = fastinit.Key(seed)

    def fill(weight: Tensor, name: str, std: float) -> object:
        return fastinit.normal_(weight, std=std * factor, key=key.fold_in(name))

    return _build(config, fill)


def _build(config: LlamaConfig, fill: FillNormal) -> PreTrainedModel:
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    model.to_empty(device="cpu")
    model.tie_weights()  # to_empty gives tied parameters memory of their own
    with torch.no_grad():
        initialize(model, fill)
    return model


def initialize(model: PreTrainedModel, fill: FillNormal) -> None:
    """Give every parameter and buffer of uninitialized memory its value, each exactly once.

    Linear and Embedding: normal with `config.initializer_range`, biases and the padding row zero.
    All else (norms; buffers that no state dict holds, such as the rotary frequencies) goes to
    transformers' own `_init_weights`, which draws no random numbers for it.
    """
    std = model.config.initializer_range
    pending = {id(p) for p in model.parameters()}
    for prefix, module in model.named_modules():
        own = list(module.parameters(recurse=False)) + list(module.buffers(recurse=False))
        if isinstance(module, (nn.Linear, nn.Embedding)):
            if id(module.weight) in pending:  # a tied weight keeps the name it was first met under
                fill(module.weight, f"{prefix}.weight", std)
                if getattr(module, "padding_idx", None) is not None:
                    nn.init.zeros_(module.weight[module.padding_idx])
            if getattr(module, "bias", None) is not None:
                nn.init.zeros_(module.bias)
        elif own and not module.__class__.__name__.endswith(("RMSNorm", "RotaryEmbedding")):
            raise TypeError(f"{prefix}: no rule for a {module.__class__.__name__}")
        elif own:
            model._init_weights(module)
        pending -= {id(tensor) for tensor in own}


def matrices(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """Every weight matrix without its padding row, by name; tied ones once."""
    padding = model.get_input_embeddings().padding_idx
    for name, weight in model.named_parameters():
        if weight.ndim != 2:
            continue
        if name.endswith("embed_tokens.weight") and padding is not None:
            assert padding == 0
            weight = weight[1:]
        yield name, weight.detach()


def refused_matrices(model: PreTrainedModel, alpha: float = ALPHA) -> tuple[dict[str, float], int]:
    """Kolmogorov-Smirnov of every weight matrix against Normal(0, initializer_range).

    Returns the refused ones with their p-values, and how many were tested. Holm's procedure keeps
    the probability that any correct matrix is refused below alpha. Large matrices are sampled at a
    fixed odd stride: an even one could miss every second lane of the generator.
    """
    p_values = {}
    std = model.config.initializer_range
    for name, weight in matrices(model):
        stride = max(1, math.ceil(weight.numel() / SAMPLE) | 1)
        sample = np.sort(weight.reshape(-1)[::stride].numpy()).astype(np.float64)
        p_values[name] = float(stats.ks_1samp(sample, lambda x: ndtr(x / std)).pvalue)
    refused = {}
    for rank, name in enumerate(sorted(p_values, key=p_values.__getitem__)):
        if not p_values[name] <= alpha / (len(p_values) - rank):
            break
        refused[name] = p_values[name]
    return refused, len(p_values)


def faults(model: PreTrainedModel, like: PreTrainedModel) -> list[str]:
    """What is wrong with the parts that are not random, held against the stock model."""
    expected = {**dict(like.named_parameters()), **dict(like.named_buffers())}
    actual = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    found = [f"{name}: missing or unexpected" for name in expected.keys() ^ actual.keys()]
    for name in sorted(expected.keys() & actual.keys()):
        if expected[name].ndim < 2 and not torch.equal(expected[name], actual[name]):
            found.append(f"{name}: differs from stock's")
    embedding = model.get_input_embeddings()
    if embedding.padding_idx is not None and embedding.weight[embedding.padding_idx].any():
        found.append("the padding row is not zero")
    with torch.inference_mode():
        tokens = torch.arange(1, 65)[None]
        loss = float(model(input_ids=tokens, labels=tokens).loss)
    guess = math.log(model.config.vocab_size)
    if not abs(loss - guess) < 1.0:
        found.append(f"loss {loss:.2f} on arbitrary tokens, far from ln(vocabulary) = {guess:.2f}")
    return found


def timed(
    build: Callable[[LlamaConfig, int], PreTrainedModel], config: LlamaConfig, seed: int
) -> tuple[PreTrainedModel, float]:
    start = perf_counter()
    model = build(config, seed)
    return model, perf_counter() - start


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Build a Llama with stock init and with fastinit.")
    for name, default in {
        "hidden": 1024,
        "layers": 8,
        "intermediate": 4096,
        "vocabulary": 64000,
    }.items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"default {default}")
    parser.add_argument("--tied", action="store_true", help="tie the output to the embedding")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    size = options.hidden, options.layers, options.intermediate, options.vocabulary
    config = make_config(*size, tied=options.tied)
    build_stock(make_config(64, 1, 64, 64))  # what is imported on first use is not timed
    build_with_fastinit(make_config(64, 1, 64, 64))

    print(
        __doc__.split("\n\n")[0], f"{torch.get_num_threads()} threads, torch {torch.__version__}.\n"
    )
    stock, stock_seconds = timed(build_stock, config, options.seed)
    print(f"{sum(p.numel() for p in stock.parameters()) / 1e6:.0f} million parameters, float32")
    print(f"  stock constructor     {stock_seconds:7.2f} s   every weight filled twice")
    once, once_seconds = timed(build_with_stock_fill, config, options.seed)
    del once
    print(f"  meta + torch.nn.init  {once_seconds:7.2f} s   every weight filled once")
    model, seconds = timed(build_with_fastinit, config, options.seed)
    print(f"  meta + fastinit       {seconds:7.2f} s   the same, by fastinit")
    print(
        f"  fastinit is {stock_seconds / seconds:.1f} times as fast as the stock constructor, "
        f"{once_seconds / seconds:.1f} times as fast as one stock fill\n"
    )

    found = faults(model, stock)
    refused_stock, _ = refused_matrices(stock)
    refused, tested = refused_matrices(model)
    found += [f"{name}: not the normal law, p = {p:.1e}" for name, p in refused.items()]
    law = f"Normal(0, {config.initializer_range})"
    print(f"Kolmogorov-Smirnov of {tested} matrices against {law}, Holm, alpha = {ALPHA:g}")
    print(f"  stock                      {len(refused_stock):3d} refused")
    print(f"  fastinit                   {len(refused):3d} refused")
    del stock
    again = build_with_fastinit(config, options.seed)
    pairs = zip(model.parameters(), again.parameters(), strict=True)
    if not all(torch.equal(a, b) for a, b in pairs):
        found.append("the same seed gave another model")
    del model, again
    wrong, _ = refused_matrices(build_with_fastinit(config, options.seed, WRONG_FACTOR))
    print(f"  a std 2 % too large        {len(wrong):3d} refused (some must be)")
    if not wrong:
        found.append("the test is blind: it let a wrong sampler pass")

    for fault in found:
        print(f"FAULT {fault}")
    print(
        "FAILED"
        if found
        else "passed: the law, the other parameters and buffers, same seed same bits"
    )
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
