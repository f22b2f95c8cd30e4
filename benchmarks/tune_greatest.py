"""What the first epochs say of the last: the rule of `dirprune tune`, and gRDA's way in runs that are kept.

::

    python benchmarks/tune_greatest.py

Trains the short runs of `dirprune tune digits`, half a minute, and takes from the committed trainings how far
gRDA was behind its SGD twin after as many epochs, and in the end: on the test images, by which the default
margin of the rule was set.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dirprune.cli import main as dirprune
from record import RECIPE_RESULTS, RESULTS, public_environment, record

RESULT = RESULTS / "tune_greatest.json"
EPOCHS = 3  # of a short run
MARGINS = (5.0, 0.5)
_KEPT = (
    *(RESULTS / f"{name}.json" for name in ("digits", "lenet5-fashion_mnist", "lenet5-fashion_mnist-l0")),
    *(RECIPE_RESULTS / f"{name}.json" for name in ("vgg16-width0.25-cifar10", "wrn10x4-cifar100")),
)

Json = dict[str, Any]


def pairs() -> Iterator[Json]:
    """Yield for each committed run of gRDA its difference to SGD, early and in the end."""
    for path in _KEPT:
        runs = json.loads(path.read_text(encoding="utf-8"))["runs"]
        twins = {run["config"]["seed"]: run for run in runs if run["config"]["method"] == "sgd"}
        for run in runs:
            if run["config"]["method"] != "grda":
                continue
            course, of_sgd = (each["epochs"]["test_accuracy"] for each in (run, twins[run["config"]["seed"]]))
            yield {
                "file": path.stem,
                "run": run["name"],
                "early": course[EPOCHS - 1] - of_sgd[EPOCHS - 1],
                "end": course[-1] - of_sgd[-1],
                "sparsity": run["result"]["sparsity"],
            }


def answers() -> Iterator[Json]:
    """Yield what the command says of the digits, with each margin."""
    for margin in MARGINS:
        with tempfile.TemporaryDirectory() as out:
            dirprune(["tune", "digits", "--margin", f"{margin:g}", "--jobs", "1", "--out", out])
            (path,) = Path(out).glob("tune-digits-*/greatest-*.json")
            answer = json.loads(path.read_text(encoding="utf-8"))
            answer["environment"] = public_environment(answer["environment"])
            answer["train"] = [line.removesuffix(f" --out {out}") for line in answer["train"]]
            yield {"margin": margin, **answer}


def main() -> None:
    """Measure, and keep the result."""
    argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0]).parse_args()
    record(RESULT, {"epochs": EPOCHS, "answers": list(answers()), "pairs": list(pairs())})


if __name__ == "__main__":
    main()
