"""Experiment folders written as plain JSON, so that the report is tested against files and not our writer."""

import json
from pathlib import Path
from typing import Any

import pytest

CONFIG: dict[str, Any] = {
    "recipe": "digits",
    "dataset": "digits",
    "model": "lenet-300-100",
    "method": "sgd",
    "lr": 0.1,
    "c": 0.0,
    "mu": 0.6,
    "weight_decay": 0.0,
    "prune": "all",
    "epochs": 3,
    "seed": 0,
    "validation": 0.0,
}
ENVIRONMENT = {
    "date": "2026-03-01T10:20:31+00:00",
    "command": "dirprune train digits",
    "versions": {"dirprune": "0.1.0", "torch": "2.14.1"},
    "cores": 2,
}
LAYERS = [
    {"name": "fc1.weight", "shape": [30, 64], "zeros": 0},
    {"name": "fc1.bias", "shape": [30], "zeros": 0},
    {"name": "fc2.weight", "shape": [10, 30], "zeros": 0},
]
FINISHED: dict[str, Any] = {
    "status": "finished",
    "epochs": 3,
    "train_loss": 0.01,
    "test_accuracy": 0.97,
    "sparsity": 0.0,
    "layers": LAYERS,
    "sparse_bytes": 9000,
    "dense_bytes": 9000,
    "seconds": 12.5,
    "initial_weights": "a1",
}
DIVERGED = {"status": "diverged", "epochs": 2, "message": "loss is nan at step 90", "initial_weights": "a1"}


class Experiment:
    """An experiment folder to put runs into."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(
        self,
        name: str,
        config: dict[str, Any],
        result: dict[str, Any] | None = None,
        *,
        metrics: list[dict[str, Any]] | None = None,
        environment: dict[str, Any] = ENVIRONMENT,
        failure: str | None = None,
    ) -> Path:
        """Write a run; `config` and `result` say what differs from the standard ones."""
        run = self.path / name
        run.mkdir(parents=True)
        base = FINISHED if result is None or result.get("status", "finished") == "finished" else {}
        lines = [epoch(i) for i in (1, 2, 3)] if metrics is None else metrics
        (run / "config.json").write_text(json.dumps(CONFIG | config))
        (run / "environment.json").write_text(json.dumps(environment))
        (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        timing = [
            {"epoch": line.get("epoch"), "train_seconds": 1.5, "evaluation_seconds": 9} for line in lines
        ]
        (run / "timing.jsonl").write_text("".join(json.dumps(line) + "\n" for line in timing))
        if result is not None:
            (run / "result.json").write_text(json.dumps(base | result))
        if failure is not None:
            (run / "failure.json").write_text(json.dumps({"message": failure, "date": "2026-03-01"}))
        return run

    def pair(self, seed: int, sgd: float, grda: float, **result: Any) -> None:
        """Write an SGD run and its gRDA twin of given accuracies."""
        self.add(f"sgd-{seed}", {"seed": seed}, {"test_accuracy": sgd, "initial_weights": f"w{seed}"})
        pruned = {"test_accuracy": grda, "sparsity": 0.9, "sparse_bytes": 1800, "initial_weights": f"w{seed}"}
        self.add(f"grda-{seed}", {"seed": seed, "method": "grda", "c": 0.0005}, pruned | result)


def epoch(number: int, **fields: Any) -> dict[str, Any]:
    """One line of metrics.jsonl."""
    accuracy = 1 - 0.5**number
    standard = {
        "epoch": number,
        "train_loss": 0.1**number,
        "test_accuracy": accuracy,
        "sparsity": 0.2 * number,
    }
    return standard | fields


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    return Experiment(tmp_path / "experiment")
