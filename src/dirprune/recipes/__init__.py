"""Named experiments: one function each, whose docstring says command, hardware, time and expected numbers."""

import re
from collections.abc import Callable
from dataclasses import replace

from dirprune.errors import UsageError, unknown
from dirprune.recipes.cifar import vgg16_cifar10, wrn28x10_cifar10, wrn28x10_cifar100
from dirprune.recipes.digits import digits
from dirprune.recipes.fashion_mnist import (
    lenet5_fashion_mnist,
    lenet5_fashion_mnist_l0,
    vit2x64p7_fashion_mnist,
)
from dirprune.recipes.imagenet import resnet50_imagenet
from dirprune.recipes.recommended import SUFFIX, recommended
from dirprune.train import Experiment

RECIPES: dict[str, Callable[[], Experiment]] = {
    recipe().config.recipe: recipe
    for recipe in (
        digits,
        lenet5_fashion_mnist,
        lenet5_fashion_mnist_l0,
        vit2x64p7_fashion_mnist,
        vgg16_cifar10,
        wrn28x10_cifar10,
        wrn28x10_cifar100,
        resnet50_imagenet,
    )
}
_WIDE_RESNET = re.compile(r"wrn\d+x\d+")


def get_recipe(name: str) -> Experiment:
    """Return the experiment of that name.

    ``wrn<depth>x<widen>-...`` is the recipe of the Wide ResNet 28-10 with another depth and width;
    ``...-recommended`` any recipe in the setting of :func:`~dirprune.recipes.recommended.recommended`.

    Raises:
        UsageError: There is none.

    Example:
        >>> get_recipe("digits").config.model
        'lenet-300-100'
        >>> get_recipe("wrn16x4-cifar100").config.model
        'wrn16x4'
        >>> get_recipe("wrn16x4-cifar100-recommended").config.penalty
        'l0'
    """
    if name.endswith(SUFFIX):
        return recommended(get_recipe(name.removesuffix(SUFFIX)))
    model, _, data = name.partition("-")
    published = f"wrn28x10-{data}"
    if _WIDE_RESNET.fullmatch(model) and published in RECIPES:
        experiment = RECIPES[published]()
        return replace(experiment, config=replace(experiment.config, recipe=name, model=model))
    if name not in RECIPES:
        relatives = [known + SUFFIX for known in RECIPES]
        if _WIDE_RESNET.fullmatch(model):
            relatives += [known.replace("wrn28x10", model) for known in RECIPES if "wrn28x10" in known]
        raise UsageError(unknown("recipe", name, RECIPES, unlisted=relatives))
    return RECIPES[name]()
