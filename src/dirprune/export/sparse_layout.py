"""The layout of the sparse file: a state dict as bytes, and back.

The file is a plain safetensors file (an 8-byte little-endian header length, a JSON header, the data). Its
metadata has one key, `dirprune-sparse`, whose text is this JSON:

    {"version": 3, "sha256": "...", "entries": [
        {"name": "a.weight", "encoding": "bitmask", "dtype": "F32", "shape": [20, 10]},
        {"name": "b.weight", "encoding": "elias-fano", "dtype": "F32", "shape": [20, 10], "count": 10, "low_bits": 4},
        {"name": "a.bias",   "encoding": "dense",   "dtype": "F32", "shape": [20]},
        {"name": "c.weight", "encoding": "alias",   "target": "a.weight"}]}

| encoding | what is stored for the entry NAME, of n elements |
|---|---|
| dense | tensor `dense:NAME`, as it is |
| bitmask | tensor `mask:NAME`: ceil(n/8) bytes, where bit i % 8 (least significant first) of byte i // 8 says that element i, in row-major order, is not all zero bits; tensor `values:NAME`: those elements, in that order, in the entry's own dtype |
| elias-fano | the positions p of those elements, `count` of them, with k = `low_bits`: tensor `low:NAME`, the k low bits of each p, one after the other; tensor `high:NAME`, where for the i-th p bit (p >> k) + i is one, count + ((n - 1) >> k) bits in all; both filled up with zero bits to whole bytes, in the bitmask's order of bits, and no more bytes than for k = 0; tensor `values:NAME` as there |
| alias | nothing: the entry is the same tensor as its target, an earlier entry that is no alias |

Positions are taken from bit patterns, so that -0.0 and the payloads of NaNs survive; where -0.0 is an eighth of a
tensor or more, as `w * mask` leaves it, the packed encodings write 0.0 for it. Only floating-point tensors are packed,
and only where that takes fewer bytes, those of the header included. An entry may have two more keys:

| key | meaning |
|---|---|
| "values": "F16" or "BF16" | the elements are stored in this dtype, and rounded to it; "dtype" is what they become when read |
| "zstd": true | each stored tensor is one frame of Zstandard, as U8, of the bytes that would be there otherwise |

A file has at least a 256th of the bytes of its dense tensors, so that a small file cannot ask for much memory:
unpacking takes a few times these, the less the wider the dtype.
`sha256` is that of the entries, as JSON without spaces, followed by the data. Version 2 has no elias-fano; version
1 has no `sha256` and neither of the two keys either. Both are still read.
"""  # noqa: E501 - a table row is one line

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from safetensors import SafetensorError, deserialize
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from dirprune.errors import NotSafetensorsError, PlainFileError, SparseFileError, UsageError
from dirprune.export.packing import (
    CODES,
    INDICES,
    MAX_DIMENSIONS,
    MAX_UNFOLDING,
    Entry,
    Values,
    can_be,
    can_be_index,
    can_be_stored,
    check_stored,
    pack,
    short,
    unpack,
)

_FORMAT = "dirprune-sparse"
_VERSION = 3


def encode(
    state: Mapping[str, Tensor], values: Values, *, compress: bool, indices: tuple[str, ...] = INDICES
) -> tuple[bytes, int]:
    """The bytes of the file, and those of the dense tensors, shared ones once.

    Args:
        state: What to store.
        values: In how many bytes.
        compress: Whether Zstandard may be used.
        indices: Encodings to choose from for what has zeros.
    """
    entries: list[dict[str, object]] = []
    stored: dict[str, Tensor] = {}
    owners: dict[tuple[object, ...], str] = {}
    dense_bytes = 0
    for name, tensor in state.items():
        check_storable(name, tensor)
    all_bytes = sum(tensor.numel() * tensor.itemsize for tensor in state.values())
    for name, tensor in state.items():
        owner = owners.setdefault(_identity(tensor), name) if tensor.numel() else name
        if owner != name:
            entries.append({"name": name, "encoding": "alias", "target": owner})
            continue
        entry, parts = pack(name, tensor, values, compress=compress, indices=indices, file_bytes=all_bytes)
        entries.append(entry)
        stored.update({f"{part}:{name}": value for part, value in parts.items()})
        dense_bytes += tensor.numel() * tensor.itemsize
    try:
        _, data = split(save(stored))
        description = {"version": _VERSION, "sha256": digest(entries, data), "entries": entries}
        text = json.dumps(description, separators=(",", ":"))
        content = save(stored, {_FORMAT: text})  # one key: safetensors writes several in random order
    except (
        KeyError,
        UnicodeEncodeError,
    ) as error:  # a dtype that an old release lacks, a name that is no text
        raise SparseFileError(f"the installed safetensors cannot store this state dict: {error}") from error
    if dense_bytes > MAX_UNFOLDING * len(content):  # nobody would read it
        return encode(state, values, compress=False, indices=("bitmask",))
    return content, dense_bytes


