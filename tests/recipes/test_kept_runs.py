"""The runs that are kept of a recipe are of that recipe, and it expects what they gave."""

import argparse
import json
import re
import shlex
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import first_steps
from dirprune import recipes
from dirprune.cli.arguments import parse
from dirprune.cli.train import TrainOptions
from dirprune.recipes import RECIPES, get_recipe
from dirprune.train import TrainConfig
from tests.results import ROOT, assert_told, measured

KEPT = Path(recipes.__file__).parent / "results"


def kept(name):
    return json.loads((KEPT / f"{name}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ["digits", "lenet5-fashion_mnist", "vit2x64p7-fashion_mnist"])
def test_kept_runs_have_the_settings_of_their_recipe(name):
    """What docstrings and README tell of them is told of the recipe as it is."""
    recipe = get_recipe(name).config
    held = [TrainConfig.from_json(run["config"]) for run in measured(name)["runs"]]
    for config in held:
        told = replace(recipe, seed=config.seed, c=config.c, validation=config.validation)
        assert config == told.with_method(config.method)
    assert recipe.c in {config.c for config in held}


@pytest.mark.parametrize(
    "name", ["lenet5-fashion_mnist", "lenet5-fashion_mnist-l0", "vit2x64p7-fashion_mnist"]
)
def test_recipe_expects_what_was_measured(name):
    """Every accuracy and sparsity that its docstring tells is that of a run, and every run is told."""
    expected = " ".join((RECIPES[name].__doc__ or "").partition("Expect")[2].split())
    percentages = set(re.findall(r"(\d+\.\d+) %", expected))
    found = set()
    for variant in measured(name)["summary"]:
        found.add(f"{100 * variant['test_accuracy']['mean']:.2f}")
        if variant["sparsity"]["mean"]:
            found.add(f"{100 * variant['sparsity']['mean']:.2f}")
    assert percentages == found


def test_the_first_epoch_of_vgg16_is_what_its_recipe_expects():
    runs = {run["name"]: run for run in kept("vgg16-cifar10")["runs"]}
    sgd, grda = runs["sgd-seed0"], runs["grda-c0.0005-mu0.51-seed0"]
    assert (sgd["config"]["precision"], sgd["config"]["channels_last"], sgd["config"]["seed"]) == (
        "no",
        True,
        0,
    )
    told = " ".join((RECIPES["vgg16-cifar10"].__doc__ or "").split())
    assert "seed 0, float32 and channels_last" in told
    for run, words in (
        (sgd, "SGD {accuracy:.2f} %"),
        (grda, "gRDA at mu 0.51 {accuracy:.2f} % at {zeros:.2f} % sparsity"),
    ):
        epochs = run["epochs"]
        words = words.format(accuracy=100 * epochs["test_accuracy"][0], zeros=100 * epochs["sparsity"][0])
        assert f"{words}, training loss {epochs['train_loss'][0]:.2f}" in told


def time_told(name):
    """What a recipe says of hardware and time."""
    told = " ".join((RECIPES[name].__doc__ or "").split())
    return told.partition("Hardware and time:")[2].partition("The first start")[0]


def test_the_time_of_vgg16_is_that_of_the_kept_runs():
    runs = {run["name"]: run for run in kept("vgg16-cifar10")["runs"]}
    sgd = runs.pop("sgd-seed0")
    assert {run["config"]["method"] for run in runs.values()} == {"grda"}
    assert len(runs) == 4
    assert sgd["environment"]["cpu"] == "AMD EPYC"
    assert {run["environment"]["cpu"].partition("(R)")[0] for run in runs.values()} == {"Intel"}
    assert {(run["environment"]["threads"], run["result"]["epochs"]) for run in (sgd, *runs.values())} == {
        (1, 2)
    }
    seconds = [run["result"]["seconds"] for run in runs.values()]
    assert_told(
        time_told("vgg16-cifar10"),
        [
            "The first 2 epochs in float32, one thread of a shared CPU,",
            f"took SGD {sgd['result']['seconds']:.0f} s (AMD EPYC)",
            f"gRDA's four runs {min(seconds):.0f} to {max(seconds):.0f} s (Intel Xeon)",
        ],
    )


@pytest.mark.parametrize("name", ["wrn28x10-cifar10", "wrn28x10-cifar100"])
def test_the_length_that_was_trained_of_wrn28x10_is_that_of_the_kept_runs(name):
    runs = [run for run in kept("first-steps")["runs"].values() if run["config"]["recipe"] == name]
    (steps,) = {run["points"]["step"][-1] for run in runs}
    epoch = -(-50_000 // runs[0]["config"]["batch_size"])
    told = time_told(name)
    assert_told(told, [f"the first {steps} of {epoch} steps of an epoch"])
    assert not re.search("hour|minute", told)  # no file holds how long they took


@pytest.fixture(scope="module")
def commands_of_paper():
    """What `make paper` would run, word by word."""
    if shutil.which("make") is None:
        pytest.skip("there is no make")
    ended = subprocess.run(
        ["make", "--dry-run", "paper", "DATA_DIR=DATA"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [shlex.split(line) for line in ended.stdout.splitlines() if "--data-dir" in line]


def test_make_paper_makes_the_kept_runs_and_deletes_none(commands_of_paper):
    """Names and settings are the same; what a file holds already stays in it."""
    made, collections = {}, {}
    for program, *words in commands_of_paper:
        if Path(program).name == "dirprune":
            assert words[0] == "train"
            recipe = get_recipe(words[1])
            options = parse(TrainOptions, words[2:], prog="", default=TrainOptions(experiment=recipe))
            experiment = options.experiment
            folder = options.out / experiment.config.experiment_name(recipe.config)
            made.setdefault(folder, {}).update({run.run_name: run for run in experiment.runs()})
        elif words[0].endswith("collect.py"):
            assert "--merge" in words, words
            collections[Path(words[1])] = Path(words[words.index("--output") + 1])
    assert {(ROOT / path).resolve() for path in collections.values()} == {
        path.resolve() for path in KEPT.glob("*.json") if path.name != "first-steps.json"
    }
    for pattern, output in collections.items():
        folders = [folder for folder in made if folder.match(str(pattern))]
        held = {run["name"]: TrainConfig.from_json(run["config"]) for run in kept(output.stem)["runs"]}
        assert {name: run for folder in folders for name, run in made[folder].items()} == held, output
        assert sum(len(made[folder]) for folder in folders) == len(held)


def test_make_paper_takes_the_kept_first_steps(commands_of_paper, monkeypatch):
    taken = {}

    def note(name: str, options: argparse.Namespace) -> None:
        experiment = first_steps.experiment_of(name, options)
        folder = experiment.config.experiment_name(get_recipe(name).config)
        for run in experiment.runs():
            taken[f"{folder}/{run.run_name}"] = (options.steps, run)

    monkeypatch.setattr(first_steps, "train", note)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    for _, script, *words in commands_of_paper:
        if script.endswith("first_steps.py"):
            assert first_steps.main(words) == 0
    for name, run in kept("first-steps")["runs"].items():
        assert taken[name] == (run["points"]["step"][-1], TrainConfig.from_json(run["config"]))
