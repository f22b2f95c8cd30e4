"""The method of a run: made from its configuration, started on its network, and what its steps cost."""

import ast
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import starmap
from typing import Any

import torch
from torch import Tensor, nn

from dirprune.core.modes import evaluating
from dirprune.core.prunable import prunable_parameters
from dirprune.core.sparsity import SparsityReport
from dirprune.errors import HyperparameterError, UsageError
from dirprune.methods import METHODS, Method, TrainingPlan, create_method
from dirprune.train.config import TrainConfig

# Their optimisers are held to one process bit for bit by tests; the others see one process's part only.
_SEVERAL_PROCESSES = ("sgd", "grda")


def make_method(config: TrainConfig) -> Method[Any]:
    """Return the method that a configuration asks for, to be started once.

    Raises:
        UsageError: A setting does not belong to it, or is out of its range.

    Example:
        >>> config = TrainConfig(recipe="mine", dataset="digits", model="lenet5", method="rigl", sparsity=0.9)
        >>> make_method(config).settings
        RigLSettings(drop=0.3, every=100, end=0.75)
    """
    if config.method == "grda":
        if config.settings:
            raise UsageError("gRDA's settings are `c`, `mu` and `penalty`, not `settings`")
        return create_method("grda", c=config.c, mu=config.mu, penalty=config.penalty)
    return create_method(config.method, **typed_settings(config.method, config.settings))


def typed_settings(method: str, pairs: Sequence[str]) -> dict[str, Any]:
    """Read settings of the form ``name=value`` as the method's own defaults are typed.

    Raises:
        HyperparameterError: A value is of another type.

    Example:
        >>> typed_settings("rigl", ["drop=0.5", "every=20"])
        {'drop': 0.5, 'every': 20}
    """
    defaults = METHODS[method].settings
    known = {field.name for field in fields(defaults)}
    split = (pair.split("=", 1) for pair in pairs)
    return {
        name: _like(getattr(defaults, name), name, text) if name in known else text for name, text in split
    }


def run_width(config: TrainConfig, build: Callable[[float], nn.Module]) -> float:
    """Return the width of a run's network; ``build`` makes one by its width."""
    nothing_to_see = TrainingPlan(
        total_steps=1,
        steps_per_epoch=1,
        examples=1,
        lr=config.lr,
        batches=lambda: iter(()),
        include=config.prune,
        sparsity=config.sparsity,
    )
    return config.width * make_method(config).width(lambda width: build(config.width * width), nothing_to_see)


def start_method(
    config: TrainConfig,
    model: nn.Module,
    *,
    images: int,
    batches: Callable[[], Iterator[tuple[Tensor, Tensor]]],
    processes: int,
) -> tuple[Method[Any], torch.optim.Optimizer]:
    """Start a run's method on its network.

    Args:
        config: What is trained.
        model: Its network without wrappers, on its device.
        images: Number of training images.
        batches: Returns a pass over training batches whose order depends on the seed alone.
        processes: That train it together.

    Returns:
        The method and its optimiser.

    Raises:
        UsageError: The method cannot be trained so.
    """
    if processes > 1 and config.method not in _SEVERAL_PROCESSES:
        raise UsageError(
            f"{config.method} trains in one process; under torchrun choose {' or '.join(_SEVERAL_PROCESSES)}"
        )
    steps = math.ceil(images / config.batch_size)
    method = make_method(config)
    model.train()
    optimizer = method.start(
        model,
        TrainingPlan(
            total_steps=steps * config.epochs,
            steps_per_epoch=steps,
            examples=images,
            lr=config.lr,
            batches=batches,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            nesterov=config.nesterov,
            beta2=config.beta2,
            include=config.prune,
            sparsity=config.sparsity,
            seed=config.seed,
        ),
    )
    return method, optimizer


@dataclass(frozen=True)
class Cost:
    """Multiplications of a network's forward pass, image by image; what training costs follows from them.

    Args:
        forward: For each weight of a linear or convolutional layer, by name.
    """

    forward: dict[str, int]

    @classmethod
    @torch.no_grad()
    def of(cls, model: nn.Module, shape: tuple[int, int, int]) -> "Cost":
        """Count with one black image; the network is left as it was.

        Example:
            >>> Cost.of(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), (1, 2, 2)).forward
            {'1.weight': 12}
        """
        counts: dict[str, int] = {}

        def add(name: str, weight: Tensor, places: int) -> None:
            # Each output is the product of one row of the weight with what it sees.
            counts[name] = counts.get(name, 0) + weight.numel() * places

        def count(name: str, module: nn.Module) -> Any:
            def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
                if isinstance(module, nn.MultiheadAttention):  # which does not call its layers
                    for key, weight in prunable_parameters(module, "weights").items():
                        add(f"{name}.{key}", weight, output[0].numel() // module.embed_dim)
                else:
                    weight = module.get_parameter("weight")
                    add(f"{name}.weight", weight, output.numel() // weight.shape[0])

            return module.register_forward_hook(hook)

        kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.MultiheadAttention)
        layers = [(n, m) for n, m in model.named_modules() if isinstance(m, kinds)]
        hooks = list(starmap(count, layers))
        try:
            with evaluating(model):
                model(torch.zeros(1, *shape))
        finally:
            for hook in hooks:
                hook.remove()
        return cls(counts)

    def of_epoch(
        self, method: Method[Any], sparsity: SparsityReport, steps: Sequence[int], images: int
    ) -> float:
        r"""Return the multiplications of an epoch that a machine would make that skips every pruned weight.

        .. math:: N \sum_l F_l \, (\overline{a} + d_l \, \overline{b})

        with N images, F of layer l, its density d after the epoch, and the means over the steps of the dense
        and the sparse passes that :meth:`~dirprune.methods.Method.work` tells.

        Args:
            method: What was trained.
            sparsity: After the epoch.
            steps: Numbers of the epoch's steps, from 1.
            images: Training images.
        """
        works = [method.work(step) for step in steps]
        dense = sum(work.dense for work in works) / len(works)
        sparse = sum(work.sparse for work in works) / len(works)
        density = {layer.name: 1 - layer.sparsity for layer in sparsity.layers}
        return images * sum(
            count * (dense + sparse * density.get(name, 1.0)) for name, count in self.forward.items()
        )


def _like(default: Any, name: str, text: str) -> Any:
    """Read a value that is to have the type of another."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    if isinstance(default, float) and type(value) is int:
        value = float(value)
    if type(value) is not type(default):
        raise HyperparameterError(
            f"`settings` {name} must be of type {type(default).__name__}, such as {default}; got {text}"
        )
    return value
