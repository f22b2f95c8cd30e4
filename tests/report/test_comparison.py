"""Comparisons from files that nobody has checked; those of `dirprune compare` are in tests/compare."""

import json
import math
import re
import shutil
from typing import Any

import pytest

from dirprune.errors import RunFolderError
from dirprune.report import read_comparison, write_report
from dirprune.report.comparison_page import comparison_headline, comparison_sections
from tests.report.conftest import Experiment


@pytest.fixture
def compared(experiment: Experiment) -> Experiment:
    """Two methods at one sparsity, whose networks name their layers in two ways."""
    choices = []
    for seed, (name, layers) in enumerate((("grda", ("fc1", "fc2")), ("other", ("fc1", "fc3")))):
        tensors = [{"name": f"{layer}.weight", "shape": [10, 10], "zeros": 90} for layer in layers]
        experiment.add(name, {"method": name, "seed": seed}, {"sparsity": 0.9, "layers": tensors})
        chosen = {"values": {"lr": 0.1}}
        choices.append({"method": name, "target": 0.9, "candidate": chosen, "runs": [name]})
    needs = dict.fromkeys(("needs_target", "needs_pretrained", "needs_hessian"), False)
    write(
        experiment,
        {
            "protocol": ["Equal trials."],
            "reference": "grda",
            "methods": {name: {"title": name.upper(), **needs} for name in ("grda", "other")},
            "choices": choices,
        },
    )
    return experiment


def write(experiment: Experiment, content: dict[str, Any]) -> None:
    (experiment.path / "comparison.json").write_text(json.dumps(content))


def read(experiment: Experiment) -> Any:
    return json.loads((experiment.path / "comparison.json").read_text())


def test_a_layer_that_only_some_networks_have_keeps_its_column(compared: Experiment) -> None:
    results = read_comparison(compared.path)
    assert results is not None
    table = comparison_sections(results)[0].tables[-1]
    assert table.head == ("method", "fc1", "fc2", "fc3")
    assert table.rows == (("GRDA", "90.0", "90.0", "\u2013"), ("OTHER", "90.0", "\u2013", "90.0"))


def test_work_is_told_as_a_part_of_the_dense_networks(compared: Experiment) -> None:
    content = read(compared)
    macs_of = {"grda": 3e9, "other": None, "sgd": 4e9}
    content["methods"]["sgd"] = {**content["methods"]["grda"], "title": "SGD"}
    choices = []
    for name, macs in macs_of.items():
        tensors = [{"name": "fc1.weight", "shape": [10, 10], "zeros": 0}]
        compared.add(f"work-{name}", {"method": name}, {"sparsity": 0.9, "layers": tensors, "macs": macs})
        target = None if name == "sgd" else 0.9
        chosen = {"method": name, "target": target, "candidate": {"values": {"lr": 0.1}}}
        choices.append({**chosen, "runs": [f"work-{name}"]})
    for kept, said in (
        (choices[:2], {"GRDA": "3", "OTHER": "\u2013"}),
        (choices, {"SGD": "4 (100 %)", "GRDA": "3 (75 %)", "OTHER": "\u2013"}),
    ):
        write(compared, {**content, "choices": kept})
        results = read_comparison(compared.path)
        assert results is not None
        tables = [table for table in comparison_sections(results)[0].tables if "GMAC" in table.head]
        assert {row[0]: row[5] for table in tables for row in table.rows} == said


DENSER = (
    "OTHER (90.00 % at 90.00 % sparsity) is the most accurate of the one method that got there; "
    "GRDA (95.00 % at 80.00 % sparsity) did not get there; not ranked, for they came out denser: 1."
)


@pytest.mark.parametrize(
    ("sparsities", "prunable", "said"),
    [
        ((0.90, 0.89), 1.0, "GRDA (95.00 % at 90.00 % sparsity) is the most accurate of 2 methods."),
        ((0.80, 0.90), 1.0, DENSER),
        ((0.80, 0.80), 1.0, None),
        # Of 0.9 of the parameters, 90 % are 81 % of all.
        ((0.81, 0.80), 0.9, "GRDA (95.00 % at 81.00 % sparsity) is the most accurate of 2 methods."),
    ],
)
def test_what_came_out_denser_is_not_ranked(
    compared: Experiment, sparsities: tuple[float, float], prunable: float, said: str | None
) -> None:
    content = read(compared)
    choices = []
    for name, sparsity, accuracy in zip(("grda", "other"), sparsities, (0.95, 0.90), strict=True):
        zeros = round(200 * sparsity - 100)  # of the full network's 200 weights this one has half
        tensors = [{"name": "fc1.weight", "shape": [10, 10], "zeros": zeros}]
        result = {"sparsity": sparsity, "layers": tensors, "test_accuracy": accuracy}
        compared.add(f"rank-{name}", {"method": name}, result)
        chosen = {"method": name, "target": 0.9, "candidate": {"values": {"lr": 0.1}}}
        choices.append({**chosen, "runs": [f"rank-{name}"]})
    write(compared, {**content, "choices": choices, "prunable": prunable})
    results = read_comparison(compared.path)
    assert results is not None
    notes = comparison_headline(results).notes
    assert notes == (() if said is None else (f"90 % wanted: {said}",))


