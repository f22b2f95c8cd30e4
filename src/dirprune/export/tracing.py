"""Reading a network: from torch.export's graph to the layers of graph.py, or a refusal that says why."""

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn

from dirprune.core.modes import evaluating
from dirprune.errors import ExportError, first_line
from dirprune.export.graph import (
    Add,
    BatchNorm,
    Clamp,
    Concat,
    Conv,
    Flatten,
    Graph,
    Layer,
    Pair,
    Pool,
    Shape,
)

_BATCH = 2  # a batch of one could not be told from a dimension of one


def read_graph(model: nn.Module, input_shape: Shape) -> Graph:
    """Read what a network does to one sample, in evaluation mode.

    Args:
        model: A module of one tensor in and one tensor out; it is not changed.
        input_shape: Shape of one sample, without the batch.

    Returns:
        The graph; its tensors are the model's own.

    Raises:
        ExportError: The network cannot be traced, does something that is none of the known layers, or has
            parameters that are not float32.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))
        >>> [type(layer).__name__ for layer in read_graph(model, (1, 4, 4)).layers]
        ['Conv', 'Clamp', 'Flatten', 'Conv']
    """
    check_parameters(model)
    device = next((tensor.device for tensor in model.state_dict().values()), torch.device("cpu"))
    example = torch.zeros(_BATCH, *input_shape, device=device)
    try:
        with exporting(model), torch.no_grad():
            program = torch.export.export(model, (example,)).run_decompositions({})
    except Exception as error:  # whatever a stranger's forward() may raise
        raise ExportError(
            f"{type(model).__name__} cannot be traced for [n, {_text(input_shape)}]: {first_line(error)}"
        ) from error
    signature = program.graph_signature
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    names |= signature.inputs_to_lifted_tensor_constants
    if len(signature.user_inputs) != 1 or len(signature.user_outputs) != 1:
        raise ExportError("expected a network of one tensor in and one tensor out")
    if signature.buffers_to_mutate or signature.user_inputs_to_mutate:
        raise ExportError("the network changes its buffers or its input when it runs")
    state = {**program.constants, **program.state_dict}
    reader = _Reader(names)
    for node in program.graph.nodes:
        if node.op == "call_function":
            reader.read(node)
    first, last = str(signature.user_inputs[0]), reader.resolve(str(signature.user_outputs[0]))
    layers = tuple(reader.layers)
    used = {name for layer in layers for name in (getattr(layer, key, None) for key in _TENSORS) if name}
    return Graph(first, tuple(input_shape), layers, last, {name: state[name] for name in used})


def check_parameters(model: nn.Module) -> None:
    """Refuse parameters that float32 images do not meet, and those without values."""
    for name, parameter in model.named_parameters():
        if parameter.is_meta:
            raise ExportError(f"{name} has no values (it is on the meta device): load the network first")
        if parameter.dtype != torch.float32:
            raise ExportError(
                f"{name} is {parameter.dtype}, expected torch.float32: export copy.deepcopy(model).float()"
            )


_TENSORS = ("weight", "bias", "mean", "variance")


@contextmanager
def exporting(model: nn.Module) -> Iterator[None]:
    """Evaluation mode while torch reads a network, without its log: what fails comes as an exception too."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch._subclasses.fake_tensor")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        with evaluating(model):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@dataclass
class _Reader:
    """Turns the nodes of a functional graph into layers, one after the other."""

    names: dict[str, str]
    layers: list[Layer] = field(default_factory=list)
    same: dict[str, str] = field(default_factory=dict)

    def resolve(self, name: str) -> str:
        return self.same.get(name, name)

    def read(self, node: fx.Node) -> None:
        target = str(node.target)
        if node.target is not None and getattr(node.target, "__name__", "") == "getitem":
            source, index = node.args
            if index != 0 or not isinstance(source, fx.Node):
                raise ExportError(
                    f"{node.name}: a second result of {source} is used, which is not understood"
                )
            self.same[node.name] = self.resolve(source.name)
            return
        handler = _HANDLERS.get(target)
        if handler is None:
            raise ExportError(f"{node.name}: {target} is no operation that this export understands")
        value = node.meta["val"]
        value = value[0] if isinstance(value, (tuple, list)) else value
        layer = handler(self, node, _Arguments(node), tuple(int(size) for size in value.shape))
        if isinstance(layer, Layer):
            self.layers.append(layer)
        else:
            self.same[node.name] = layer

    def data(self, node: fx.Node, argument: object) -> str:
        """The name of an input that is computed from the sample."""
        if not isinstance(argument, fx.Node) or argument.name in self.names:
            raise ExportError(f"{node.name}: {node.target} with a constant is not understood")
        return self.resolve(argument.name)

    def tensor(self, node: fx.Node, argument: object) -> str:
        """The name in the state dict of an input that is a weight."""
        if not isinstance(argument, fx.Node) or argument.name not in self.names:
            raise ExportError(f"{node.name}: a weight of {node.target} is computed, not stored")
        return self.names[argument.name]

    def optional(self, node: fx.Node, argument: object) -> str | None:
        return None if argument is None else self.tensor(node, argument)


class _Arguments:
    """A call's arguments by position or name, with defaults."""

    def __init__(self, node: fx.Node) -> None:
        self.node = node
        self.schema: list[Any] = list(getattr(node.target, "_schema").arguments)  # noqa: B009

    def __getitem__(self, name: str) -> Any:
        for position, argument in enumerate(self.schema):
            if argument.name == name:
                if position < len(self.node.args):
                    return self.node.args[position]
                return self.node.kwargs.get(name, argument.default_value)
        return None  # clamp_min has no max

    def pair(self, name: str) -> Pair:
        values = list(self[name])
        return (int(values[0]), int(values[-1]))


