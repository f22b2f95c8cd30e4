"""The sparse file: a state dict whose zeros cost one bit each, lossless to the bit.

The file is a plain safetensors file (an 8-byte little-endian header length, a JSON header, the data). Its
metadata has one key, `dirprune-sparse`, whose text is this JSON:

    {"version": 1, "entries": [
        {"name": "a.weight", "encoding": "bitmask", "dtype": "F32", "shape": [20, 10]},
        {"name": "a.bias",   "encoding": "dense",   "dtype": "F32", "shape": [20]},
        {"name": "b.weight", "encoding": "alias",   "target": "a.weight"}]}

| encoding | what is stored for the entry NAME |
|---|---|
| dense | tensor `dense:NAME`, as it is |
| bitmask | tensor `mask:NAME`: ceil(n/8) bytes, where bit i % 8 (least significant first) of byte i // 8 says that element i, in row-major order, is not all zero bits; tensor `values:NAME`: those elements, in that order, in the entry's own dtype |
| alias | nothing: the entry is the same tensor as its target, an earlier entry that is no alias |

The mask is taken from bit patterns, so that -0.0 and the payloads of NaNs survive. Only floating-point tensors
are packed, and only where that takes fewer bytes.
"""  # noqa: E501 - a table row is one line

import json
import math
import os
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, deserialize
from safetensors.torch import save
from torch import Tensor, nn

from dirprune.core.atomic import atomic_write
from dirprune.errors import SparseFileError

_FORMAT = "dirprune-sparse"
_VERSION = 1
_MAX_DIMENSIONS = 64
_MAX_ELEMENTS = 2**60  # so that no count of bytes can overflow 64 bits

# safetensors' name of each dtype -> torch's; the oldest torch that we support lacks the last one
# fmt: off
_NAMES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "C64": "complex64",
    "BOOL": "bool", "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8",
    "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz", "F8_E8M0": "float8_e8m0fnu",
}
# fmt: on
_DTYPES: dict[str, torch.dtype] = {
    code: getattr(torch, name) for code, name in _NAMES.items() if hasattr(torch, name)
}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}

_short = reprlib.Repr()  # bounded: what it shows comes from a stranger's file
_short.maxstring, _short.maxlevel = 100, 2


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


class _Entry(NamedTuple):
    """One tensor of the state dict, as the description in the metadata has it."""

    name: str
    encoding: str
    dtype: str
    shape: tuple[int, ...]


def save_sparse(model: nn.Module | Mapping[str, Tensor], path: str | os.PathLike[str]) -> SparseFileInfo:
    """Write a model's state dict to a file in which every zero of a sparse tensor costs one bit.

    Nothing is lost: `load_sparse` gives back every bit. The optimiser's state is not in the file. Tensors
    that are one and the same memory (tied weights) are stored once. The same state gives the same bytes. The
    write is atomic.

    Args:
        model: A module, or a mapping from names to tensors of any shape, on any device.
        path: The file to write; an old one is replaced.

    Returns:
        The path, the size of the file in bytes, and the size that the tensors have when stored dense.

    Raises:
        SparseFileError: An entry is no plain strided tensor, or its dtype has no place in the format.
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
    if not isinstance(model, nn.Module | Mapping):
        raise SparseFileError(f"expected a module or a mapping of tensors, got {type(model).__name__}")
    # a dict of its own keeps every tensor alive, without which equal addresses would not mean equal tensors
    state = dict(model.state_dict() if isinstance(model, nn.Module) else model)
    entries: list[dict[str, object]] = []
    stored: dict[str, Tensor] = {}
    owners: dict[tuple[object, ...], str] = {}
    dense_bytes = 0
    for name, tensor in state.items():
        _check_storable(name, tensor)
        owner = owners.setdefault(_identity(tensor), name) if tensor.numel() else name
        if owner != name:
            entries.append({"name": name, "encoding": "alias", "target": owner})
            continue
        parts = _pack(tensor)
        encoding = "bitmask" if "mask" in parts else "dense"
        dtype = _CODES[tensor.dtype]
        entries.append({"name": name, "encoding": encoding, "dtype": dtype, "shape": list(tensor.shape)})
        stored.update({f"{part}:{name}": value for part, value in parts.items()})
        dense_bytes += tensor.numel() * tensor.itemsize
    description = json.dumps({"version": _VERSION, "entries": entries}, separators=(",", ":"))
    try:
        content = save(stored, {_FORMAT: description})  # one key: safetensors writes several in random order
    except (
        KeyError,
        UnicodeEncodeError,
    ) as error:  # a dtype that an old release lacks, a name that is no text
        raise SparseFileError(f"the installed safetensors cannot store this state dict: {error}") from error
    with atomic_write(path) as file:
        file.write(content)
    return SparseFileInfo(Path(path), len(content), dense_bytes)


def load_sparse(path: str | os.PathLike[str], model: nn.Module | None = None) -> dict[str, Tensor]:
    """Read the dense state dict from a file of `save_sparse`, and load it into `model` if one is given.

    The file may come from a stranger: no code in it is run, and what it claims is checked before memory is
    asked for, at most eight elements for each byte of the file.

    Args:
        path: The file.
        model: A module that has exactly the names and shapes of the file.

    Returns:
        The tensors by name, dense, on the CPU, each with its own shape and dtype, in the order of the saved
        state dict; entries that were one tensor are one tensor again.

    Raises:
        SparseFileError: There is no such file, it is damaged or not a sparse file, a newer version wrote it,
            or it does not fit the model (which is then unchanged).
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
        found = "something else by that name" if file.exists() else "nothing by that name"
        raise SparseFileError(f"{file}: expected a sparse file, found {found}")
    try:
        state = _decode(file.read_bytes())
        if model is not None:
            _check_fits(state, model)
    except SparseFileError as error:
        raise SparseFileError(f"{file}: {error}") from error
    if model is not None:
        model.load_state_dict(state)
    return state


