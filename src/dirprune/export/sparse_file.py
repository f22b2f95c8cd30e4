"""The sparse file: a state dict whose zeros cost one bit each, lossless to the bit unless asked otherwise.

The file is a plain safetensors file (an 8-byte little-endian header length, a JSON header, the data). Its
metadata has one key, `dirprune-sparse`, whose text is this JSON:

    {"version": 2, "sha256": "...", "entries": [
        {"name": "a.weight", "encoding": "bitmask", "dtype": "F32", "shape": [20, 10]},
        {"name": "a.bias",   "encoding": "dense",   "dtype": "F32", "shape": [20]},
        {"name": "b.weight", "encoding": "alias",   "target": "a.weight"}]}

| encoding | what is stored for the entry NAME |
|---|---|
| dense | tensor `dense:NAME`, as it is |
| bitmask | tensor `mask:NAME`: ceil(n/8) bytes, where bit i % 8 (least significant first) of byte i // 8 says that element i, in row-major order, is not all zero bits; tensor `values:NAME`: those elements, in that order, in the entry's own dtype |
| alias | nothing: the entry is the same tensor as its target, an earlier entry that is no alias |

The mask is taken from bit patterns, so that -0.0 and the payloads of NaNs survive. Only floating-point tensors
are packed, and only where that takes fewer bytes. An entry may have two more keys:

| key | meaning |
|---|---|
| "values": "F16" or "BF16" | the elements are stored in this dtype, and rounded to it; "dtype" is what they become when read |
| "zstd": true | each stored tensor is one frame of Zstandard, as U8, of the bytes that would be there otherwise; such a file has at least a 256th of the bytes of its dense tensors, so that a small file cannot ask for much memory |

`sha256` is that of the entries, as JSON without spaces, followed by the data. Version 1 has no `sha256` and
neither of the two keys; it is still read.
"""  # noqa: E501 - a table row is one line

import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, deserialize
from safetensors.torch import save
from torch import Tensor, nn

from dirprune.core.atomic import atomic_write
from dirprune.errors import SparseFileError
from dirprune.export.packing import (
    CODES,
    MAX_DIMENSIONS,
    MAX_UNFOLDING,
    Entry,
    Values,
    can_be,
    can_be_stored,
    check_stored,
    pack,
    short,
    unpack,
)

_FORMAT = "dirprune-sparse"
_VERSION = 2


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
    """Write a model's state dict to a file in which every zero of a sparse tensor costs one bit.

    Nothing is lost, unless `values` asks for it: `load_sparse` gives back every bit. The optimiser's state is
    not in the file. Tensors that are one and the same memory (tied weights) are stored once. The same state
    gives the same bytes. The write is atomic.

    Args:
        model: A module, or a mapping from names to tensors of any shape, on any device.
        path: The file to write; an old one is replaced.
        values: ``"fp16"`` or ``"bf16"``: round float32 and float64 tensors of two or more dimensions
            (weights, not biases or statistics) to two bytes per value; they are read in their own dtype.
        compress: Compress with Zstandard where that saves bytes (needs the zstandard package).

    Returns:
        The path, the size of the file in bytes, and the size that the tensors have when stored dense.

    Raises:
        SparseFileError: An entry is no plain strided tensor, its dtype has no place in the format, a value
            is too large for fp16, or zstandard is not installed.
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
    if values not in ("same", "fp16", "bf16"):
        raise SparseFileError(f"values must be 'same', 'fp16' or 'bf16', got {values!r}")
    # a dict of its own keeps every tensor alive, without which equal addresses would not mean equal tensors
    state = dict(model.state_dict() if isinstance(model, nn.Module) else model)
    content, dense_bytes = _encode(state, values, compress)
    if compress and dense_bytes > MAX_UNFOLDING * len(content):
        content, dense_bytes = _encode(state, values, compress=False)
    with atomic_write(path) as file:
        file.write(content)
    return SparseFileInfo(Path(path), len(content), dense_bytes)


def load_sparse(path: str | os.PathLike[str], model: nn.Module | None = None) -> dict[str, Tensor]:
    """Read the dense state dict from a file of `save_sparse`, and load it into `model` if one is given.

    The file may come from a stranger: no code in it is run, and what it claims is checked before memory is
    asked for: at most eight elements for each byte of the file, 256 bytes if it is compressed.

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
            check_fits(state, model)
    except SparseFileError as error:
        raise SparseFileError(f"{file}: {error}") from error
    if model is not None:
        model.load_state_dict(state)
    return state


