"""The numbers in README.md are those of the committed results."""

import json
from pathlib import Path

import pytest

from dirprune.export.inference_bench import DENSE

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


RESULTS = [
    ("digits, LeNet-300-100", "digits"),
    ("Fashion-MNIST, LeNet-5", "lenet5-fashion_mnist"),
    ("CIFAR-10, VGG16, first epoch", "vgg16-cifar10-epoch1"),
]


@pytest.mark.parametrize(("start", "name"), RESULTS, ids=[name for _, name in RESULTS])
def test_table_agrees_with_the_results(start, name):
    summary = json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())["summary"]
    rows = [line for line in README.splitlines() if line.startswith(f"| {start}")]
    assert len(rows) == len(summary)
    for row, variant in zip(rows, summary, strict=True):
        accuracy, sparsity = variant["test_accuracy"], variant["sparsity"]
        shown = f"{100 * accuracy['mean']:.2f}"
        if accuracy["sd"] is not None:
            shown += f" ± {100 * accuracy['sd']:.2f}"
        assert f"| {shown} % |" in row
        assert f"| {100 * sparsity['mean']:.2f} % |" in row


def test_table_of_the_step_agrees_with_the_results():
    networks = json.loads((ROOT / "benchmarks" / "results" / "step.json").read_text())["networks"]
    columns = ("SGD, fused", "SGD with momentum, fused", "Adam, fused", "gRDA", "gRDA, plain operations")
    rows = {line.split("|")[1].split(",")[0].strip(): line for line in README.splitlines() if " M | " in line}
    assert set(rows) == {"LeNet-5", "VGG16", "ResNet50", "WRN28x10"}
    for name, row in rows.items():
        times = networks[name.lower().replace("-", "")]["times"]
        assert [cell.strip() for cell in row.split("|")[2:-1]] == [
            f"{1e3 * times[column]['median']:.2f}" for column in columns
        ]


def test_table_of_inference_agrees_with_the_results():
    results = json.loads((ROOT / "benchmarks" / "results" / "inference.json").read_text())["results"]
    for result in results:
        level = "90 %" if "90%" in result["weights"] else "95 %"
        (row,) = [
            line for line in README.splitlines() if line.startswith(f"| {result['network']}, {level} |")
        ]
        tables = {table["threads"]: table["timings"] for table in result["tables"] if table["batch"] == 1}
        expected = []
        for threads in (1, 2):
            timed = {each["name"]: each["milliseconds"] for each in tables[threads] if each["milliseconds"]}
            expected += [min(timed[name] for name in DENSE if name in timed), timed["sparse (ours)"]]
        assert [cell.strip() for cell in row.split("|")[2:-1]] == [f"{time:.2f}" for time in expected]


def test_short_training_of_vgg16_agrees_with_the_results():
    results = ROOT / "src" / "dirprune" / "recipes" / "results" / "vgg16-width0.25-cifar10.json"
    runs = {run["name"]: run["result"] for run in json.loads(results.read_text())["runs"]}
    told = README[README.index("A short training does not reach") : README.index("**A step**")]
    accuracy = {name: f"{100 * result['test_accuracy']:.2f} %" for name, result in runs.items()}
    zeros = {name: f"{100 * result['sparsity']:.2f} %" for name, result in runs.items()}
    assert accuracy["sgd-seed0"] in told
    for name in ("grda-c0.002-mu0.6-seed0", "grda-c0.004-mu0.6-seed0"):
        assert accuracy[name] in told
        assert zeros[name] in told
    assert accuracy["grda-c0.004-mu0.7-seed0"] == "10.00 %"  # of ten classes: nothing was learnt
