"""Named experiments: one function each, whose docstring says command, hardware, time and expected numbers."""

from collections.abc import Callable

from dirprune.errors import UsageError, unknown
from dirprune.recipes.cifar import vgg16_cifar10
from dirprune.recipes.digits import digits
from dirprune.recipes.fashion_mnist import lenet5_fashion_mnist
from dirprune.train import Experiment

RECIPES: dict[str, Callable[[], Experiment]] = {
    recipe().config.recipe: recipe for recipe in (digits, lenet5_fashion_mnist, vgg16_cifar10)
}


def get_recipe(name: str) -> Experiment:
    """Return the experiment of that name.

    Raises:
        UsageError: There is none.

    Example:
        >>> get_recipe("digits").config.model
        'lenet-300-100'
    """
    if name not in RECIPES:
        raise UsageError(unknown("recipe", name, RECIPES))
    return RECIPES[name]()