def _check_storable(name: object, tensor: object) -> None:
    """Refuse what is not a tensor with plain memory behind it and a dtype that the format knows."""
    if not isinstance(name, str) or not isinstance(tensor, Tensor):
        raise SparseFileError(
            f"expected a tensor for {_short.repr(name)}, got {type(tensor).__name__}: leave it out"
        )
    if type(tensor).__torch_dispatch__ is not Tensor.__torch_dispatch__:
        kind = type(tensor).__name__
        raise SparseFileError(
            f"expected a plain tensor for {name!r}, got a {kind}: gather it with full_tensor()"
        )
    if tensor.layout != torch.strided or tensor.is_meta:
        kind = "a tensor without values (meta)" if tensor.is_meta else str(tensor.layout)
        raise SparseFileError(f"expected a strided tensor for {name!r}, got {kind}: make it dense first")
    if tensor.dtype not in _CODES:
        raise SparseFileError(
            f"{name!r} is {tensor.dtype}, expected one of {', '.join(map(str, _CODES))}: convert it"
        )
    if tensor.ndim > _MAX_DIMENSIONS:
        raise SparseFileError(
            f"{name!r} has {tensor.ndim} dimensions, expected at most {_MAX_DIMENSIONS}: reshape it"
        )


def _identity(tensor: Tensor) -> tuple[object, ...]:
    """What two tensors have in common exactly when they are the same elements of the same memory."""
    view = (tensor.shape, tensor.stride(), tensor.is_conj(), tensor.is_neg())
    return tensor.device, tensor.data_ptr(), tensor.dtype, *view


def _pack(tensor: Tensor) -> dict[str, Tensor]:
    """The parts to store: mask and values where they are smaller than the tensor, else the tensor."""
    dense = tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
    bits = dense.reshape(-1).view(torch.uint8).numpy().view(f"u{dense.itemsize}")
    mask = bits != 0
    packed = np.packbits(mask, bitorder="little")
    values = bits[mask]
    if not dense.is_floating_point() or packed.nbytes + values.nbytes >= bits.nbytes:
        return {"dense": dense}
    return {"mask": torch.from_numpy(packed), "values": _from_bits(values, dense.dtype)}


def _from_bits(bits: NDArray[Any], dtype: torch.dtype) -> Tensor:
    """The 1-D tensor with these bit patterns."""
    return torch.from_numpy(bits.view(np.uint8)).view(dtype)


def _decode(content: bytes) -> dict[str, Tensor]:
    """The state dict in the bytes of a sparse file; its claims are checked before anything dense is made."""
    read: Callable[[bytes], list[tuple[str, dict[str, Any]]]] = deserialize
    try:
        stored = dict(read(content))
    except SafetensorError as error:
        reason = _short.repr(str(error))
        raise SparseFileError(f"not a safetensors file, or a damaged one: {reason}") from error
    header = _parse_json(content[8 : 8 + int.from_bytes(content[:8], "little")].decode())
    description = (header.get("__metadata__") or {}).get(_FORMAT)
    if description is None:
        raise SparseFileError("a safetensors file, but not a dirprune sparse file: use one from save_sparse")
    entries = _parse_description(_parse_json(description))
    unclaimed = set(stored)
    for entry in entries.values():
        if isinstance(entry, _Entry):
            unclaimed -= _check_stored(entry, stored)
    if unclaimed:
        raise SparseFileError(f"damaged: no entry names the stored {_short.repr(min(unclaimed))}")
    state: dict[str, Tensor] = {}
    for name, entry in entries.items():
        state[name] = _unpack(entry, stored) if isinstance(entry, _Entry) else state[entry]
    return state


