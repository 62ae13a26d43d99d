"""A Llama from meta to the device: nothing is allocated before its values are written.

python examples/meta_llama.py
"""

import torch
from transformers import LlamaConfig, LlamaForCausalLM

import fastinit

device = "cuda" if torch.cuda.is_available() else "cpu"
config = LlamaConfig(hidden_size=256, intermediate_size=688, num_hidden_layers=4, vocab_size=8000)
with torch.device("meta"):
    model = LlamaForCausalLM(config)
print(fastinit.materialize_(model, device, "llama", seed=42, dtype=torch.bfloat16))

tokens = torch.randint(config.vocab_size, (2, 16), device=device)
print(f"loss {model(tokens, labels=tokens).loss:.2f}, of chance {torch.tensor(8000.0).log():.2f}")
