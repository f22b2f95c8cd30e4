"""Hugging Face hub: train, write the folder of a repository, load it again; with --push, publish it.

python examples/publish.py
python examples/publish.py --push owner/name   # after: hf auth login
"""

import argparse
from pathlib import Path

import torch
from torch import nn

import dirprune
from digits import accuracy, batches, test_set
from dirprune.integrations.hub import Provenance, from_pretrained, push_to_hub, save_pretrained
from dirprune.models import create_model

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--epochs", type=int, default=100)
parser.add_argument("--push", metavar="OWNER/NAME")
parser.add_argument("--out", type=Path, default=Path("runs/examples/publish"))
options = parser.parse_args()

torch.manual_seed(0)
architecture = {"name": "lenet-300-100", "num_classes": 10, "in_channels": 1, "image_size": 8}
model = create_model(**architecture)
optimizer = dirprune.GRDA(model.parameters(), lr=0.1, c=0.01, mu=0.6)
for _ in range(options.epochs):
    for images, labels in batches():
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()

provenance = Provenance(
    dataset="digits",
    recipe=f"gRDA lr=0.1 c=0.01 mu=0.6, batch 32, {options.epochs} epochs",
    accuracy=accuracy(model),
    license="mit",
)
save_pretrained(model, options.out, architecture=architecture, provenance=provenance)
again = from_pretrained(options.out)
images, _ = test_set()
print(f"wrote {options.out}, same outputs: {torch.equal(again(images), model(images))}")
if options.push:
    print(push_to_hub(model, options.push, architecture=architecture, provenance=provenance))
