"""Every recipe can be built, is named as it is called, and says how to run it."""

import ast
import re
from dataclasses import replace

import pytest
import torch

from dirprune.data import DATASETS
from dirprune.errors import UsageError
from dirprune.models import create_model
from dirprune.recipes import RECIPES, get_recipe
from dirprune.recipes.recommended import recommended
from dirprune.train import TrainConfig
from tests.results import ROOT, Compared, measured, told_on


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_describes_a_network_for_its_data(name):
    config = get_recipe(name).config
    assert config.recipe == name
    assert name.startswith(config.model) or config.dataset == name
    spec = DATASETS[config.dataset]
    channels, height, _ = spec.image_shape
    assert len(config.mean) == channels
    size = config.image_size or height
    with torch.device("meta"):  # shapes, without drawing a hundred million weights
        model = create_model(
            config.model,
            num_classes=spec.num_classes,
            in_channels=channels,
            image_size=size,
            width=config.width,
        )
        assert model(torch.zeros(2, channels, size, size)).shape == (2, spec.num_classes)


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_says_command_hardware_and_expected_numbers(name):
    text = RECIPES[name].__doc__
    assert f"dirprune train {name}" in text
    assert "Hardware and time:" in text
    assert "Expect" in text


def test_vgg16_cifar10_is_as_published():
    config = get_recipe("vgg16-cifar10").config
    assert (config.batch_size, config.lr, config.momentum, config.weight_decay) == (128, 0.1, 0.0, 0.0)
    assert (config.epochs, config.schedule, config.crop_padding, config.flip) == (600, "half-linear", 4, True)
    assert (config.c, config.mu, config.prune) == (5e-4, 0.51, "all")
    assert (config.mean, config.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.mark.parametrize("name", ["wrn28x10-cifar10", "wrn28x10-cifar100"])
def test_wide_resnets_are_as_published(name):
    config = get_recipe(name).config
    assert (config.batch_size, config.lr, config.momentum, config.weight_decay) == (128, 0.1, 0.0, 0.0)
    assert (config.epochs, config.schedule, config.crop_padding, config.flip) == (200, "half-linear", 4, True)
    assert (config.c, config.mu, config.prune) == (1e-3, 0.501, "all")
    assert (config.mean, config.std) == ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))


def test_a_smaller_wide_resnet_is_the_same_recipe():
    small, published = get_recipe("wrn16x4-cifar100").config, get_recipe("wrn28x10-cifar100").config
    assert replace(small, recipe=published.recipe, model=published.model) == published
    assert (small.recipe, small.model) == ("wrn16x4-cifar100", "wrn16x4")
    with pytest.raises(UsageError, match="unknown recipe"):
        get_recipe("wrn16x4-mnist")


def test_a_slip_in_the_suffix_is_told_the_right_name():
    with pytest.raises(UsageError, match="did you mean 'digits-recommended'"):
        get_recipe("digits-recomended")


@pytest.mark.parametrize("name", [*RECIPES, "wrn16x4-cifar100"])
def test_every_recipe_has_a_recommended_form(name):
    published = get_recipe(name).config
    config = get_recipe(f"{name}-recommended").config
    assert (config.recipe, config.prune) == (f"{name}-recommended", "weights")
    kept = (
        "dataset",
        "model",
        "epochs",
        "schedule_epochs",
        "batch_size",
        "weight_decay",
        "beta2",
        "flip",
        "mean",
        "std",
    )
    assert [getattr(config, field) for field in kept] == [getattr(published, field) for field in kept]


def test_the_recommended_setting_is_that_of_the_page():
    """What docs/frontier.md recommends, at the length at which it was measured."""
    page = (ROOT / "docs" / "frontier.md").read_text()
    _, _, rest = page.partition("## The setting that we recommend")
    call = rest.partition("optimizer = dirprune.GRDA(")[2].partition("\n)")[0]
    config = get_recipe("lenet5-fashion_mnist-recommended").config
    for name in ("lr", "momentum", "nesterov", "penalty", "mu"):
        assert ast.literal_eval(re.search(rf"\b{name}=(.*),", call)[1]) == getattr(config, name)
    c = float(re.search(r"\bc=(.*),", call)[1])
    assert config.c * config.epochs == pytest.approx(c * 10, rel=0.01)  # ten epochs of the same data
    assert config.schedule == "half-linear"


def test_the_recommended_setting_of_a_transformer_is_that_of_the_comparison():
    """The rate and the threshold that the form ended with at 95 % of the weights."""
    config = get_recipe("vit2x64p7-fashion_mnist-recommended").config
    row = Compared("vit-rescaled").rows["grda-rescaled", 0.95]
    chosen, epochs = row["settings"], 8
    assert (config.penalty, config.mu, config.nesterov) == ("rescaled", 1, False)
    assert (config.lr, config.momentum) == (pytest.approx(chosen["lr"], rel=0.03), chosen["momentum"])
    ends = config.c * config.lr**1.5 * config.epochs, chosen["c"] * chosen["lr"] ** 1.5 * epochs
    assert ends[0] == pytest.approx(ends[1], rel=0.01)
    assert round(100 * row["sparsity"]["mean"]) == 92
    (run,) = measured("vit2x64p7-fashion_mnist-recommended")["runs"]
    assert TrainConfig.from_json(run["config"]) == replace(config, validation=0.1)
    accuracy, zeros = (100 * run["result"][key] for key in ("test_accuracy", "sparsity"))
    assert f"at {zeros:.2f} % zeros, {accuracy:.2f} % on a tenth" in " ".join(
        (recommended.__doc__ or "").split()
    )
    words = f"ended at {zeros:.2f} % zeros of all, with {accuracy:.2f} % on held-back images (one seed)"
    assert words in told_on("docs/frontier.md")


def test_resnet50_imagenet_is_as_published():
    config = get_recipe("resnet50-imagenet").config
    assert (config.batch_size, config.lr, config.momentum, config.weight_decay) == (256, 0.1, 0.0, 0.0)
    assert (config.c, config.mu, config.prune, config.flip) == (0.005, 0.55, "all", True)
    rates = [round(config.learning_rate(epoch), 12) for epoch in range(1, 151)]
    assert rates == [0.1] * 140 + [0.01] * 10
    assert (config.mean, config.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
