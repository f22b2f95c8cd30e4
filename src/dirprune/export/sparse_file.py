"""The sparse file: a state dict whose zeros cost a bit each or less, lossless unless asked otherwise."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from dirprune.core.atomic import atomic_write
from dirprune.errors import MissingFileError, NotSafetensorsError, SparseFileError, UsageError
from dirprune.export.packing import PARTS, Entry, Values, short
from dirprune.export.sparse_layout import decode, encode, parse, state_of


@dataclass(frozen=True)
class SparseFileInfo:
    """What `save_sparse` wrote.

    Attributes:
        path: The file.
        bytes: Its size.
        dense_bytes: The size of the same tensors stored dense, each in its own dtype, shared ones once.
    """

    path: Path
    bytes: int
    dense_bytes: int


def save_sparse(
    model: nn.Module | Mapping[str, Tensor],
    path: str | os.PathLike[str],
    *,
    values: Values = "same",
    compress: bool = False,
) -> SparseFileInfo:
    """Write a model's state dict to a file in which every zero of a sparse tensor costs one bit or less.

    Nothing is lost, unless `values` asks for it: `load_sparse` gives back every bit, but for the sign of
    zeros in a tensor that was multiplied by a mask (an eighth of it or more is -0.0, which becomes 0.0 and
    compares equal). The optimiser's state is not in the file. Tensors that are one and the same memory (tied
    weights) are stored once. The same state gives the same bytes. The write is atomic.

    Args:
        model: A module, or a mapping from names to tensors of any shape, on any device.
        path: The file to write; an old one is replaced.
        values: ``"fp16"`` or ``"bf16"``: round float32 and float64 tensors of two or more dimensions
            (weights, not biases or statistics) to two bytes per value; they are read in their own dtype.
        compress: Compress with Zstandard where that saves bytes (needs the zstandard package).

    Returns:
        The path, the size of the file in bytes, and the size that the tensors have when stored dense.

    Raises:
        SparseFileError: An entry is no plain strided tensor, its dtype has no place in the format, or a
            value is too large for fp16.
        UsageError: `model` is neither module nor mapping, or `values` is unknown.
        MissingPackageError: `compress` without zstandard.
        OSError: The file cannot be written.

    Example:
        >>> import tempfile, torch
        >>> weight = torch.zeros(100, 100)
        >>> weight[0, :50] = 1.0
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     info = save_sparse({"weight": weight}, f"{folder}/small.safetensors")
        ...     torch.equal(load_sparse(info.path)["weight"], weight)
        True
        >>> info.dense_bytes, info.bytes < 2000
        (40000, True)
    """
    if values not in ("same", "fp16", "bf16"):
        raise UsageError(f"values must be 'same', 'fp16' or 'bf16', got {values!r}")
    content, dense_bytes = encode(state_of(model), values, compress=compress)
    with atomic_write(path) as file:
        file.write(content)
    return SparseFileInfo(Path(path), len(content), dense_bytes)


def load_sparse(path: str | os.PathLike[str], model: nn.Module | None = None) -> dict[str, Tensor]:
    """Read the dense state dict from a file of `save_sparse`, and load it into `model` if one is given.

    The file may come from a stranger: no code in it is run, and what it claims is checked before memory is
    asked for: tensors of at most 256 bytes for each byte of the file, and a few times that while they are
    unpacked.

    Args:
        path: The file.
        model: A module that has exactly the names and shapes of the file.

    Returns:
        The tensors by name, dense, on the CPU, each with its own shape and dtype, in the order of the saved
        state dict; entries that were one tensor are one tensor again.

    Raises:
        MissingFileError: There is no such file.
        SparseFileError: It is damaged or not a sparse file, a newer version wrote it, or it does not fit the
            model (which is then unchanged).
        MissingPackageError: The file is compressed, and zstandard is not installed.
        OSError: The file cannot be read.

    Example:
        >>> import tempfile, torch
        >>> small, other = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     info = save_sparse(small, f"{folder}/small.safetensors")
        ...     state = load_sparse(info.path, other)
        >>> list(state), torch.equal(small.weight, other.weight)
        (['weight', 'bias'], True)
    """
    file = Path(path)
    if not file.is_file():
        kind, found = (SparseFileError, "something else") if file.exists() else (MissingFileError, "nothing")
        raise kind(f"{file}: expected a sparse file, found {found} by that name")
    try:
        state = decode(file.read_bytes())
        if model is not None:
            _check_fits(state, model)
    except SparseFileError as error:
        raise type(error)(f"{file}: {error}") from error
    if model is not None:
        model.load_state_dict(state)
    return state


@dataclass(frozen=True)
class StoredTensor:
    """One entry of a sparse file.

    Attributes:
        name: Its name in the state dict.
        encoding: How it is stored, such as ``"bitmask BF16 zstd"``, or ``"= a.weight"`` for an alias.
        dtype: What it is when read.
        shape: Its shape.
        zeros: How many elements are zero.
        bytes: What its stored parts take in the file; 0 for an alias.
    """

    name: str
    encoding: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    zeros: int
    bytes: int

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


def describe_sparse(path: str | os.PathLike[str]) -> list[StoredTensor]:
    """Say what is in a sparse file, tensor by tensor.

    Args:
        path: A file of `save_sparse`.

    Returns:
        The entries, in the order of the saved state dict.

    Raises:
        SparseFileError, MissingFileError, MissingPackageError: As for `load_sparse`.
        OSError: The file cannot be read.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     info = save_sparse({"weight": torch.zeros(100, 100)}, f"{folder}/small.safetensors")
        ...     [(tensor.encoding, tensor.zeros, tensor.bytes) for tensor in describe_sparse(info.path)]
        [('elias-fano', 10000, 0)]
    """
    state = load_sparse(path)
    stored, entries, _ = parse(Path(path).read_bytes())
    described = []
    for name, entry in entries.items():
        tensor, size = state[name], 0
        if isinstance(entry, Entry):
            size = sum(len(stored[f"{part}:{name}"]["data"]) for part in PARTS[entry.encoding])
            other = [entry.values] if entry.values != entry.dtype else []
            encoding = " ".join([entry.encoding, *other, *(["zstd"] if entry.zstd else [])])
        else:
            encoding = f"= {entry}"
        described.append(_described(name, encoding, tensor, size))
    return described


def describe_dense(path: str | os.PathLike[str]) -> list[StoredTensor]:
    """Say what is in a plain safetensors file, tensor by tensor; no code in it is run.

    Args:
        path: A file such as `save_dense` writes.

    Returns:
        The tensors by name, each stored as ``"dense"``.

    Raises:
        SparseFileError: It is no safetensors file, a damaged one, or has a dtype not known here.
        OSError: The file cannot be read.

    Example:
        >>> import tempfile
        >>> from dirprune.export import save_dense
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = save_dense({"weight": torch.zeros(3, 2)}, f"{folder}/plain.safetensors")
        ...     [(tensor.zeros, tensor.bytes) for tensor in describe_dense(f"{folder}/plain.safetensors")]
        [(6, 24)]
    """
    try:
        state = load(Path(path).read_bytes())
    except SafetensorError as error:
        reason = short.repr(str(error))
        raise NotSafetensorsError(f"{path}: not a safetensors file, or a damaged one: {reason}") from error
    except KeyError as error:  # safetensors knows more dtypes than its own reader for torch
        raise SparseFileError(f"{path}: dtype {short.repr(error.args[0])} is not known here") from error
    return [_described(name, "dense", tensor, tensor.nbytes) for name, tensor in sorted(state.items())]


def _described(name: str, encoding: str, tensor: Tensor, size: int) -> StoredTensor:
    zeros = tensor.numel() - int((tensor != 0).sum())
    return StoredTensor(name, encoding, tensor.dtype, tuple(tensor.shape), zeros, size)


def _can_hold(dtype: torch.dtype, stored: Tensor) -> bool:
    """Whether a tensor of the file keeps its kind, and its finite values stay finite, in another dtype."""
    if dtype == stored.dtype or not dtype.is_floating_point:
        return dtype == stored.dtype or torch.can_cast(stored.dtype, dtype)
    return torch.can_cast(stored.dtype, dtype) and bool(
        (stored.to(dtype).double().isfinite() | ~stored.double().isfinite()).all()
    )


def _check_fits(state: dict[str, Tensor], model: nn.Module) -> None:
    """Refuse a state that the model cannot take, before anything is copied."""
    own: dict[str, object] = dict(model.state_dict())
    tensors = {name: value for name, value in own.items() if isinstance(value, Tensor)}
    if lazy := [name for name, value in tensors.items() if is_lazy(value)]:
        raise SparseFileError(f"{lazy[0]!r} of the model has no shape yet: let it see a batch before")
    misshapen = [name for name in tensors if name in state and state[name].shape != tensors[name].shape]
    faults = [
        f"{name!r} of the model is no tensor, which a sparse file cannot hold"
        for name in own
        if name not in tensors
    ]
    faults += [f"the file lacks {name!r}" for name in tensors if name not in state]
    faults += [f"the model lacks {short.repr(name)}" for name in state if name not in own]
    faults += [
        f"{name!r} is {tuple(state[name].shape)} in the file, {tuple(tensors[name].shape)} in the model"
        for name in misshapen
    ]
    faults += [
        f"{name!r} is {state[name].dtype} in the file, which {tensor.dtype} of the model cannot hold"
        for name, tensor in tensors.items()
        if name in state and not _can_hold(tensor.dtype, state[name])
    ]
    faults += [
        f"{name!r} of the model is on the meta device: call model.to_empty(device='cpu') first"
        for name, tensor in tensors.items()
        if tensor.is_meta
    ]
    slim = ""
    if misshapen:
        slim = "; made by dirprune.export.slim? then its load_slim(load_sparse(file), model) loads it"
    if faults:
        more = f"; and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise SparseFileError(f"does not fit the model: {'; '.join(faults[:3])}{more}{slim}")
