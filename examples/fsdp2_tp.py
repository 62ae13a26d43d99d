"""FSDP2 over tensor parallelism, from meta, with the weights that one process has.

torchrun --nproc-per-node 4 examples/fsdp2_tp.py

Pairs of ranks share each layer by tensor parallelism, and FSDP2 shards over the pairs what a rank
of a pair holds. Each rank fills its own part; no full tensor is made and none is sent.
"""

import os

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import fastinit

WORDS, WIDTH, HEADS, DEPTH = 128, 64, 4, 2
PLAN = {
    "attn.q_proj": ColwiseParallel(),
    "attn.k_proj": ColwiseParallel(),
    "attn.v_proj": ColwiseParallel(),
    "attn.o_proj": RowwiseParallel(),
    "mlp.up_proj": ColwiseParallel(),
    "mlp.down_proj": RowwiseParallel(),
}


class Block(nn.Module):
    """Attention and an MLP, each added to what comes in."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attn = nn.ModuleDict({f"{c}_proj": nn.Linear(WIDTH, WIDTH) for c in "qkvo"})
        up, down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)
        self.mlp = nn.ModuleDict({"up_proj": up, "down_proj": down})

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        q, k, v = (
            self.attn[f"{c}_proj"](y).unflatten(-1, (-1, WIDTH // HEADS)).transpose(1, 2)
            for c in "qkv"
        )
        y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.attn["o_proj"](y.transpose(1, 2).flatten(-2))
        return x + self.mlp["down_proj"](self.mlp["up_proj"](self.norm2(x)).relu())


class Model(nn.Module):
    """A small language model."""

    def __init__(self) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(WORDS, WIDTH)
        self.layers = nn.ModuleList(Block() for _ in range(DEPTH))
        self.norm = nn.LayerNorm(WIDTH)
        self.lm_head = nn.Linear(WIDTH, WORDS, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed_tokens(x)
        for layer in self.layers:
            x = layer(x)
        return self.lm_head(self.norm(x))


def main() -> None:
    """Shard, fill, compare with one process, and take a step of training."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if device == "cuda" else "gloo")
    shape = (dist.get_world_size() // 2, 2)
    mesh = init_device_mesh(device, shape, mesh_dim_names=("fsdp", "tp"))

    with torch.device("meta"):
        model = Model()
    for layer in model.layers:
        parallelize_module(layer, mesh["tp"], PLAN)
        fully_shard(layer, mesh=mesh["fsdp"])
    fully_shard(model, mesh=mesh["fsdp"])
    fastinit.materialize_(model, device, "gpt2", seed=42)

    prints = fastinit.fingerprint(model)  # one collective in all
    if dist.get_rank() == 0:
        whole = Model()
        fastinit.init_(whole, "gpt2", seed=42)
        same = fastinit.fingerprint(whole) == prints
        print(f"{len(prints)} parameters on a {shape[0]} x 2 mesh, as in one process: {same}")

    tokens = torch.randint(WORDS, (2, 17), generator=torch.Generator().manual_seed(0)).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, foreach=False)
    loss = nn.functional.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
    loss.backward()
    optimizer.step()
    if dist.get_rank() == 0:
        print(f"loss {loss:.3f}, of chance {torch.tensor(float(WORDS)).log():.3f}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