@pytest.mark.parametrize(("parameters", "sparsity"), [(None, 0.5), (200, 0.75), (1000, 0.95)])
def test_the_zeros_of_a_narrow_network_are_of_the_full_one_even_alone(
    compared: Experiment, parameters: int | None, sparsity: float
) -> None:
    tensors = [{"name": "fc1.weight", "shape": [10, 10], "zeros": 50}]
    for run in compared.path.iterdir():
        if run.is_dir():
            shutil.rmtree(run)
    compared.add("alone", {"method": "grda"}, {"sparsity": 0.5, "layers": tensors, "test_accuracy": 0.9})
    content = read(compared)
    chosen = {"method": "grda", "target": 0.9, "candidate": {"values": {"lr": 0.1}}, "runs": ["alone"]}
    write(compared, {**content, "choices": [chosen], "parameters": parameters})
    results = read_comparison(compared.path)
    assert results is not None
    assert results.rows[0].sparsity is not None
    assert results.rows[0].sparsity.mean == pytest.approx(sparsity)


def test_a_method_that_fails_does_not_flatten_the_others(compared: Experiment) -> None:
    """It is told below the figure, and only it; half as many weights as the full network: 95 %."""
    content = read(compared)
    for seed, accuracy in enumerate((0.90, 0.89, 0.88, 0.87, 0.86, 0.30), start=2):
        name = f"m{seed}"
        tensors = [{"name": "fc1.weight", "shape": [10, 10], "zeros": 90}]
        result = {"sparsity": 0.9, "layers": tensors, "test_accuracy": accuracy}
        compared.add(name, {"method": name, "seed": seed}, result)
        content["methods"][name] = {**content["methods"]["grda"], "title": name.upper()}
        content["choices"].append({**content["choices"][0], "method": name, "runs": [name]})
    write(compared, content)
    results = read_comparison(compared.path)
    assert results is not None
    (figure,) = comparison_sections(results)[0].figures
    assert figure.caption.endswith("Below the figure: M7 30.00 % at 95.00 %.")
    content["choices"].pop()
    write(compared, content)
    results = read_comparison(compared.path)
    assert results is not None
    (figure,) = comparison_sections(results)[0].figures
    assert "Below" not in figure.caption


def test_a_title_is_text_whatever_it_holds(compared: Experiment) -> None:
    content = read(compared)
    content["methods"]["other"]["title"] = "<b>\ud800\x1b[31m"
    write(compared, content)
    page = write_report(compared.path).read_text()
    assert "<b>" not in page
    assert "\\ud800\\x1b[31m" in page


def test_a_title_is_no_formula(compared: Experiment) -> None:
    content = read(compared)
    content["methods"]["other"]["title"] = r"a $\foo$ b"
    write(compared, content)
    page = write_report(compared.path).read_text()
    (svg,) = re.findall(r"<svg.*?</svg>", page, re.DOTALL)[:1]
    assert r"a $\foo$ b" in svg


@pytest.mark.parametrize("wanted", ["0.9", -math.inf, 1, 10**400])
def test_a_target_that_is_none_is_damage(compared: Experiment, wanted: object) -> None:
    content = read(compared)
    content["choices"][0]["target"] = wanted
    write(compared, content)
    with pytest.raises(RunFolderError, match="run `dirprune compare` again"):
        write_report(compared.path)


@pytest.mark.parametrize("changes", [{"choices": []}, {"choices": [{}]}, {"methods": {}}, {"protocol": [1]}])
def test_a_comparison_without_what_it_needs_is_damaged(compared: Experiment, changes: dict[str, Any]) -> None:
    write(compared, read(compared) | changes)
    with pytest.raises(RunFolderError, match="run `dirprune compare` again"):
        write_report(compared.path)


def test_settings_are_numbers(compared: Experiment) -> None:
    content = read(compared)
    content["choices"][0]["candidate"]["values"]["lr"] = "much"
    write(compared, content)
    with pytest.raises(RunFolderError, match="run `dirprune compare` again"):
        read_comparison(compared.path)
