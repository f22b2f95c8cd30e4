"""Hold gRDA against the directional pruning of its SGD twin, on networks small enough for the whole Hessian.

A tanh network 64-16-10 (1,210 weights) on some of scikit-learn's digits, in float64. With the squared error,
20 images make at most 200 sharp directions and leave 1,010 flat ones; 100 images make 1,000, whose curvature
comes in every size, so that nothing tells sharp from flat. With cross-entropy all curvature goes to zero with
the loss. Full gradients and batches; from the initial weights, as gRDA is used, and from a minimum, where the
Hessian hardly changes and the theorem stands alone. ``dirprune report runs/digits`` shows what lies in the
folder ``landscape`` of that experiment: ``--out runs/digits/landscape``.

Example: python benchmarks/theorem.py --out runs/theorem --output benchmarks/results/theorem.json
"""

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from dirprune.core.atomic import atomic_write, write_json
from dirprune.data import load_dataset
from dirprune.landscape import Objective, Theorem, TheoremSettings, check_theorem, keep, theorem_request
from dirprune.landscape.objective import Loss
from dirprune.train import describe_environment
from record import own_command, public_command

HIDDEN = 16
MINIMUM = (0.1, 300.0)  # rate and time of the SGD that finds it


def squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Half the squared distance from the one-hot targets, mean over samples."""
    return 0.5 * (outputs - functional.one_hot(targets, 10)).square().sum(dim=1).mean()


@dataclass(frozen=True)
class Experiment:
    """A loss, the number of images, of images in a batch, and where both runs start."""

    loss: Loss
    images: int
    batch: int
    from_minimum: bool = False


EXPERIMENTS = {
    "20-images-from-minimum": Experiment(squared_error, 20, 20, from_minimum=True),
    "20-images": Experiment(squared_error, 20, 20),
    "20-images-batches": Experiment(squared_error, 20, 5),
    "100-images": Experiment(squared_error, 100, 100),
    "100-images-batches": Experiment(squared_error, 100, 20),
    "100-images-cross-entropy": Experiment(functional.cross_entropy, 100, 100),
    "100-images-cross-entropy-batches": Experiment(functional.cross_entropy, 100, 20),
}


def network(experiment: Experiment, data: list[tuple[Tensor, Tensor]], seed: int) -> nn.Module:
    """Return the network that both runs start from."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, 10)).double()
    if experiment.from_minimum:
        rate, time = MINIMUM
        optimizer = torch.optim.SGD(model.parameters(), lr=rate)
        for _ in range(round(time / rate / len(data))):
            for inputs, targets in data:
                optimizer.zero_grad()
                experiment.loss(model(inputs), targets).backward()
                optimizer.step()
    return model


def batches(experiment: Experiment) -> list[tuple[Tensor, Tensor]]:
    """Return the first digits of the training set, standardised, always in the same batches."""
    train = load_dataset("digits").train
    images, labels = train.images[: experiment.images].double() / 255, train.labels[: experiment.images]
    images = (images - images.mean()) / images.std()
    return list(zip(images.split(experiment.batch), labels.split(experiment.batch), strict=True))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for results and what is half done")
    parser.add_argument("--output", type=Path, help="one JSON file with all of them; tables beside it")
    parser.add_argument("--only", nargs="+", choices=EXPERIMENTS, default=list(EXPERIMENTS))
    parser.add_argument("--rates", type=float, nargs="+", default=[0.1, 0.03, 0.01, 0.003])
    parser.add_argument("--times", type=float, nargs="+", default=[10.0, 30.0, 100.0, 300.0])
    parser.add_argument("--c", type=float, default=0.02)
    parser.add_argument("--mu", type=float, default=0.6)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    settings = TheoremSettings(rates=tuple(given.rates), times=tuple(given.times), c=given.c, mu=given.mu)
    environment = describe_environment(public_command(own_command()))
    collected, tables = {}, []
    for name in given.only:
        data = batches(EXPERIMENTS[name])
        loss, model = EXPERIMENTS[name].loss, network(EXPERIMENTS[name], data, given.seed)
        request = theorem_request(Objective(model, loss, data, errors=None), model, settings)

        def report(stage: str, done: int, total: int | None, name: str = name) -> None:
            if total and (done == total or done % (total // 4) == 0):
                print(f"{name}: {stage} {done}/{total}", file=sys.stderr)

        result = keep(
            Theorem,
            given.out / name,
            request,
            environment,
            lambda store, model=model, loss=loss, data=data, report=report: check_theorem(
                model, loss, data, settings, store=store, progress=report
            ),
        )
        tables.append(markdown(name, result))
        print(tables[-1])
        collected[name] = json.loads((given.out / name / "theorem.json").read_text())
    if given.output:
        write_json(given.output, collected, indent=1)
        with atomic_write(given.output.with_suffix(".md")) as file:
            file.write("\n".join(tables).encode())
    return 0


def markdown(name: str, result: Theorem) -> str:
    """Return the rows as a table; "in time" is with the scores of a finite time."""
    lines = [
        f"**{name}**",
        "",
        "| gamma | t | lambda | loss SGD | loss gRDA | sharp | zeros gRDA | zeros v | overlap | soft | signs "
        "| distance | soft | in time | correlation | in time |",
        "|" + "---|" * 16,
    ]
    lines += [
        f"| {r.rate:g} | {r.time:g} | {r.strength:.4f} | {r.loss_sgd:.2g} | {r.loss_grda:.2g} | {r.sharp} "
        f"| {100 * r.zeros_grda:.1f} % | {100 * r.zeros_directional:.1f} % "
        f"| {r.overlap:.3f} | {r.overlap_plain:.3f} | {r.signs:.3f} "
        f"| {r.distance:.3f} | {r.distance_plain:.3f} | {r.distance_finite:.3f} "
        f"| {r.correlation:.3f} | {r.correlation_finite:.3f} |"
        for r in result.rows
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
