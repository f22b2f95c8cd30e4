"""ONNX files, checked with onnxruntime, with zeros left out of the file where that makes it smaller."""

import importlib
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dirprune.core.atomic import atomic_write
from dirprune.errors import ExportError, first_line, from_extra
from dirprune.export.graph import Shape
from dirprune.export.sparse_runtime import TOLERANCE, dense_outputs, samples, small_difference
from dirprune.export.tracing import check_parameters, exporting


@dataclass(frozen=True)
class OnnxFileInfo:
    """What `export_onnx` wrote.

    Attributes:
        path: The file.
        bytes: Its size.
        sparse_weights: How many weights are stored without their zeros.
        difference: The greatest difference from the module's outputs in onnxruntime.
    """

    path: Path
    bytes: int
    sparse_weights: int
    difference: float


def export_onnx(
    model: nn.Module,
    path: str | os.PathLike[str],
    input_shape: Shape,
    *,
    sparse: bool = True,
    example: Tensor | None = None,
) -> OnnxFileInfo:
    """Write a network as ONNX, for batches of any size, input `input`, output `output`.

    With `sparse`, a weight whose non-zeros and their positions (12 bytes each) take less than its elements
    (4 bytes each) is stored as a sparse initialiser. onnxruntime reads those and makes them dense: the file
    is smaller, execution is no faster. Other programs may refuse them.

    Args:
        model: The module; it is exported in evaluation mode.
        path: The file to write; an old one is replaced.
        input_shape: Of one sample, such as (3, 32, 32).
        sparse: Whether weights may be stored without their zeros.
        example: float32 [n, *input_shape] to compare outputs on; default: two of normal noise.

    Returns:
        Size and difference.

    Raises:
        ExportError: The exporter fails or fixes the batch size, a parameter is not float32, the output is
            not one tensor, or onnxruntime's outputs differ by more than 1e-4 of the greatest, or of 1.
        MissingPackageError: onnx, onnxscript or onnxruntime is not installed.
        UsageError: The example or its shape is none.
        OSError: The file cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     info = export_onnx(nn.Linear(3, 2), f"{folder}/linear.onnx", (3,))
        >>> info.difference < 1e-5
        True
    """
    example = samples(input_shape, 2, example)
    content, count = onnx_content(model, input_shape, sparse=sparse)
    expected = dense_outputs(model, example)
    actual = torch.from_numpy(_run(content, example))
    difference = small_difference("onnxruntime", actual, expected, TOLERANCE)
    with atomic_write(path) as file:
        file.write(content)
    return OnnxFileInfo(Path(path), len(content), count, difference)


def onnx_content(model: nn.Module, input_shape: Shape, *, sparse: bool) -> tuple[bytes, int]:
    """The bytes of an ONNX file, not yet checked, and how many weights are without their zeros."""
    proto = _exported(model, torch.zeros(2, *input_shape))  # a batch of one would be taken for a constant
    count = _drop_zeros(proto) if sparse else 0
    _forget_origin(proto)
    content: bytes = proto.SerializeToString()
    return content, count


def _need(name: str) -> Any:
    """A package of the extra."""
    with from_extra("export", "ONNX"):
        return importlib.import_module(name)


def _exported(model: nn.Module, example: Tensor) -> Any:
    """The protocol buffer that torch's exporter makes."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        _need(name)
    check_parameters(model)
    try:
        with exporting(model), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                model,
                (example,),
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                input_names=["input"],
                output_names=["output"],
                verbose=False,
            )
    except Exception as error:  # whatever a stranger's forward() may raise
        reason = first_line(error.__cause__ or error)  # torch.onnx itself only says that it failed
        raise ExportError(f"torch.onnx cannot export {type(model).__name__}: {reason}") from error
    assert program is not None
    proto = program.model_proto
    for value in (*proto.graph.input, *proto.graph.output):
        sizes = value.type.tensor_type.shape.dim
        if not sizes or not sizes[0].dim_param:
            raise ExportError(
                f"{type(model).__name__} takes batches of one size only: let its forward() read the size "
                "from its input"
            )
    return proto


def _drop_zeros(proto: Any) -> int:
    """Make sparse initialisers of the weights that take fewer bytes so; returns how many."""
    onnx = _need("onnx")
    kept, count = [], 0
    for tensor in proto.graph.initializer:
        elements = onnx.numpy_helper.to_array(tensor)
        flat = elements.reshape(-1)
        positions = np.flatnonzero(flat).astype(np.int64)  # the standard knows no smaller ones
        if not len(positions):  # one zero stands for all: a list of none is not read everywhere
            positions = np.zeros(1, np.int64)
        if elements.dtype != np.float32 or 12 * len(positions) >= 4 * flat.size:
            kept.append(tensor)
            continue
        values = onnx.numpy_helper.from_array(flat[positions], name=tensor.name)
        where = onnx.numpy_helper.from_array(positions, name=f"{tensor.name}_positions")
        proto.graph.sparse_initializer.append(
            onnx.helper.make_sparse_tensor(values, where, list(elements.shape))
        )
        count += 1
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(kept)
    return count


def _forget_origin(message: Any) -> None:
    """Clear what the exporter noted about its input: stack traces, with the paths of this machine."""
    for note in ("metadata_props", "doc_string"):
        if note in message.DESCRIPTOR.fields_by_name:
            message.ClearField(note)
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in [value] if hasattr(value, "ListFields") else value:
                _forget_origin(part)


def _run(content: bytes, example: Tensor) -> np.ndarray:
    """What onnxruntime computes."""
    session = _need("onnxruntime").InferenceSession(content, providers=["CPUExecutionProvider"])
    result: np.ndarray = session.run(None, {"input": example.numpy()})[0]
    return result
