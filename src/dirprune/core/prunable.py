"""Which parameters of a model are thresholded."""

import sys
import warnings
from collections.abc import Callable
from typing import Any, Literal

from torch import nn
from torch.nn.modules.conv import _ConvNd

from dirprune.errors import UsageError

Include = Literal["all", "weights"] | Callable[[str, nn.Module], bool]

_ATTENTION_WEIGHTS = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")


def is_linear_or_conv_weight(name: str, module: nn.Module) -> bool:
    """Whether ``name`` is the weight of ``module``, a linear or (transposed) convolutional layer.

    The maps of :class:`torch.nn.MultiheadAttention` are linear layers too, under names of their own, and so
    is ``Conv1D`` of Hugging Face transformers, of which GPT-2 is made.
    """
    if isinstance(module, nn.MultiheadAttention):
        return name in _ATTENTION_WEIGHTS
    return name == "weight" and _is_linear_or_conv(module)


def _is_linear_or_conv(module: nn.Module) -> bool:
    # A module of transformers can only be there once the package has been imported.
    of_transformers = getattr(sys.modules.get("transformers.pytorch_utils"), "Conv1D", ())
    return isinstance(module, (nn.Linear, _ConvNd, of_transformers))


def prunable_groups(model: nn.Module, include: Include = "weights") -> list[dict[str, Any]]:
    """Parameter groups for :class:`dirprune.GRDA`: those that become sparse, and those that stay dense.

    A parameter that stays dense is in a group with ``c=0``, where gRDA is SGD exactly (AdamW with ``beta2``).
    Every parameter of the model is in one group; a parameter shared by several modules is prunable if any of
    them says so, but for a linear layer that shares its weight with an embedding, which stays dense by
    ``"weights"``.

    Args:
        model: Any module.
        include: ``"weights"``: the weights of Linear and Conv layers only, the maps of MultiheadAttention
            and the Conv1D of transformers among them; a layer whose weight is computed from other parameters
            (weight_norm, spectral_norm, torch.nn.utils.prune) stays dense, with a warning. ``"all"``: every
            parameter, biases and normalisation too, which are the groups of ``model.parameters()`` (the
            paper's setting, and how it counts sparsity). Or a function of (name of the parameter within its
            module, that module) that returns whether to threshold it.

    Returns:
        One group ``{"params": [...]}``, and, if there are parameters that stay dense, a second
        ``{"params": [...], "c": 0.0}``, in the order of ``model.parameters()``.

    Raises:
        UsageError: ``include`` is not one of these, or selects nothing.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
        >>> [len(group["params"]) for group in prunable_groups(model)]
        [2, 4]

    References:
        Chao et al. 2020, section 4, for thresholding everything.
    """
    chosen = set(prunable_parameters(model, include).values())
    dense = [parameter for parameter in model.parameters() if parameter not in chosen]
    groups: list[dict[str, Any]] = [{"params": [p for p in model.parameters() if p in chosen]}]
    return [*groups, {"params": dense, "c": 0.0}] if dense else groups


def prunable_parameters(model: nn.Module, include: Include = "all") -> dict[str, nn.Parameter]:
    """Parameters that become sparse, by their names.

    A parameter shared by several modules has its first name.

    Args:
        model: Any module.
        include: As in :func:`prunable_groups`.

    Returns:
        Names as in ``model.named_parameters()``, in its order.

    Raises:
        UsageError: ``include`` is unknown, or selects nothing.

    Example:
        >>> list(prunable_parameters(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)), "weights"))
        ['0.weight']
    """
    if include == "all":
        select: Callable[[str, nn.Module], bool] = lambda name, module: True  # noqa: ARG005, E731
    elif include == "weights":
        select = is_linear_or_conv_weight
    elif callable(include):
        select = include
    else:
        raise UsageError(
            f"include must be 'all', 'weights' or a function (name, module) -> bool, not {include!r}"
        )
    embeddings: set[nn.Parameter] = set()
    if include == "weights":
        _warn_of_computed_weights(model)
        embeddings = {
            parameter
            for module in model.modules()
            if isinstance(module, (nn.Embedding, nn.EmbeddingBag))
            for parameter in module.parameters(recurse=False)
        }
    chosen = {
        parameter
        for module in model.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if select(name, module) and parameter not in embeddings
    }
    if not chosen:
        raise UsageError(
            f"include={include!r} selects no parameter of {type(model).__name__}: "
            "pass include='all' or a function that selects some"
        )
    return {name: parameter for name, parameter in model.named_parameters() if parameter in chosen}


def _warn_of_computed_weights(model: nn.Module) -> None:
    """Say which layers have no weight among their own parameters, but compute one."""
    computed = [
        name
        for name, module in model.named_modules()
        if _is_linear_or_conv(module) and "weight" not in dict(module.named_parameters(recurse=False))
    ]
    if computed:
        more = f" and {len(computed) - 1} more" if len(computed) > 1 else ""
        warnings.warn(
            f"the weight of {computed[0]!r}{more} is computed from other parameters, which stay dense: take "
            "weight_norm and the like away, or pass a function that selects what to threshold",
            stacklevel=4,
        )
