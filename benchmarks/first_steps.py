"""Loss and sparsity over the first optimiser steps of a recipe, where a whole training is out of reach.

Every ten steps: the mean training loss of these ten, and the zeros among all parameters. Each run has a
folder of its own and goes on from its last checkpoint when the same command is given again; runs that the
output holds already stay in it.

Example: python benchmarks/first_steps.py wrn28x10-cifar10 wrn28x10-cifar100 --data-dir DATA
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from dirprune.data import load_dataset
from dirprune.errors import DirpruneError, RunFolderError, UsageError
from dirprune.recipes import get_recipe
from dirprune.runs import RunFolder
from dirprune.train import Callback, Duration, Experiment, Position, Run, Trainer
from record import FIRST_STEPS, own_command, public_environment, write

INTERVAL = 10  # steps between two points


class _EnoughError(Exception):
    """The steps that were asked for are done."""


class FirstSteps(Callback):
    """Keeps a point for every ten steps of a run's first epoch beside the run, and ends it after some steps.

    Args:
        steps: After which the run ends, with _EnoughError.
    """

    def __init__(self, steps: int) -> None:
        self._steps = steps

    def on_start(self, run: Run) -> None:
        """Forget the points after the checkpoint, for they will be made again."""
        if self._steps > run.position.steps_per_epoch:
            raise UsageError(f"--steps must be within the first epoch, {run.position.steps_per_epoch} steps")
        self._run, done = run, run.position.step
        self._path = points_file(run.folder)
        points = [point for point in read_points(run.folder) if point["step"] <= done]
        if len(points) != done // INTERVAL:
            raise RunFolderError(
                f"{self._path} has {len(points)} points, its checkpoint was saved after {done} steps: "
                f"delete {run.folder.path} to start anew"
            )
        self._path.write_text("".join(map(_line, points)), encoding="utf-8")
        self._before = points[-1]["loss_sum"] if points else 0.0

    def on_step(self, position: Position) -> None:
        """Add a point; the checkpoint of this step is saved after it."""
        if position.step % INTERVAL:
            return
        total = self._run.sums[0].item()
        point = {
            "step": position.step,
            "loss_sum": total,
            "train_loss": (total - self._before) / (INTERVAL * self._run.config.batch_size),
            "sparsity": self._run.method.sparsity().sparsity,
        }
        self._before = total
        with self._path.open("a", encoding="utf-8") as file:
            file.write(_line(point))
        name = self._run.folder.path.name
        print(
            f"{name}  step {point['step']}  loss {point['train_loss']:.4f}  "
            f"sparsity {100 * point['sparsity']:.3f} %",
            flush=True,
        )
        if position.step >= self._steps:
            raise _EnoughError


def points_file(run: RunFolder) -> Path:
    """Return where a run's points lie."""
    return run.path / "first_steps.jsonl"


def read_points(run: RunFolder) -> list[dict[str, Any]]:
    """Return a run's points; a last line that a kill cut short is none yet."""
    path = points_file(run)
    whole, _, _ = (path.read_text(encoding="utf-8") if path.is_file() else "").rpartition("\n")
    return [json.loads(line) for line in whole.splitlines()]


def _line(point: dict[str, Any]) -> str:
    return json.dumps(point) + "\n"


def experiment_of(name: str, options: argparse.Namespace) -> Experiment:
    """Return a recipe with what was changed in it."""
    recipe = get_recipe(name)
    config = replace(
        recipe.config, precision=options.precision, channels_last=options.channels_last, seed=options.seed
    )
    return replace(recipe, config=config, seeds=1, c=(), mu=tuple(options.mu), methods=tuple(options.methods))


def train(name: str, options: argparse.Namespace) -> None:
    """Take the first steps of every run of a recipe, and keep what each has so far."""
    experiment = experiment_of(name, options)
    folder = options.out / experiment.config.experiment_name(get_recipe(name).config)
    dataset = load_dataset(experiment.config.dataset, options.data_dir)
    for config in experiment.runs():
        run = RunFolder(folder / config.run_name)
        points = read_points(run)
        try:
            if not points or points[-1]["step"] < options.steps:
                Trainer(
                    config,
                    dataset,
                    run,
                    callbacks=[FirstSteps(options.steps)],
                    checkpoint_every=Duration.parse(options.checkpoint_every),
                    command=own_command(),
                ).run()
        except _EnoughError:
            pass
        finally:
            keep(options.output, f"{folder.name}/{config.run_name}", asdict(config), run)


def keep(path: Path, name: str, config: dict[str, Any], run: RunFolder) -> None:
    """Put what a run has so far into the output, beside what is there."""
    points = read_points(run)
    if not points:
        return
    held = json.loads(path.read_text(encoding="utf-8"))["runs"] if path.is_file() else {}
    held[name] = {
        "config": config,
        "environment": public_environment(run.environment()),
        "points": {key: [point[key] for point in points] for key in ("step", "train_loss", "sparsity")},
    }
    if result := run.result():  # of a run that did not come as far as it was to
        held[name]["result"] = {key: result[key] for key in ("status", "message")}
    write(path, {"interval": INTERVAL, "runs": dict(sorted(held.items()))})


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("recipes", nargs="+", metavar="RECIPE")
    parser.add_argument("--steps", type=int, default=100, help="a multiple of 10 within the first epoch")
    parser.add_argument("--methods", nargs="+", default=["sgd", "grda"])
    parser.add_argument("--mu", type=float, nargs="+", default=[], help="of gRDA; default: the recipe's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--precision", choices=["no", "bf16", "fp16"], default="no")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--checkpoint-every", default="10it", help="such as 10it")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--data-dir", help="folder with the data sets as parquet; default: from the hub")
    parser.add_argument("--out", type=Path, default=Path("runs") / "first-steps")
    parser.add_argument("--output", type=Path, default=FIRST_STEPS)
    options = parser.parse_args(arguments)
    try:
        if options.steps < INTERVAL or options.steps % INTERVAL:
            raise UsageError(f"--steps must be a multiple of {INTERVAL}, got {options.steps}")
        if options.threads is not None:
            torch.set_num_threads(options.threads)
        for name in options.recipes:
            train(name, options)
    except DirpruneError as error:
        print(f"first_steps: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("first_steps: stopped; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
