"""Plain PyTorch: swap the optimiser, keep the loop.

python examples/plain_loop.py
"""

import argparse
from pathlib import Path

import torch
from torch import nn

import dirprune
from digits import accuracy, batches

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--epochs", type=int, default=100)
parser.add_argument("--out", type=Path, default=Path("runs/examples/plain_loop"))
options = parser.parse_args()

torch.manual_seed(0)
model = nn.Sequential(nn.Flatten(), nn.Linear(64, 300), nn.ReLU(), nn.Linear(300, 10))
optimizer = dirprune.GRDA(model.parameters(), lr=0.1, c=0.01, mu=0.6)

for epoch in range(1, options.epochs + 1):
    model.train()
    for images, labels in batches():
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
    sparsity = dirprune.sparsity_report(model).sparsity
    print(f"epoch {epoch}  loss {loss.item():.4f}  sparsity {sparsity:.4f}")

print(dirprune.sparsity_report(model))
options.out.mkdir(parents=True, exist_ok=True)
info = dirprune.save_sparse(model, options.out / "model.sparse.safetensors")
print(f"accuracy {accuracy(model):.4f}  bytes {info.bytes} instead of {info.dense_bytes}")
