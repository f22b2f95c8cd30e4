"""A smaller dense network that computes the same: channels that are provably superfluous are removed."""

import copy
import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from dirprune.errors import ExportError, first_line
from dirprune.export.dead import Dead, find_dead
from dirprune.export.graph import BatchNorm, Conv, Graph, Shape
from dirprune.export.sparse_runtime import dense_outputs, samples, small_difference
from dirprune.export.tracing import read_graph

TOLERANCE = 1e-5


@dataclass(frozen=True)
class Size:
    """How much a network is.

    Attributes:
        channels: Outputs of its convolutions and linear layers.
        parameters: Elements of its parameters.
        multiplications: For one sample, by the weights of its convolutions and linear layers.
        milliseconds: Median time for one sample on the CPU, here and now.
    """

    channels: int
    parameters: int
    multiplications: int
    milliseconds: float


@dataclass(frozen=True)
class SlimResult:
    """What `slim` returns.

    Attributes:
        model: The smaller network, a module of the same class.
        before: Size of the network as it was.
        after: Size of the smaller one.
        layers: Per convolution and linear layer, by the name of its weight: outputs before and after.
        difference: The greatest difference of outputs that was seen.
    """

    model: nn.Module
    before: Size
    after: Size
    layers: dict[str, tuple[int, int]]
    difference: float


def slim(model: nn.Module, input_shape: Shape, *, example: Tensor | None = None) -> SlimResult:
    """Remove every channel without which the network computes the same, in evaluation mode.

    A channel goes if every layer that reads it has zero weights for it, or if it is constant (its own weights
    are zero, or its BatchNorm's scale is) and the readers can carry the constant: in their bias, or, where
    zeros around the map would show, by the weights of one constant channel that stays for all. Channels that
    a sum, a join or groups tie together go together or not at all.

    Args:
        model: The module; it is not changed.
        input_shape: Of one sample, such as (3, 32, 32).
        example: float32 [n, *input_shape] to compare outputs on; default: four of normal noise.

    Returns:
        The smaller module and what was gained.

    Raises:
        ExportError: The network is not understood, or the outputs differ by more than 1e-5 of the
            greatest, or of 1.
        UsageError: The example or its shape is none.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))
        >>> with torch.no_grad():
        ...     _ = model[0].weight[1:3].zero_()  # two channels are constant: relu(bias)
        >>> slim(model, (1, 4, 4)).model
        Sequential(
          (0): Conv2d(1, 2, kernel_size=(3, 3), stride=(1, 1))
          (1): ReLU()
          (2): Flatten(start_dim=1, end_dim=-1)
          (3): Linear(in_features=8, out_features=2, bias=True)
        )
    """
    example = samples(input_shape, 4, example)
    graph = read_graph(model, tuple(input_shape))
    dead = find_dead(graph)
    smaller = copy.deepcopy(model)
    load_slim(_state(graph, dead, model), smaller)
    expected = dense_outputs(model, example)
    try:
        actual = dense_outputs(smaller, example)
    except RuntimeError as error:
        raise ExportError(
            f"{type(model).__name__}.forward counts on its channels: {first_line(error)}"
        ) from error
    difference = small_difference("the smaller network", actual, expected, TOLERANCE)
    layers = {
        layer.weight: (layer.shape[0], int(dead.keep[layer.name].sum()))
        for layer in graph.layers
        if isinstance(layer, Conv)
    }
    one = example[:1]
    small_graph = read_graph(smaller, tuple(input_shape))
    return SlimResult(smaller, _size(model, graph, one), _size(smaller, small_graph, one), layers, difference)


def load_slim(state: Mapping[str, Tensor], model: nn.Module) -> None:
    """Load a state dict that `slim` made smaller into a network, whose layers take its shapes.

    Args:
        state: State dict of the smaller one, such as `load_sparse` returns.
        model: A module of the architecture before it was made smaller; it is changed.

    Raises:
        ExportError: It is not the state of such a network.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> smaller = nn.Sequential(nn.Linear(4, 1), nn.ReLU(), nn.Linear(1, 2))
        >>> load_slim(smaller.state_dict(), model)
        >>> model[0]
        Linear(in_features=4, out_features=1, bias=True)
    """
    for prefix, module in model.named_modules():
        for name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            new = state.get(f"{prefix}.{name}" if prefix else name, tensor)
            if new.shape == tensor.shape:
                continue
            if not isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm1d | nn.BatchNorm2d) or (
                new.ndim != tensor.ndim or new.shape[2:] != tensor.shape[2:]
            ):
                raise ExportError(
                    f"{prefix}.{name} of a {type(module).__name__} is {list(tensor.shape)} in the network, "
                    f"{list(new.shape)} in the state: not a smaller network of this architecture"
                )
            fresh = torch.empty(new.shape, dtype=tensor.dtype, device=tensor.device)
            if isinstance(tensor, nn.Parameter):
                setattr(module, name, nn.Parameter(fresh, requires_grad=tensor.requires_grad))
            else:
                setattr(module, name, fresh)
        _fit_numbers(module, state.get(f"{prefix}.bias" if prefix else "bias"))
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ExportError(
            f"the state does not fit the network: {' '.join(str(error).split())[:300]}"
        ) from error