def _check_storable(name: object, tensor: object) -> None:
    """Refuse what is not a tensor with plain memory behind it and a dtype that the format knows."""
    if not isinstance(name, str) or not isinstance(tensor, Tensor):
        raise SparseFileError(
            f"expected a tensor for {short.repr(name)}, got {type(tensor).__name__}: leave it out"
        )
    if type(tensor).__torch_dispatch__ is not Tensor.__torch_dispatch__:
        kind = type(tensor).__name__
        raise SparseFileError(
            f"expected a plain tensor for {name!r}, got a {kind}: gather it with full_tensor()"
        )
    if tensor.layout != torch.strided or tensor.is_meta:
        kind = "a tensor without values (meta)" if tensor.is_meta else str(tensor.layout)
        raise SparseFileError(f"expected a strided tensor for {name!r}, got {kind}: make it dense first")
    if tensor.dtype not in CODES:
        raise SparseFileError(
            f"{name!r} is {tensor.dtype}, expected one of {', '.join(map(str, CODES))}: convert it"
        )
    if tensor.ndim > MAX_DIMENSIONS:
        raise SparseFileError(
            f"{name!r} has {tensor.ndim} dimensions, expected at most {MAX_DIMENSIONS}: reshape it"
        )


def _identity(tensor: Tensor) -> tuple[object, ...]:
    """What two tensors have in common exactly when they are the same elements of the same memory."""
    view = (tensor.shape, tensor.stride(), tensor.is_conj(), tensor.is_neg())
    return tensor.device, tensor.data_ptr(), tensor.dtype, *view


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
        SparseFileError: As for `load_sparse`.
        OSError: The file cannot be read.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     info = save_sparse({"weight": torch.zeros(100, 100)}, f"{folder}/small.safetensors")
        ...     [(tensor.encoding, tensor.zeros, tensor.bytes) for tensor in describe_sparse(info.path)]
        [('bitmask', 10000, 1250)]
    """
    state = load_sparse(path)
    stored, entries, _ = _parse(Path(path).read_bytes())
    described = []
    for name, entry in entries.items():
        tensor, size = state[name], 0
        if isinstance(entry, Entry):
            parts = ("dense",) if entry.encoding == "dense" else ("mask", "values")
            size = sum(len(stored[f"{part}:{name}"]["data"]) for part in parts)
            other = [entry.values] if entry.values != entry.dtype else []
            encoding = " ".join([entry.encoding, *other, *(["zstd"] if entry.zstd else [])])
        else:
            encoding = f"= {entry}"
        zeros = tensor.numel() - int((tensor != 0).sum())
        described.append(StoredTensor(name, encoding, tensor.dtype, tuple(tensor.shape), zeros, size))
    return described


def _encode(state: Mapping[str, Tensor], values: Values, compress: bool) -> tuple[bytes, int]:
    """The bytes of the file, and those of the dense tensors."""
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
        entry, parts = pack(name, tensor, values, compress=compress)
        entries.append(entry)
        stored.update({f"{part}:{name}": value for part, value in parts.items()})
        dense_bytes += tensor.numel() * tensor.itemsize
    try:
        _, data = _split(save(stored))
        description = {"version": _VERSION, "sha256": _digest(entries, data), "entries": entries}
        text = json.dumps(description, separators=(",", ":"))
        content = save(stored, {_FORMAT: text})  # one key: safetensors writes several in random order
    except (
        KeyError,
        UnicodeEncodeError,
    ) as error:  # a dtype that an old release lacks, a name that is no text
        raise SparseFileError(f"the installed safetensors cannot store this state dict: {error}") from error
    return content, dense_bytes


def _split(content: bytes) -> tuple[bytes, memoryview]:
    """Header and data of a safetensors file."""
    end = 8 + int.from_bytes(content[:8], "little")
    return content[8:end], memoryview(content)[end:]


def _digest(entries: object, data: memoryview) -> str:
    """The checksum of what the file says and holds."""
    digest = hashlib.sha256(json.dumps(entries, separators=(",", ":")).encode())
    digest.update(data)
    return digest.hexdigest()


def _decode(content: bytes) -> dict[str, Tensor]:
    """The state dict in the bytes of a sparse file; its claims are checked before anything dense is made."""
    stored, entries, checksum_fits = _parse(content)
    own = [entry for entry in entries.values() if isinstance(entry, Entry)]
    if any(e.zstd for e in own) and sum(e.dense_bytes for e in own) > MAX_UNFOLDING * len(content):
        raise SparseFileError(f"damaged: it claims more than {MAX_UNFOLDING} times its own size")
    if not checksum_fits:
        raise SparseFileError("damaged: its checksum does not fit its content")
    state: dict[str, Tensor] = {}
    for name, entry in entries.items():
        state[name] = unpack(entry, stored) if isinstance(entry, Entry) else state[entry]
    return state


def _parse(content: bytes) -> tuple[dict[str, dict[str, Any]], dict[str, Entry | str], bool]:
    """What is stored, the entries that say what it means, and whether the checksum, if any, fits."""
    read: Callable[[bytes], list[tuple[str, dict[str, Any]]]] = deserialize
    try:
        stored = dict(read(content))
    except SafetensorError as error:
        reason = short.repr(str(error))
        raise SparseFileError(f"not a safetensors file, or a damaged one: {reason}") from error
    header, data = _split(content)
    metadata = _parse_json(header.decode()).get("__metadata__") or {}
    if metadata.get(_FORMAT) is None:
        raise SparseFileError("a safetensors file, but not a dirprune sparse file: use one from save_sparse")
    described = _parse_json(metadata[_FORMAT])
    entries = _parse_description(described)
    unclaimed = set(stored)
    for entry in entries.values():
        if isinstance(entry, Entry):
            unclaimed -= check_stored(entry, stored)
    if unclaimed:
        raise SparseFileError(f"damaged: no entry names the stored {short.repr(min(unclaimed))}")
    fits = described["version"] == 1 or described["sha256"] == _digest(described["entries"], data)
    return stored, entries, fits


def _parse_json(text: str) -> Any:
    """JSON from a stranger: too deep a nesting or too long a number is one more way of being malformed."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SparseFileError(f"damaged: its description is no JSON that can be read ({error})") from error


