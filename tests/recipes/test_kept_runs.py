"""The runs that are kept of a recipe are of that recipe, and it expects what they gave."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from dirprune import recipes
from dirprune.recipes import RECIPES, get_recipe
from dirprune.train import TrainConfig
from tests.results import measured


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
    path = Path(recipes.__file__).parent / "results" / "vgg16-cifar10.json"
    runs = {run["name"]: run for run in json.loads(path.read_text())["runs"]}
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
