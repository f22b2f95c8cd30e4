"""What an accumulator in bfloat16 costs in accuracy, on the recipe `digits`: three seeds, some minutes.

Example: python benchmarks/accumulator_dtype.py
"""

import argparse
import statistics
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn
from torch.optim import SGD

from dirprune.core.sparsity import sparsity_report
from dirprune.data import load_dataset
from dirprune.data.augment import Augmentation
from dirprune.data.batches import Batches
from dirprune.models import create_model
from dirprune.optim import GRDA
from dirprune.recipes import get_recipe
from dirprune.train import TrainConfig
from dirprune.train.measures import evaluate
from record import RESULTS, record

OPTIMISERS = {
    "SGD": lambda params, config: SGD(params, lr=config.lr),
    "gRDA": lambda params, config: GRDA(params, lr=config.lr, c=config.c, mu=config.mu),
    "gRDA, bfloat16 accumulator": lambda params, config: GRDA(
        params, lr=config.lr, c=config.c, mu=config.mu, accumulator_dtype=torch.bfloat16
    ),
}


def train(config: TrainConfig, name: str, threads: int) -> dict[str, float]:
    """Train as the recipe says, and measure on the test set."""
    torch.set_num_threads(threads)
    dataset = load_dataset(config.dataset, None)
    channels, height, _ = dataset.image_shape
    torch.manual_seed(config.seed)
    model = create_model(
        config.model, num_classes=dataset.num_classes, in_channels=channels, image_size=height
    )
    optimizer = OPTIMISERS[name](model.parameters(), config)
    augmentation = Augmentation(mean=config.mean, std=config.std)
    batches = Batches(dataset.train, config.batch_size, config.seed, augmentation)
    for epoch in range(1, config.epochs + 1):
        model.train()
        for _, images, labels in batches.epoch(epoch):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
    train_loss = evaluate(model, Batches.evaluation(dataset.train, augmentation)).loss
    accuracy = evaluate(model, Batches.evaluation(dataset.test, augmentation)).accuracy
    return {
        "seed": config.seed,
        "train_loss": train_loss,
        "test_accuracy": 100 * accuracy,
        "sparsity": 100 * sparsity_report(model).sparsity,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=RESULTS / "accumulator_dtype.json")
    arguments = parser.parse_args()
    config = get_recipe("digits").config
    config = replace(config, epochs=arguments.epochs or config.epochs)
    content: dict[str, object] = {}
    for name in OPTIMISERS:
        runs = [train(replace(config, seed=seed), name, arguments.threads) for seed in range(arguments.seeds)]
        means = {key: statistics.mean(run[key] for run in runs) for key in runs[0] if key != "seed"}
        content[name] = {"mean": means, "runs": runs}
        print(f"{name:28}", "  ".join(f"{key} {value:.5g}" for key, value in means.items()), flush=True)
    record(arguments.output, {"recipe": "digits", "epochs": config.epochs, "optimisers": content})


if __name__ == "__main__":
    main()
