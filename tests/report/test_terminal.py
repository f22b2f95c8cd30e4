"""The terminal table: every figure, whole, at the width that everybody has."""

import io
import json

import pytest
from rich.console import Console

from dirprune.report import write_report
from dirprune.report.summary import summarise
from dirprune.report.terminal import print_table
from tests.report.conftest import DIVERGED, Experiment


def printed(experiment: Experiment, width: int = 80, encoding: str = "utf-8") -> str:
    buffer = io.BytesIO()
    stream = io.TextIOWrapper(buffer, encoding=encoding)
    print_table(summarise(experiment.path), Console(file=stream, width=width))
    stream.flush()
    return buffer.getvalue().decode(encoding)


@pytest.fixture
def busy(experiment: Experiment) -> Experiment:
    """The widest that each column gets."""
    for seed, (sgd, grda) in enumerate(((0.9613, 0.7613), (0.9731, 0.8031))):
        experiment.pair(
            seed,
            sgd,
            grda,
            sparsity=(0.9131, 0.9233)[seed],
            seconds=594,
            sparse_bytes=123_456,
            dense_bytes=1_200_000,
        )
    experiment.add("grda-2", {"method": "grda", "c": 0.0005, "seed": 2}, DIVERGED)
    experiment.add("grda-3", {"method": "grda", "c": 0.0005, "seed": 3})
    experiment.add("grda-4", {"method": "grda", "c": 0.0005, "seed": 4}, failure="out of memory")
    return experiment


FIGURES = [
    *(
        "96.72 ± 0.83",
        "78.22 ± 2.96",
        "-18.50 ± 2.12",
        "91.82",
        "±0.72",
        "0.00",
        "121 KiB",
        "9.7x smaller",
        "9.9 min",
    ),
    *("2/2", "2/5", "1 diverged", "1 failed", "1 unfinished", "SGD", "gRDA", "c=5e-4", "mu=0.6"),
]


@pytest.mark.parametrize("width", [80, 120, 60])
def test_every_figure_is_there(busy: Experiment, width: int) -> None:
    text = printed(busy, width)
    assert [figure for figure in FIGURES if figure not in text] == []
    assert "…" not in text
    assert "\x1b" not in text


def test_fits_into_80_columns(busy: Experiment) -> None:
    assert max(map(len, printed(busy).splitlines())) <= 80


def test_a_long_label_goes_on_in_the_next_line(experiment: Experiment) -> None:
    experiment.add("a", {"weight_decay": 5e-4}, {})
    experiment.add("b", {}, {})
    lines = printed(experiment).splitlines()
    assert max(map(len, lines)) <= 80
    assert "weight_decay=5e-4" in "".join(line.split("  ")[0] for line in lines)


def test_markup_in_a_label_is_text(experiment: Experiment) -> None:
    experiment.add("a", {"schedule": "[red]"}, {})
    experiment.add("b", {}, {})
    assert "schedule=[red]" in printed(experiment)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_any_encoding_will_do(busy: Experiment, encoding: str) -> None:
    text = printed(busy, 100, encoding)
    assert "78.22 +- 2.96" in text


def test_nothing_finished(experiment: Experiment) -> None:
    experiment.add("a", {}, metrics=[])
    assert "0/1" in printed(experiment)


def test_validation_is_named(experiment: Experiment) -> None:
    experiment.add("a", {"validation": 0.1}, {})
    assert "validation" in printed(experiment)


def test_the_gravest_warnings_come_first_and_layers_share_a_line(experiment):
    experiment.pair(0, 0.9, 0.9)
    layers = [f"fc{number}.weight" for number in range(1, 8)]
    lines = [
        {"epoch": 1, "kind": "dead layer", "where": name, "message": f"{name} is dead"} for name in layers
    ]
    lines.append({"epoch": 2, "kind": "schedule", "where": "", "message": "cosine falls"})
    lines.append({"epoch": 3, "kind": "outgrown", "where": "", "message": "too sparse"})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (experiment.path / "grda-0" / "warnings.jsonl").write_text(text)
    told = [line for line in printed(experiment, width=120).splitlines() if "warning" in line]
    assert [line.partition("seed 0: ")[2] for line in told] == [
        "too sparse",
        "fc1.weight is dead (likewise fc2.weight, fc3.weight, fc4.weight and 3 more)",
        "cosine falls",
    ]


def test_warnings_of_training_are_told_once_with_their_seeds(experiment):
    experiment.pair(0, 0.9, 0.9)
    experiment.pair(1, 0.9, 0.9)
    for seed in (0, 1):
        line = json.dumps({"epoch": 2, "kind": "dead layer", "where": "fc", "message": "fc is <dead>"})
        (experiment.path / f"grda-{seed}" / "warnings.jsonl").write_text(line + "\n")
    console = Console(file=io.StringIO(), width=100)
    print_table(summarise(experiment.path), console)
    assert console.file.getvalue().count("seeds 0, 1: fc is <dead>") == 1
    assert "seeds 0, 1: fc is &lt;dead&gt;" in write_report(experiment.path).read_text()


def ranked(experiment: Experiment) -> None:
    """Two seeds with many classes."""
    for seed, best in ((0, 0.71), (1, 0.73)):
        best_epoch = {"epoch": 2, "test_accuracy": best, "test_top5": best + 0.2, "sparsity": 0.8}
        config, result = {"seed": seed}, {"test_accuracy": best - 0.01, "test_top5": best + 0.18}
        experiment.add(f"sgd-{seed}", config, {**result, "best": best_epoch})


def test_best_and_last_top_1_and_top_5(experiment: Experiment) -> None:
    ranked(experiment)
    lines = printed(experiment).splitlines()
    shown = [
        next(line for line in lines if text in line) for text in ("71.00", "90.00", "best 72.00", "92.00")
    ]
    assert shown == sorted(shown, key=lines.index)
    assert "top-5 90.00" in shown[1]
    assert "top-5 92.00" in shown[3]
    assert max(map(len, lines)) <= 80
    page = write_report(experiment.path).read_text()
    assert "<small>top-5 90.00</small><small>best 72.00</small><small>top-5 92.00</small>" in page
    assert "chosen by the same images" in page


def test_damaged_best_is_named(experiment: Experiment) -> None:
    experiment.add("a", {}, {"test_top5": 0.9})
    (summary,) = summarise(experiment.path)
    assert "best must be of type dict, but is missing" in summary.runs[0].message