def _parse_json(text: str) -> Any:
    """JSON from a stranger: too deep a nesting or too long a number is one more way of being malformed."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SparseFileError(f"damaged: its description is no JSON that can be read ({error})") from error


def _parse_description(described: Any) -> dict[str, _Entry | str]:
    """The entries by name: a tensor of its own, or the name of the earlier one that it is an alias of."""
    version = described.get("version") if isinstance(described, dict) else None
    if type(version) is not int or version < 1:
        raise SparseFileError(f"damaged: expected a version from 1, got {_short.repr(version)}")
    if version > _VERSION:
        found = _short.repr(version)
        raise SparseFileError(f"format version {found}, and this dirprune reads {_VERSION}: upgrade dirprune")
    if set(described) != {"version", "entries"} or not isinstance(described["entries"], list):
        raise SparseFileError("damaged: expected a version and a list of entries and nothing else")
    entries: dict[str, _Entry | str] = {}
    for item in described["entries"]:
        match item:
            case {"name": str(name), "encoding": "alias", "target": str(target), **rest} if isinstance(
                entries.get(target), _Entry
            ):
                entry: _Entry | str = target
            case {
                "name": str(name),
                "encoding": "dense" | "bitmask" as encoding,
                "dtype": str(dtype),
                "shape": list(shape),
                **rest,
            } if _can_be(encoding, dtype, shape):
                entry = _Entry(name, encoding, dtype, tuple(shape))
            case _:
                raise SparseFileError(f"damaged: an entry of no known form, {_short.repr(item)}")
        if rest or name in entries:
            fault = f"unknown keys, {_short.repr(list(rest))}" if rest else "a name that another has"
            raise SparseFileError(f"damaged: the entry {_short.repr(name)} has {fault}")
        entries[name] = entry
    return entries


def _can_be(encoding: str, dtype: str, shape: list[Any]) -> bool:
    """Whether a tensor of this dtype and shape can exist and be so encoded."""
    if dtype not in _DTYPES or (encoding == "bitmask" and not _DTYPES[dtype].is_floating_point):
        return False
    if len(shape) > _MAX_DIMENSIONS or any(type(d) is not int or not 0 <= d <= _MAX_ELEMENTS for d in shape):
        return False
    return math.prod(max(int(d), 1) for d in shape) <= _MAX_ELEMENTS


def _check_stored(entry: _Entry, stored: Mapping[str, Mapping[str, Any]]) -> set[str]:
    """The keys of an entry's stored parts, each of which must be there with its right dtype and shape."""
    expected: dict[str, tuple[str, list[int] | None]] = {"dense": (entry.dtype, list(entry.shape))}
    if entry.encoding == "bitmask":  # only the mask's bits say how many values there must be
        expected = {"mask": ("U8", [-(-math.prod(entry.shape) // 8)]), "values": (entry.dtype, None)}
    for part, (dtype, shape) in expected.items():
        key = f"{part}:{entry.name}"
        if key not in stored:
            raise SparseFileError(f"damaged: the stored {_short.repr(key)} is missing")
        found = stored[key]
        fits = len(found["shape"]) == 1 if shape is None else found["shape"] == shape
        if found["dtype"] != dtype or not fits:
            wanted = f"{dtype} {'of one dimension' if shape is None else _short.repr(shape)}"
            got = f"{found['dtype']} {_short.repr(found['shape'])}"
            raise SparseFileError(
                f"damaged: expected the stored {_short.repr(key)} to be {wanted}, got {got}"
            )
    return {f"{part}:{entry.name}" for part in expected}


def _unpack(entry: _Entry, stored: Mapping[str, Mapping[str, Any]]) -> Tensor:
    """The dense tensor of an entry whose stored parts have the right dtypes and shapes."""

    def part(name: str, kind: str) -> NDArray[Any]:
        return np.frombuffer(stored[f"{name}:{entry.name}"]["data"], dtype=kind)

    dtype = _DTYPES[entry.dtype]
    kind = f"u{dtype.itemsize}"
    if entry.encoding == "dense":
        bits = part("dense", kind)
        if dtype == torch.bool and (bits > 1).any():
            raise SparseFileError(f"damaged: {_short.repr(entry.name)} has booleans that are neither 0 nor 1")
    else:
        n, values = math.prod(entry.shape), part("values", kind)
        mask = np.unpackbits(part("mask", "u1"), bitorder="little").view(np.bool_)
        if mask[n:].any() or np.count_nonzero(mask) != len(values):
            raise SparseFileError(
                f"damaged: the mask of {_short.repr(entry.name)} does not fit {n} bits, {len(values)} values"
            )
        bits = np.zeros(n, dtype=kind)
        bits[mask[:n]] = values
    return _from_bits(bits, dtype).reshape(entry.shape)


def _check_fits(state: dict[str, Tensor], model: nn.Module) -> None:
    """Refuse a state whose names or shapes are not the model's, before anything is copied."""
    own = model.state_dict()
    faults = [f"the file lacks {name!r}" for name in own if name not in state]
    faults += [f"the model lacks {_short.repr(name)}" for name in state if name not in own]
    faults += [
        f"{name!r} is {tuple(state[name].shape)} in the file, {tuple(tensor.shape)} in the model"
        for name, tensor in own.items()
        if name in state and state[name].shape != tensor.shape
    ]
    if faults:
        more = f"; and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise SparseFileError(f"does not fit the model: {'; '.join(faults[:3])}{more}")