def _fit_numbers(module: nn.Module, bias: Tensor | None) -> None:
    """Let a layer's numbers say what its tensors are, and give it a bias if the state has one."""
    if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
        if module.running_mean is not None:
            module.num_features = len(module.running_mean)
    elif isinstance(module, nn.Conv2d | nn.Linear):
        weight = module.weight
        if bias is not None and module.bias is None:
            module.bias = nn.Parameter(weight.new_zeros(bias.shape))
        if isinstance(module, nn.Linear):
            module.out_features, module.in_features = weight.shape
            return
        if module.groups > 1:
            module.groups = len(weight) // (module.out_channels // module.groups)
        module.out_channels, module.in_channels = len(weight), weight.shape[1] * module.groups


def _state(graph: Graph, dead: Dead, model: nn.Module) -> dict[str, Tensor]:
    """The state dict of the smaller network."""
    state = dict(model.state_dict())
    for layer in graph.layers:
        keep = torch.from_numpy(dead.keep[layer.name])
        if isinstance(layer, BatchNorm):
            for name in (layer.weight, layer.bias, layer.mean, layer.variance):
                if name is not None:
                    state[name] = _owned(state, name)[keep.to(state[name].device)]
        elif isinstance(layer, Conv):
            weight, bias = _smaller(graph, dead, layer)
            old = _owned(state, layer.weight)
            state[layer.weight] = weight.to(old)
            if layer.bias is not None or bias.any():
                state[layer.bias or layer.weight.removesuffix("weight") + "bias"] = bias.to(old)
    return state


def _owned(state: Mapping[str, Tensor], name: str) -> Tensor:
    """A tensor that a layer owns under one of the usual names."""
    if name not in state or name.rpartition(".")[2] not in ("weight", "bias", "running_mean", "running_var"):
        raise ExportError(f"{name} is not the weight of a layer: its channels cannot be removed")
    return state[name]


def _smaller(graph: Graph, dead: Dead, layer: Conv) -> tuple[Tensor, Tensor]:
    """Weight and bias (float64) for the channels that stay; constants of those that go are carried."""
    weight = graph.state[layer.weight].detach().cpu().double()
    bias = torch.zeros(len(weight)).double()
    if layer.bias is not None:
        bias += graph.state[layer.bias].detach().cpu().double()
    keep = torch.from_numpy(dead.keep[layer.name])
    if layer.groups > 1:  # inputs of a group go with its outputs
        return weight[keep], bias[keep]
    source = layer.inputs[0]
    stays, constants = dead.keep[source], dead.constants[source]
    carried = torch.from_numpy(np.flatnonzero(~stays & (np.nan_to_num(constants) != 0)))
    values = torch.from_numpy(constants)[carried]
    if len(carried) and layer.padding == (0, 0):
        bias += (weight[:, carried].flatten(2).sum(-1) if weight.ndim > 2 else weight[:, carried]) @ values
    elif len(carried) and source in dead.stand_in:
        chosen = dead.stand_in[source]
        shares = (values / constants[chosen])[:, None, None]
        weight[:, chosen] += (weight[:, carried] * shares).sum(1)
    return weight[keep][:, torch.from_numpy(stays)], bias[keep]


def _size(model: nn.Module, graph: Graph, one: Tensor) -> Size:
    seconds = []
    for _ in range(7):
        start = time.perf_counter()
        dense_outputs(model, one)
        seconds.append(time.perf_counter() - start)
    return Size(
        sum(layer.shape[0] for layer in graph.layers if isinstance(layer, Conv)),
        sum(parameter.numel() for parameter in model.parameters()),
        graph.multiplications(),
        1e3 * float(np.median(seconds)),
    )