def decode(content: bytes) -> dict[str, Tensor]:
    """The state dict in the bytes of a sparse file; its claims are checked before anything dense is made."""
    stored, entries, checksum_fits = parse(content)
    own = [entry for entry in entries.values() if isinstance(entry, Entry)]
    if sum(e.dense_bytes for e in own) > MAX_UNFOLDING * len(content):
        raise SparseFileError(f"damaged: it claims more than {MAX_UNFOLDING} times its own size")
    if not checksum_fits:
        raise SparseFileError("damaged: its checksum does not fit its content")
    state: dict[str, Tensor] = {}
    for name, entry in entries.items():
        state[name] = unpack(entry, stored) if isinstance(entry, Entry) else state[entry]
    return state


def parse(content: bytes) -> tuple[dict[str, dict[str, Any]], dict[str, Entry | str], bool]:
    """What is stored, the entries that say what it means, and whether the checksum, if any, fits."""
    read: Callable[[bytes], list[tuple[str, dict[str, Any]]]] = deserialize
    try:
        stored = dict(read(content))
    except SafetensorError as error:
        reason = short.repr(str(error))
        raise NotSafetensorsError(f"not a safetensors file, or a damaged one: {reason}") from error
    header, data = split(content)
    metadata = _parse_json(header.decode()).get("__metadata__") or {}
    if metadata.get(_FORMAT) is None:
        raise PlainFileError("a safetensors file, but not a dirprune sparse file: use one from save_sparse")
    described = _parse_json(metadata[_FORMAT])
    entries = _parse_description(described)
    unclaimed = set(stored)
    for entry in entries.values():
        if isinstance(entry, Entry):
            unclaimed -= check_stored(entry, stored)
    if unclaimed:
        raise SparseFileError(f"damaged: no entry names the stored {short.repr(min(unclaimed))}")
    fits = described["version"] == 1 or described["sha256"] == digest(described["entries"], data)
    return stored, entries, fits


def split(content: bytes) -> tuple[bytes, memoryview]:
    """Header and data of a safetensors file."""
    end = 8 + int.from_bytes(content[:8], "little")
    return content[8:end], memoryview(content)[end:]


def digest(entries: object, data: memoryview) -> str:
    """The checksum of what the file says and holds."""
    total = hashlib.sha256(json.dumps(entries, separators=(",", ":")).encode())
    total.update(data)
    return total.hexdigest()


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
                "encoding": "dense" | "bitmask" | "elias-fano" as encoding,
                "dtype": str(dtype),
                "shape": list(shape),
                **rest,
            } if can_be(encoding, dtype, shape) and (version > 2 or encoding != "elias-fano"):
                keys = ("count", "low_bits") if encoding == "elias-fano" else ()
                index: dict[str, Any] = {key: rest.pop(key, None) for key in keys}
                values = rest.pop("values", None) if version > 1 else None
                zstd = rest.pop("zstd", False) if version > 1 else False
                stored = can_be_stored(dtype, values) and can_be_index(math.prod(shape), **index)
                if not stored or not isinstance(zstd, bool):
                    raise SparseFileError(f"damaged: an entry of no known form, {short.repr(item)}")
                stored_as = dtype if values is None else str(values)
                entry = Entry(name, encoding, dtype, tuple(shape), stored_as, zstd, *index.values())
            case _:
                raise SparseFileError(f"damaged: an entry of no known form, {short.repr(item)}")
        if rest or name in entries:
            fault = f"unknown keys, {short.repr(list(rest))}" if rest else "a name that another has"
            raise SparseFileError(f"damaged: the entry {short.repr(name)} has {fault}")
        entries[name] = entry
    return entries


def state_of(model: nn.Module | Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What there is to store of a module or a mapping.

    A dict of its own keeps every tensor alive, without which equal addresses would not mean equal tensors.
    """
    if not isinstance(model, nn.Module | Mapping):
        raise UsageError(f"expected a module or a mapping of tensors, got {type(model).__name__}")
    return dict(model.state_dict() if isinstance(model, nn.Module) else model)


def check_storable(name: object, tensor: object) -> None:
    """Refuse what is not a tensor with plain memory behind it and a dtype that the format knows."""
    if not isinstance(name, str) or not isinstance(tensor, Tensor):
        raise SparseFileError(
            f"expected a tensor for {short.repr(name)}, got {type(tensor).__name__}: leave it out"
        )
    if is_lazy(tensor):
        raise SparseFileError(f"{name!r} has no shape yet: let the model see a batch before")
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
