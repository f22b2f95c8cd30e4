"""The plain safetensors file of a network, each tensor dense and by itself."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import save
from torch import Tensor, nn

from dirprune.core.atomic import atomic_write
from dirprune.export.sparse_layout import check_storable, state_of


@dataclass(frozen=True)
class DenseFileInfo:
    """What `save_dense` wrote.

    Attributes:
        path: The file.
        bytes: Its size.
    """

    path: Path
    bytes: int


def save_dense(model: nn.Module | Mapping[str, Tensor], path: str | os.PathLike[str]) -> DenseFileInfo:
    """Write a model's state dict to a plain safetensors file, which every program of the field reads.

    Tensors that are one and the same memory are stored as often as they are named. The write is atomic.

    Args:
        model: A module, or a mapping from names to tensors of any shape, on any device.
        path: The file to write; an old one is replaced.

    Returns:
        The path and the size of the file in bytes.

    Raises:
        SparseFileError: An entry is no plain strided tensor, or its dtype has no place in the format.
        UsageError: `model` is neither module nor mapping.
        OSError: The file cannot be written.

    Example:
        >>> import tempfile, torch
        >>> from safetensors.torch import load_file
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     info = save_dense({"weight": torch.ones(3, 2)}, f"{folder}/plain.safetensors")
        ...     load_file(info.path)["weight"].sum()
        tensor(6.)
    """
    content = dense_content(model)
    with atomic_write(path) as file:
        file.write(content)
    return DenseFileInfo(Path(path), len(content))


def dense_content(model: nn.Module | Mapping[str, Tensor]) -> bytes:
    """A plain safetensors file of a state dict, each tensor dense and by itself.

    Example:
        >>> len(dense_content(nn.Linear(100, 100))) > 4 * 100 * 101
        True
    """
    state = state_of(model)
    for name, tensor in state.items():
        check_storable(name, tensor)
    return save({name: tensor.detach().cpu().clone().contiguous() for name, tensor in state.items()})
