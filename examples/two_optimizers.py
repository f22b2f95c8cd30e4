"""gRDA on the weights of linear layers, AdamW on everything else; both are saved, and a resume is exact.

python examples/two_optimizers.py --epochs 50
python examples/two_optimizers.py --epochs 100  # goes on from the fiftieth
"""

import argparse
from pathlib import Path

import torch
from torch import nn

import dirprune
from digits import accuracy, batches
from dirprune.core.atomic import atomic_write
from dirprune.core.prunable import prunable_parameters

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--epochs", type=int, default=100)
parser.add_argument("--out", type=Path, default=Path("runs/examples/two_optimizers"))
options = parser.parse_args()
options.out.mkdir(parents=True, exist_ok=True)
checkpoint = options.out / "checkpoint.pt"

torch.manual_seed(0)
model = nn.Sequential(
    nn.Flatten(), nn.Linear(64, 300), nn.LayerNorm(300), nn.ReLU(), nn.Dropout(0.1), nn.Linear(300, 10)
)
sparse = prunable_parameters(model, "weights")
others = [parameter for name, parameter in model.named_parameters() if name not in sparse]
optimizers = {
    "grda": dirprune.GRDA(sparse.values(), lr=0.1, c=0.01, mu=0.6),
    "adamw": torch.optim.AdamW(others, lr=1e-3),
}

done = 0
if checkpoint.is_file():
    # The weights alone are not enough: a zero weight's memory is in gRDA's state.
    saved = torch.load(checkpoint, weights_only=True)
    model.load_state_dict(saved["model"])
    for name, optimizer in optimizers.items():
        optimizer.load_state_dict(saved[name])
    torch.set_rng_state(saved["rng"])  # order of the data, dropout
    done = saved["epoch"]
    print(f"resumed after epoch {done}")

for epoch in range(done + 1, options.epochs + 1):
    model.train()
    for images, labels in batches():
        for optimizer in optimizers.values():
            optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        for optimizer in optimizers.values():
            optimizer.step()
    print(f"epoch {epoch}  loss {loss.item():.4f}  sparsity {dirprune.sparsity_report(model).sparsity:.4f}")
    states = {name: optimizer.state_dict() for name, optimizer in optimizers.items()}
    with atomic_write(checkpoint) as file:
        torch.save(
            {"model": model.state_dict(), **states, "rng": torch.get_rng_state(), "epoch": epoch}, file
        )

info = dirprune.save_sparse(model, options.out / "model.sparse.safetensors")
print(f"accuracy {accuracy(model):.4f}  bytes {info.bytes} instead of {info.dense_bytes}")
