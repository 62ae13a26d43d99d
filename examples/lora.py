"""LoRA adapters that start equal on every rank, whatever the ranks' generators did before.

torchrun --nproc-per-node 2 examples/lora.py

peft draws an adapter from the generator of its rank. Ranks whose generators differ, by a seed or by
one draw too many, then train different adapters, unless somebody broadcasts them.
"""

import torch
import torch.distributed as dist
from peft import LoraConfig, get_peft_model
from torch import nn

import fastinit
from fastinit.initializers import Kaiming, Keep, Zeros
from fastinit.recipes import Recipe

ADAPTERS = Recipe(
    {
        "**.lora_A.*.weight": Kaiming(5**0.5, distribution="uniform"),
        "**.lora_B.*.weight": Zeros(),
        "**": Keep(),  # the model under them, loaded from somewhere
    }
)


class Model(nn.Module):
    """What the adapters are put on."""

    def __init__(self) -> None:
        super().__init__()
        self.q_proj, self.v_proj = nn.Linear(64, 64), nn.Linear(64, 64)


def main() -> None:
    """Build on ranks that have drawn differently; compare what they got."""
    dist.init_process_group("gloo")
    torch.manual_seed(dist.get_rank())
    model = get_peft_model(Model(), LoraConfig(r=8, target_modules=["q_proj", "v_proj"]))
    for how in ("as peft leaves them", "by fastinit"):
        if how == "by fastinit":
            fastinit.init_(model, ADAPTERS, seed=42)
        own = {n: p.flatten().tolist() for n, p in model.named_parameters() if "lora_" in n}
        everyone: list[object] = [None] * dist.get_world_size()
        dist.all_gather_object(everyone, own)
        if dist.get_rank() == 0:
            equal = all(other == own for other in everyone)
            print(f"{len(own)} adapters on {len(everyone)} ranks, {how}: equal {equal}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
