"""timm: a network by name, and timm's scheduler driving gRDA.

python examples/timm_scheduler.py --model timm/resnet18
"""

import argparse
from pathlib import Path

import torch
from timm.scheduler import CosineLRScheduler
from torch import nn

import dirprune
from digits import accuracy, batches
from dirprune.models import create_model

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", default="timm/test_resnet", help="timm/ and a name of timm.list_models()")
parser.add_argument("--epochs", type=int, default=10)
parser.add_argument("--out", type=Path, default=Path("runs/examples/timm_scheduler"))
options = parser.parse_args()

torch.manual_seed(0)
model = create_model(options.model, num_classes=10, in_channels=1, image_size=8)
optimizer = dirprune.GRDA(dirprune.prunable_groups(model), lr=0.1, c=5e-3, mu=0.6)
# gRDA suits a rate that stays high: a short warm-up, and a cosine that ends at half the rate.
scheduler = CosineLRScheduler(
    optimizer, t_initial=options.epochs, lr_min=0.05, warmup_t=1, warmup_lr_init=0.01, warmup_prefix=True
)

for epoch in range(options.epochs):
    scheduler.step(epoch)
    model.train()
    for images, labels in batches():
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
    rate = optimizer.param_groups[0]["lr"]
    sparsity = dirprune.sparsity_report(model).sparsity
    print(f"epoch {epoch + 1}  lr {rate:.4f}  loss {loss.item():.4f}  sparsity {sparsity:.4f}")

options.out.mkdir(parents=True, exist_ok=True)
info = dirprune.save_sparse(model, options.out / "model.sparse.safetensors")
print(f"accuracy {accuracy(model):.4f}  bytes {info.bytes} instead of {info.dense_bytes}")