def _parse_description(described: Any) -> dict[str, Entry | str]:
    """The entries by name: a tensor of its own, or the name of the earlier one that it is an alias of."""
    version = described.get("version") if isinstance(described, dict) else None
    if type(version) is not int or version < 1:
        raise SparseFileError(f"damaged: expected a version from 1, got {short.repr(version)}")
    if version > _VERSION:
        found = short.repr(version)
        raise SparseFileError(f"format version {found}, and this dirprune reads {_VERSION}: upgrade dirprune")
    known = {"version", "entries"} if version == 1 else {"version", "sha256", "entries"}
    if set(described) != known or not isinstance(described["entries"], list):
        expected = (
            "a version and a list of entries" if version == 1 else "a version, sha256, a list of entries"
        )
        raise SparseFileError(f"damaged: expected {expected} and nothing else")
    entries: dict[str, Entry | str] = {}
    for item in described["entries"]:
        match item:
            case {"name": str(name), "encoding": "alias", "target": str(target), **rest} if isinstance(
                entries.get(target), Entry
            ):
                entry: Entry | str = target
            case {
                "name": str(name),
                "encoding": "dense" | "bitmask" as encoding,
                "dtype": str(dtype),
                "shape": list(shape),
                **rest,
            } if can_be(encoding, dtype, shape):
                values = rest.pop("values", None) if version > 1 else None
                zstd = rest.pop("zstd", False) if version > 1 else False
                if not can_be_stored(dtype, values) or type(zstd) is not bool:
                    raise SparseFileError(f"damaged: an entry of no known form, {short.repr(item)}")
                entry = Entry(
                    name, encoding, dtype, tuple(shape), dtype if values is None else str(values), zstd
                )
            case _:
                raise SparseFileError(f"damaged: an entry of no known form, {short.repr(item)}")
        if rest or name in entries:
            fault = f"unknown keys, {short.repr(list(rest))}" if rest else "a name that another has"
            raise SparseFileError(f"damaged: the entry {short.repr(name)} has {fault}")
        entries[name] = entry
    return entries


def check_fits(state: Mapping[str, Tensor], model: nn.Module) -> None:
    """Refuse a state whose names or shapes are not the model's, before anything is copied.

    Args:
        state: What is to be loaded.
        model: Where to; it may be without values (on the device meta).

    Raises:
        SparseFileError: They differ; the message names the first differences.

    Example:
        >>> check_fits(nn.Linear(2, 3).state_dict(), nn.Linear(2, 3))
    """
    own = model.state_dict()
    faults = [f"the file lacks {name!r}" for name in own if name not in state]
    faults += [f"the model lacks {short.repr(name)}" for name in state if name not in own]
    faults += [
        f"{name!r} is {tuple(state[name].shape)} in the file, {tuple(tensor.shape)} in the model"
        for name, tensor in own.items()
        if name in state and state[name].shape != tensor.shape
    ]
    if faults:
        more = f"; and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise SparseFileError(f"does not fit the model: {'; '.join(faults[:3])}{more}")