Handler = Callable[[_Reader, fx.Node, _Arguments, Shape], Layer | str]


def _check_images(node: fx.Node, shape: Shape) -> None:
    """Refuse an input whose first dimension torch takes for the channels of one image."""
    if len(shape) != 4:
        raise ExportError(
            f"{node.name}: expected images of channels, height and width, got {len(shape) - 1} dimensions"
        )


def _conv(reader: _Reader, node: fx.Node, a: _Arguments, shape: Shape) -> Layer:
    _check_images(node, shape)
    weight, bias = reader.tensor(node, a["weight"]), reader.optional(node, a["bias"])
    padding = a["padding"]
    size, dilation = a["weight"].meta["val"].shape, a.pair("dilation")
    if isinstance(padding, str):
        total = [
            d * (int(k) - 1) if padding == "same" else 0 for k, d in zip(size[2:], dilation, strict=True)
        ]
        if any(pixels % 2 for pixels in total):
            raise ExportError(f"{node.name}: padding 'same' of an even kernel is not understood")
        pads = (total[0] // 2, total[1] // 2)
    else:
        pads = a.pair("padding")
    source = (reader.data(node, a["input"]),)
    return Conv(
        node.name, source, shape[1:], weight, bias, a.pair("stride"), pads, dilation, int(a["groups"])
    )


def _linear(reader: _Reader, node: fx.Node, a: _Arguments, shape: Shape) -> Layer:
    if len(shape) != 2:
        raise ExportError(f"{node.name}: a linear layer on {len(shape) - 1} dimensions is not understood")
    weight, bias = reader.tensor(node, a["weight"]), reader.optional(node, a["bias"])
    return Conv(node.name, (reader.data(node, a["input"]),), shape[1:], weight, bias)


def _batch_norm(reader: _Reader, node: fx.Node, a: _Arguments, shape: Shape) -> Layer:
    return BatchNorm(
        node.name,
        (reader.data(node, a["input"]),),
        shape[1:],
        reader.optional(node, a["weight"]),
        reader.optional(node, a["bias"]),
        reader.tensor(node, a["running_mean"]),
        reader.tensor(node, a["running_var"]),
        float(a["eps"]),
    )


def _relu(reader: _Reader, node: fx.Node, a: _Arguments, shape: Shape) -> Layer:
    return Clamp(node.name, (reader.data(node, a["self"]),), shape[1:], 0.0, math.inf)


def _relu6(reader: _Reader, node: fx.Node, a: _Arguments, shape: Shape) -> Layer:
    return Clamp(node.name, (reader.data(node, a["self"]),), shape[1:], 0.0, 6.0)


def _hardtanh(reader: _Reader, node: fx.Node, a: _Arguments, shape: Shape) -> Layer:
    low, high = float(a["min_val"]), float(a["max_val"])
    return Clamp(node.name, (reader.data(node, a["self"]),), shape[1:], low, high)


def _clamp(reader: _Reader, node: fx.Node, a: _Arguments, shape: Shape) -> Layer:
    low = -math.inf if a["min"] is None else float(a["min"])
    high = math.inf if a["max"] is None else float(a["max"])
    return Clamp(node.name, (reader.data(node, a["self"]),), shape[1:], low, high)


def _add(reader: _Reader, node: fx.Node, a: _Arguments, shape: Shape) -> Layer:
    inputs = (reader.data(node, a["self"]), reader.data(node, a["other"]))
    same = a["self"].meta["val"].shape == a["other"].meta["val"].shape
    if a["alpha"] != 1 or not same:
        raise ExportError(f"{node.name}: a sum with a factor or of different shapes is not understood")
    return Add(node.name, inputs, shape[1:])


def _concat(reader: _Reader, node: fx.Node, a: _Arguments, shape: Shape) -> Layer:
    if a["dim"] not in (1, 1 - len(shape)):
        raise ExportError(f"{node.name}: joining along dimension {a['dim']} is not understood, only channels")
    return Concat(node.name, tuple(reader.data(node, item) for item in a["tensors"]), shape[1:])


def _view(reader: _Reader, node: fx.Node, a: _Arguments, shape: Shape) -> Layer | str:
    name = reader.data(node, a["self"])
    before = tuple(a["self"].meta["val"].shape)
    if before == shape:
        return name
    if len(shape) != 2 or shape[0] != before[0]:
        raise ExportError(f"{node.name}: reshaping {list(before)} to {list(shape)} is not understood")
    return Flatten(node.name, (name,), shape[1:])


def _same(reader: _Reader, node: fx.Node, a: _Arguments, shape: Shape) -> str:  # noqa: ARG001
    return reader.data(node, a["self"])


def _max_pool(reader: _Reader, node: fx.Node, a: _Arguments, shape: Shape) -> Layer:
    _check_images(node, shape)
    if tuple(a["dilation"]) not in ((1,), (1, 1)):
        raise ExportError(f"{node.name}: a dilated pool is not understood")
    stride = a.pair("stride") if a["stride"] else a.pair("kernel_size")
    source = (reader.data(node, a["self"]),)
    return Pool(node.name, source, shape[1:], a.pair("kernel_size"), stride, a.pair("padding"), maximum=True)


def _avg_pool(reader: _Reader, node: fx.Node, a: _Arguments, shape: Shape) -> Layer:
    _check_images(node, shape)
    if a["ceil_mode"] or a["divisor_override"] is not None:
        raise ExportError(f"{node.name}: a mean with ceil_mode or a divisor of its own is not understood")
    stride = a.pair("stride") if a["stride"] else a.pair("kernel_size")
    return Pool(
        node.name,
        (reader.data(node, a["self"]),),
        shape[1:],
        a.pair("kernel_size"),
        stride,
        a.pair("padding"),
        maximum=False,
        count_padding=bool(a["count_include_pad"]),
    )


def _adaptive_pool(reader: _Reader, node: fx.Node, a: _Arguments, shape: Shape) -> Layer:
    height, width = (int(size) for size in a["self"].meta["val"].shape[2:])
    rows, columns = shape[2:]
    if height % rows or width % columns:
        raise ExportError(
            f"{node.name}: means of {height}x{width} into {rows}x{columns} parts are not understood"
        )
    kernel = (height // rows, width // columns)
    source = (reader.data(node, a["self"]),)
    return Pool(node.name, source, shape[1:], kernel, kernel, (0, 0), maximum=False)


def _mean(reader: _Reader, node: fx.Node, a: _Arguments, shape: Shape) -> Layer | str:
    before = tuple(int(size) for size in a["self"].meta["val"].shape)
    if len(before) != 4 or sorted(dim % 4 for dim in a["dim"] or ()) != [2, 3]:
        raise ExportError(
            f"{node.name}: a mean over other dimensions than height and width is not understood"
        )
    source = (reader.data(node, a["self"]),)
    pooled = Pool(f"{node.name}", source, (before[1], 1, 1), before[2:], before[2:], (0, 0), maximum=False)
    if len(shape) == 4:
        return pooled
    reader.layers.append(
        Pool(f"{node.name}:pool", source, pooled.shape, pooled.kernel, pooled.stride, (0, 0), maximum=False)
    )
    return Flatten(node.name, (f"{node.name}:pool",), shape[1:])


_HANDLERS: dict[str, Handler] = {
    "aten.conv2d.default": _conv,
    "aten.conv2d.padding": _conv,
    "aten.linear.default": _linear,
    "aten._native_batch_norm_legit_no_training.default": _batch_norm,
    "aten.relu.default": _relu,
    "aten.relu6.default": _relu6,
    "aten.hardtanh.default": _hardtanh,
    "aten.clamp.default": _clamp,
    "aten.clamp_min.default": _clamp,
    "aten.add.Tensor": _add,
    "aten.cat.default": _concat,
    "aten.view.default": _view,
    "aten.reshape.default": _view,
    "aten.alias.default": _same,
    "aten.clone.default": _same,
    "aten.contiguous.default": _same,
    "aten.max_pool2d.default": _max_pool,
    "aten.avg_pool2d.default": _avg_pool,
    "aten.adaptive_avg_pool2d.default": _adaptive_pool,
    "aten.mean.dim": _mean,
}


def _text(shape: Shape) -> str:
    return ", ".join(map(str, shape))
