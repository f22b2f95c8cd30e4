"""Collect finished runs into one JSON file to keep: configuration, environment, curves and result of each.

With --fit, each finished network is also measured on its training set as it is deployed: evaluation mode, no
dropout, no augmentation.

Example: python benchmarks/collect.py runs/digits --output benchmarks/results/digits.json
"""

import argparse
import json
import sys
from pathlib import Path

from dirprune.core.atomic import atomic_write
from dirprune.data import Augmentation, Batches, load_dataset
from dirprune.errors import DirpruneError
from dirprune.export import load_sparse
from dirprune.models import create_model
from dirprune.report import summarise
from dirprune.runs import RunFolder, find_runs
from dirprune.train import evaluate


def run_record(run: RunFolder) -> dict[str, object]:
    """Return all that a run has to tell; an unfinished one has no result."""
    return {
        "name": run.path.name,
        "config": run.config(),
        "environment": run.environment(),
        "result": run.result(),
        "warnings": run.warnings(),
        "epochs": columns(run.metrics()),
    }


def fit(run: RunFolder, data_dir: str | None) -> dict[str, float] | None:
    """Measure a finished network on the training set."""
    if not run.sparse_file.is_file():
        return None
    config = run.config()
    dataset = load_dataset(config["dataset"], data_dir)
    channels, height, _ = dataset.image_shape
    model = create_model(
        config["model"],
        num_classes=dataset.num_classes,
        in_channels=channels,
        image_size=height,
        width=config["width"],
    )
    model.load_state_dict(load_sparse(run.sparse_file))
    augmentation = Augmentation(mean=tuple(config["mean"]), std=tuple(config["std"]))
    measured = evaluate(model, Batches.evaluation(dataset.train, augmentation))
    return {"loss": measured.loss, "accuracy": measured.accuracy}


def columns(records: list[dict[str, object]]) -> dict[str, list[object]]:
    """Turn a list of records with the same keys into a list for each key."""
    return {key: [record[key] for record in records] for key in records[0]} if records else {}


def summary_record(folder: Path) -> list[dict[str, object]]:
    """Return the table that the report shows."""
    return [
        {
            "label": variant.label,
            "finished": variant.finished,
            "diverged": variant.diverged,
            "failed": variant.failed,
            "unfinished": variant.unfinished,
            **{
                name: {"mean": spread.mean, "sd": spread.sd} if spread else None
                for name, spread in (
                    ("test_accuracy", variant.test_accuracy),
                    ("difference_to_sgd", variant.difference),
                    ("train_loss", variant.train_loss),
                    ("sparsity", variant.sparsity),
                    ("sparse_bytes", variant.sparse_bytes),
                    ("seconds", variant.seconds),
                )
            },
        }
        for variant in summarise(folder)
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--fit", action="store_true", help="measure on the training set as well")
    parser.add_argument("--data-dir", help="where the data set is, for --fit")
    arguments = parser.parse_args()
    try:
        content = {
            "summary": summary_record(arguments.folder),
            "runs": [run_record(run) for run in find_runs(arguments.folder)],
        }
        if arguments.fit:
            content["training_set"] = {
                run.path.name: fit(run, arguments.data_dir) for run in find_runs(arguments.folder)
            }
    except DirpruneError as error:
        print(f"collect: {error}", file=sys.stderr)
        return 2
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(arguments.output) as file:
        file.write(json.dumps(content, separators=(",", ":")).encode() + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
