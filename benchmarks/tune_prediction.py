"""How well `dirprune tune --target-sparsity` predicts: short runs against whole runs it has not seen.

Two kinds of cases. Targets: c is chosen for a target sparsity from short runs, then trained to the end.
Known: whole runs that another file of results holds; only their beginnings are trained here. What is done is
not done again, so that the command can be stopped and given anew.

Examples:
  python benchmarks/tune_prediction.py --recipe digits --seed 1 --output OUTPUT
  python benchmarks/tune_prediction.py --recipe digits --penalty rescaled --output OUTPUT
  python benchmarks/tune_prediction.py --known benchmarks/results/lenet5-fashion_mnist.json --data-dir DATA
      --output OUTPUT
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from dirprune.core.atomic import write_json
from dirprune.data import load_dataset
from dirprune.recipes import get_recipe
from dirprune.train import TrainConfig, describe_environment
from dirprune.tune import Trial, c_for_sparsity
from dirprune.tune.crossing import PENALTIES
from dirprune.tune.target import epochs_to_keep, predicted_ends
from dirprune.tune.trials import TrialRunner
from record import own_command, public_command

TARGETS = (0.8, 0.9, 0.95)
MUS = (0.6, 0.51, 0.7)
FRACTION = 0.25
MOMENTUM = {  # what docs/frontier.md recommends, beside the penalty
    "mu": 1.0,
    "lr": 0.05,
    "momentum": 0.9,
    "nesterov": True,
    "schedule": "half-linear",
    "prune": "weights",
}


def runner_for(config: TrainConfig, arguments: argparse.Namespace, kind: str) -> TrialRunner:
    return TrialRunner(
        dataset=load_dataset(config.dataset, arguments.data_dir),
        folder=arguments.runs / f"{config.recipe}-{config.schedule}-{config.penalty}-{kind}",
        console=Console(),
        data_dir=arguments.data_dir,
        threads=1,
        at_once=1,
    )


def case(trial: Trial, end: float, config: TrainConfig, **more: Any) -> dict[str, Any]:
    predicted = trial.prediction
    assert predicted is not None
    return {
        "recipe": config.recipe,
        "schedule": config.schedule,
        "penalty": config.penalty,
        "seed": config.seed,
        "c": trial.c,
        "mu": trial.mu,
        "epochs": config.epochs,
        "trial_epochs": max(4, round(FRACTION * config.epochs)),
        **more,
        "predicted": predicted.sparsity,
        "interval": [predicted.lower, predicted.upper],
        "measured": end,
        "error": predicted.sparsity - end,
        "within_interval": predicted.lower <= end <= predicted.upper,
    }


def by_target(
    config: TrainConfig, mus: tuple[float, ...], arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    """Choose c for each target and mu, train it to the end, and compare."""
    cases = []
    short = max(4, round(FRACTION * config.epochs))
    for target in TARGETS:
        trials: list[Trial] = []
        runner = runner_for(config, arguments, "short")
        best = c_for_sparsity(config, mus, target, short, runner, trials.append)
        configs = [replace(config, c=trial.c, mu=trial.mu) for trial in best]
        runs = runner_for(config, arguments, "whole").train(configs)
        for trial, whole, run in zip(best, configs, runs, strict=True):
            result = run.result() or {}
            tried = sum(each.mu == trial.mu for each in trials)
            cases.append(case(trial, result["sparsity"], whole, target=target, short_runs=tried))
            print(json.dumps(cases[-1]), flush=True)
    return cases


def by_known(path: Path, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Train the beginnings of whole runs that are known, and compare."""
    cases = []
    for record in json.loads(path.read_text())["runs"]:
        config = TrainConfig.from_json(record["config"])
        if config.method != "grda":
            continue
        epochs = epochs_to_keep(max(4, round(FRACTION * config.epochs)))
        (trial,) = predicted_ends([config], epochs, runner_for(config, arguments, "short"))
        cases.append(case(trial, record["result"]["sparsity"], config, known=path.name))
        print(json.dumps(cases[-1]), flush=True)
    return cases


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe")
    parser.add_argument("--schedule")
    parser.add_argument("--penalty", choices=PENALTIES[1:], help="another one, in the setting for it")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--known", type=Path)
    parser.add_argument("--data-dir")
    parser.add_argument("--runs", type=Path, default=Path("runs/tune_prediction"))
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    if arguments.known is not None:
        cases = by_known(arguments.known, arguments)
    else:
        config = replace(get_recipe(arguments.recipe).config, seed=arguments.seed)
        if arguments.schedule:
            config = replace(config, schedule=arguments.schedule)
        if arguments.penalty:
            config = replace(config, penalty=arguments.penalty, **MOMENTUM)
        mus = (config.mu,) if arguments.schedule or arguments.penalty else MUS
        cases = by_target(config, mus, arguments)
    command = public_command(own_command())
    content = json.loads(arguments.output.read_text()) if arguments.output.is_file() else {"sets": []}
    others = [each for each in content["sets"] if each["environment"]["command"] != command]
    worst = max(abs(each["error"]) for each in cases)
    new = {"environment": describe_environment(command), "largest_error": worst, "cases": cases}
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    write_json(arguments.output, {"sets": [*others, new]}, indent=1)
    print(f"largest error: {100 * worst:.2f} points in {len(cases)} cases")
    return 0


if __name__ == "__main__":
    sys.exit(main())
