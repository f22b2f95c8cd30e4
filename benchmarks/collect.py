"""Collect runs into one JSON file to keep: settings, environment, curves and result of each, and their table.

The table has a row for each variant, mean and standard deviation over seeds. With --fit, each finished
network is also measured on its training set as it is deployed: evaluation mode, no dropout, no augmentation.
With --merge, runs that the output holds already, perhaps of another machine, stay in it. With
--any-precision, seeds that differ in --precision alone, as where one machine has bf16 and another has not,
are one row.

Example: python benchmarks/collect.py runs/digits --output benchmarks/results/digits.json
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dirprune.data import load_dataset
from dirprune.errors import DirpruneError, RunFolderError
from dirprune.report import summarise, wording
from dirprune.report.summary import Spread, VariantSummary
from dirprune.runs import RunFolder, find_runs
from dirprune.train import TrainConfig, evaluate
from dirprune.train.reopen import EvaluationData, reopen
from record import public_environment, write

Json = dict[str, Any]
HEADINGS = ("method", "training loss", "training accuracy %", "test accuracy %", "zeros %", "seeds")
_IMAGES_AT_ONCE = 1000


def run_record(run: RunFolder) -> Json:
    """Return all that a run has to tell; an unfinished one has no result."""
    return {
        "name": run.path.name,
        "config": run.config(),
        "environment": run.environment(),
        "result": run.result(),
        "failure": run.failure(),
        "warnings": run.warnings(),
        "epochs": columns(run.metrics()),
    }


def columns(records: Sequence[Json]) -> dict[str, list[Any]]:
    """Turn a list of records with the same keys into a list for each key."""
    return {key: [record[key] for record in records] for key in records[0]} if records else {}


def merged(held: Sequence[Json], found: Sequence[Json]) -> list[Json]:
    """Return the runs of both, by name; of a run in both, the one that came to its end, or else the new one.

    Raises:
        RunFolderError: Two runs of one name have different configurations.
    """
    by_name: dict[str, Json] = {}
    for record in (*held, *found):
        record = {**record, "environment": public_environment(record["environment"])}
        before = by_name.get(record["name"])
        if before is not None and complete_config(before) != complete_config(record):
            raise RunFolderError(f"{record['name']} is a run of another configuration in the output")
        if before is None or record["result"] is not None or before["result"] is None:
            by_name[record["name"]] = record
    return [by_name[name] for name in sorted(by_name)]


def complete_config(record: Json) -> Json:
    """Return all settings of a run, those that came after it at their defaults."""
    return json.loads(json.dumps({**TrainConfig.defaults(), **record["config"]}))


def fit(run: RunFolder, data_dir: str | None) -> dict[str, float] | None:
    """Measure a finished network on its training images; None for a run that has no network."""
    if (run.result() or {}).get("status") != "finished":
        return None
    trained = reopen(run, load_dataset(run.config()["dataset"], data_dir))
    images = EvaluationData(trained.training, trained.augmentation, _IMAGES_AT_ONCE)
    measured = evaluate(trained.model, iter(images))
    return {"loss": measured.loss, "accuracy": measured.accuracy}


def summaries(records: Sequence[Json], pooled: Sequence[str] = ()) -> tuple[VariantSummary, ...]:
    """Put collected runs into variants, as the report does with run folders; curves have no part in it.

    Settings whose names are pooled do not tell variants apart.
    """
    same = {name: complete_config(records[0])[name] for name in pooled if records}
    with tempfile.TemporaryDirectory() as folder:
        for record in records:
            run = RunFolder(Path(folder) / record["name"])
            run.path.mkdir()
            run.prepare({**complete_config(record), **same})
            run.write_environment(record["environment"])
            if record["result"] is not None:
                run.write_result(record["result"])
            elif record.get("failure") is not None:
                run.write_failure(record["failure"]["message"])
        return summarise(Path(folder))


def summary_record(variant: VariantSummary, training_set: dict[str, Json | None]) -> Json:
    """Return what the tables show of a variant."""
    fits = [known for run in variant.runs if run.outcome and (known := training_set.get(run.name))]
    spreads = {
        "test_accuracy": variant.test_accuracy,
        "difference_to_sgd": variant.difference,
        "train_loss": variant.train_loss,
        "sparsity": variant.sparsity,
        "sparse_bytes": variant.sparse_bytes,
        "seconds": variant.seconds,
        "fit_loss": Spread.of(known["loss"] for known in fits),
        "fit_accuracy": Spread.of(known["accuracy"] for known in fits),
    }
    return {
        "label": variant.label,
        "finished": variant.finished,
        "diverged": variant.diverged,
        "failed": variant.failed,
        "unfinished": variant.unfinished,
        **{
            name: {"mean": spread.mean, "sd": spread.sd} if spread else None
            for name, spread in spreads.items()
        },
    }


def collected(
    records: Sequence[Json], training_set: dict[str, Json | None], pooled: Sequence[str] = ()
) -> Json:
    """Return the content of the file: the table and what it was made from."""
    return {
        "summary": [summary_record(variant, training_set) for variant in summaries(records, pooled)],
        **({"pooled": list(pooled)} if pooled else {}),
        "runs": list(records),
        "training_set": training_set,
    }


def markdown(summary: Sequence[Json]) -> str:
    """Write the table; losses of the training set in evaluation mode where they were measured."""
    lines = [HEADINGS, ("---",) * len(HEADINGS), *map(_cells, summary)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _cells(variant: Json) -> tuple[str, ...]:
    loss = variant["fit_loss"]
    return (
        variant["label"],
        wording.NOTHING if loss is None else wording.loss(loss["mean"]) + _deviation(loss, wording.loss),
        *(_percent(variant[name]) for name in ("fit_accuracy", "test_accuracy", "sparsity")),
        ", ".join(
            f"{len(variant[status])} {status}"
            for status in ("finished", "diverged", "failed", "unfinished")
            if variant[status]
        ),
    )


def _percent(value: Json | None) -> str:
    if value is None:
        return wording.NOTHING
    return wording.percent(value["mean"]) + _deviation(value, lambda sd: f"{100 * sd:.2f}")


def _deviation(value: Json, show: Any) -> str:
    return "" if value["sd"] is None else f" ± {show(value['sd'])}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folders", type=Path, nargs="+", metavar="folder")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--merge", action="store_true", help="keep the runs that the output holds already")
    parser.add_argument("--any-precision", action="store_true", help="pool seeds of different precision")
    parser.add_argument("--fit", action="store_true", help="measure on the training set as well")
    parser.add_argument("--data-dir", help="where the data set is, for --fit")
    options = parser.parse_args(arguments)
    try:
        runs = [run for folder in options.folders for run in find_runs(folder)]
        found = list(map(run_record, runs))
        held: Json = {"runs": []}
        if options.merge and options.output.is_file():
            held = json.loads(options.output.read_text(encoding="utf-8"))
        records = merged(held["runs"], found)
        training_set = held.get("training_set", {})
        known = {record["name"] for record in held["runs"] if record in records} & set(training_set)
        for run in runs if options.fit else ():
            if run.path.name not in known and (measured := fit(run, options.data_dir)):
                training_set[run.path.name] = measured
        content = collected(records, training_set, ["precision"] if options.any_precision else [])
    except DirpruneError as error:
        print(f"collect: {error}", file=sys.stderr)
        return 2
    print(markdown(content["summary"]), end="")
    write(options.output, content, indent=None)
    return 0


if __name__ == "__main__":
    sys.exit(main())
