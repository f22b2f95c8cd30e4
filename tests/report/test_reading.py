"""Damaged run folders: one clear line each, never a traceback from inside."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dirprune.errors import RunFolderError
from dirprune.report import summarise, write_report
from dirprune.report.reading import read_runs
from tests.report.conftest import CONFIG, DIVERGED, FINISHED, Experiment, epoch

LAYER = {"name": "fc1.weight", "shape": [3, 2], "zeros": 0}
DAMAGE = [
    ("config.json", {"seed": 0}, "method must be of type str, but is missing"),
    ("config.json", CONFIG | {"seed": "0"}, "seed must be of type int, but holds '0'"),
    ("config.json", CONFIG | {"seed": True}, "seed must be of type int, but holds True"),
    ("result.json", {}, 'status must be "finished" or "diverged", but is missing'),
    ("result.json", {"status": "lost"}, 'status must be "finished" or "diverged", not \'lost\''),
    ("result.json", {"status": "diverged"}, "message must be of type str, but is missing"),
    *(
        (
            "result.json",
            {k: v for k, v in FINISHED.items() if k != field},
            f"{field} must be of type .*is missing",
        )
        for field in FINISHED
        if field not in ("status", "epochs", "initial_weights")
    ),
    ("result.json", FINISHED | {"train_loss": 10**400}, "train_loss must be of type float"),
    ("result.json", FINISHED | {"sparse_bytes": 0}, "sparse_bytes must be 1 or more, not 0"),
    ("result.json", FINISHED | {"layers": [3]}, "expected JSON objects, found 3"),
    ("result.json", FINISHED | {"layers": [LAYER | {"zeros": 7}]}, "fc1.weight has 7 zeros among 6 elements"),
    ("result.json", FINISHED | {"layers": [LAYER | {"zeros": -1}]}, "zeros must be 0 or more, not -1"),
    ("result.json", FINISHED | {"layers": [LAYER | {"shape": [3, "2"]}]}, "a shape must list whole numbers"),
    ("result.json", FINISHED | {"layers": [LAYER | {"shape": [-3, -2]}]}, "a shape must list whole numbers"),
    (
        "metrics.jsonl",
        {"epoch": 1, "train_loss": 1.0, "sparsity": 0.0},
        "test_accuracy must be of type float",
    ),
    ("metrics.jsonl", epoch(1, epoch=None), "epoch must be of type int"),
    ("metrics.jsonl", [1], "expected JSON objects"),
    ("timing.jsonl", {"epoch": 1}, "train_seconds must be of type float, but is missing"),
]


@pytest.mark.parametrize(("file", "content", "message"), DAMAGE)
def test_damage_is_named(experiment: Experiment, file: str, content: Any, message: str) -> None:
    result = None if file == "timing.jsonl" else {}
    run = experiment.add("run", {}, result)
    (run / file).write_text(json.dumps(content) + "\n")
    if file == "config.json":
        with pytest.raises(RunFolderError, match=message) as caught:
            read_runs(experiment.path)
        told = str(caught.value)
    else:
        (damaged,) = read_runs(experiment.path)
        assert (damaged.status, damaged.outcome, damaged.last_epoch) == ("failed", None, 0)
        told = damaged.message
    assert re.search(message, told)
    assert str(run / file) in told
    assert "\n" not in told


def test_a_damaged_run_does_not_hide_the_others(experiment: Experiment) -> None:
    experiment.add("a", {}, {})
    (experiment.add("b", {"seed": 1}, {}) / "result.json").write_text("{")
    (experiment.add("c", {"seed": 2}, {}) / "config.json").write_text("{")
    with pytest.warns(UserWarning, match=r"left out: .*c.config\.json is not valid JSON"):
        (summary,) = summarise(experiment.path)
    assert summary.finished == (0,)
    assert [(run.name, run.status) for run in summary.runs] == [("a", "finished"), ("b", "failed")]
    with pytest.warns(UserWarning, match="left out"):
        page = write_report(experiment.path).read_text()
    assert "b/result.json is not valid JSON" in page


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="holds no runs"):
        read_runs(tmp_path)


def test_what_is_not_finite_becomes_a_gap(experiment: Experiment) -> None:
    losses = [1.0, float("nan"), float("inf"), None]
    lines = [epoch(i, train_loss=loss) for i, loss in enumerate(losses, start=1)]
    experiment.add("run", {}, DIVERGED, metrics=lines)
    (run,) = read_runs(experiment.path)
    np.testing.assert_array_equal(run.curves["train_loss"], [1.0, np.nan, np.nan, np.nan])
    assert run.message == "loss is nan at step 90"


def test_seconds_of_a_run_that_is_not_over_are_added_up(experiment: Experiment) -> None:
    experiment.add("run", {})
    (run,) = read_runs(experiment.path)
    assert (run.status, run.seconds, run.last_epoch) == ("unfinished", 4.5, 3)


def test_a_run_that_was_killed_at_its_very_start(experiment: Experiment) -> None:
    folder = experiment.add("run", {})
    for name in ("environment.json", "metrics.jsonl", "timing.jsonl"):
        (folder / name).unlink()
    (run,) = read_runs(experiment.path)
    assert (run.status, run.environment, run.last_epoch, run.seconds) == ("unfinished", {}, 0, 0)


def test_a_single_run_folder_will_do(experiment: Experiment) -> None:
    (run,) = read_runs(experiment.add("only", {}, {}))
    assert (run.name, run.status, run.seconds) == ("only", "finished", 12.5)


def test_a_failure_counts_until_there_is_a_result(experiment: Experiment) -> None:
    experiment.add("a", {}, failure="out of memory")
    experiment.add("b", {"seed": 1}, {}, failure="left from before")
    failed, finished = read_runs(experiment.path)
    assert (failed.status, failed.message, failed.outcome) == ("failed", "out of memory", None)
    assert (finished.status, finished.message) == ("finished", "")
