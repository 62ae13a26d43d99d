"""Build a real language model with stock initialization and with fastinit, and compare.

    python examples/demo.py                  # about 250 million parameters
    python examples/demo.py --layers 2 --hidden 256 --intermediate 1024 --vocabulary 8000

The model is transformers' LlamaForCausalLM with a configuration made here; nothing is downloaded.
Its constructor fills every weight twice: torch.nn layers when they are made (uniform), and then
transformers (normal). It is timed as it is, and

  under fastinit.patch      both fills are fastinit's;
  under fastinit.deferred   only the fills that matter run, together, at the end.

Each way is run several times, in turns, and its model is released before the next. New memory has a
price of its own, the higher the first time, when the host of a virtual machine may have to provide
it. So that no way pays for another, tensors of the model's size get zeros before each turn; their
time is told too.

Then every weight matrix is tested against the normal law that the configuration asks for, and so is
a model with a wrong standard deviation, which the test has to refuse. Exit status 0 only if all of
that holds, and if the same seed gives the same bits by either way.
"""

from __future__ import annotations

import argparse
import gc
import math
import sys
from collections.abc import Callable, Iterator
from functools import partial
from statistics import median
from time import perf_counter

import numpy as np
import torch
from scipy import stats
from scipy.special import ndtr
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

import fastinit

ALPHA = 1e-3  # family-wise: how often a correct model would be refused
SAMPLE = 1 << 19  # elements per matrix; enough to see a standard deviation that is 2 % off
WRONG_FACTOR = 1.02

STOCK, PATCHED, DEFERRED = "stock constructor", "under fastinit.patch", "under fastinit.deferred"


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


def build_patched(config: LlamaConfig, seed: int = 0) -> PreTrainedModel:
    with fastinit.patch(seed=seed):
        return LlamaForCausalLM(config)


def build_deferred(config: LlamaConfig, seed: int = 0) -> PreTrainedModel:
    with fastinit.deferred(seed=seed):
        return LlamaForCausalLM(config)


WAYS = {STOCK: build_stock, PATCHED: build_patched, DEFERRED: build_deferred}


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


def seconds_of(way: Callable[[], object]) -> float:
    """Seconds until the way returns, without those in which its result is released."""
    gc.collect()
    start = perf_counter()
    result = way()
    seconds = perf_counter() - start
    del result
    return seconds


def compare_times(config: LlamaConfig, seed: int, rounds: int) -> None:
    """Print the median and the first time of each way, and what the rest of ours is."""
    with torch.device("meta"):
        shapes = [parameter.shape for parameter in LlamaForCausalLM(config).parameters()]
    memory: list[float] = []
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(rounds):
        for name, build in WAYS.items():
            memory.append(seconds_of(lambda: [torch.empty(shape).zero_() for shape in shapes]))
            seconds[name].append(seconds_of(partial(build, config, seed)))

    count = sum(shape.numel() for shape in shapes)
    print(f"\n{count / 1e6:.0f} million parameters, float32; {rounds} times each, in turns")
    print(f"  {'':24s} median    first")
    for name, times in seconds.items():
        told = f"{median(seconds[STOCK]) / median(times):8.1f} times as fast as stock"
        print(
            f"  {name:24s}{median(times):6.2f} s {times[0]:6.2f} s{told if name != STOCK else ''}"
        )
    print(
        "The rest is modules made in Python, and new memory: zeros in as much of it take"
        f" {median(memory):.2f} s ({memory[0]:.2f} s the first time)."
    )


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
    parser.add_argument(
        "--rounds", type=int, default=3, help="times that each way is run, default 3"
    )
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    size = options.hidden, options.layers, options.intermediate, options.vocabulary
    config = make_config(*size, tied=options.tied)
    for build in WAYS.values():  # what is imported on first use is not timed
        build(make_config(64, 1, 64, 64), options.seed)

    print(
        f"{__doc__.splitlines()[0]} {torch.get_num_threads()} threads, torch {torch.__version__}."
    )
    compare_times(config, options.seed, options.rounds)

    stock, patched, model = (build(config, options.seed) for build in WAYS.values())
    found = faults(model, stock)
    refused_stock, _ = refused_matrices(stock)
    refused, tested = refused_matrices(model)
    found += [f"{name}: not the normal law, p = {p:.1e}" for name, p in refused.items()]
    law = f"Normal(0, {config.initializer_range})"
    print(f"\nKolmogorov-Smirnov of {tested} matrices against {law}, Holm, alpha = {ALPHA:g}")
    print(f"  stock                      {len(refused_stock):3d} refused")
    print(f"  fastinit                   {len(refused):3d} refused")
    pairs = zip(model.parameters(), patched.parameters(), strict=True)
    if not all(torch.equal(a, b) for a, b in pairs):
        found.append("patch and deferred gave different models for one seed")
    with torch.no_grad():
        for _, weight in matrices(model):
            weight *= WRONG_FACTOR
    wrong, _ = refused_matrices(model)
    print(f"  a std 2 % too large        {len(wrong):3d} refused (some must be)\n")
    if not wrong:
        found.append("the test is blind: it let a wrong model pass")

    for fault in found:
        print(f"FAULT {fault}")
    print("FAILED" if found else "passed: the law, all that is not random, same seed same bits")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
