"""One tensor of a sparse file: from elements to what is stored, and back; see sparse_layout.py."""

import json
import math
import reprlib
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dirprune.errors import SparseFileError, from_extra
from dirprune.export import elias_fano

Values = Literal["same", "fp16", "bf16"]

MAX_DIMENSIONS = 64
MAX_UNFOLDING = 256  # bytes of dense tensors for each byte of a file
PARTS = {"dense": ("dense",), "bitmask": ("mask", "values"), "elias-fano": ("low", "high", "values")}
_Form = tuple[dict[str, object], dict[str, Tensor]]  # what an entry says, and its parts
INDICES = ("bitmask", "elias-fano")  # encodings that say where the values are
_MAX_ELEMENTS = 2**60  # so that no count of bytes can overflow 64 bits
_LEVEL = 19  # of Zstandard: slow to write, no slower to read
# w * mask leaves -0.0 for every negative w. From this share of a tensor on, such signs are not kept: they are
# of weights that are gone, and each would cost as much as a value.
_MASKED = 1 / 8
_SIGNED_ZERO = (torch.float64, torch.float32, torch.float16, torch.bfloat16)

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
DTYPES: dict[str, torch.dtype] = {
    code: getattr(torch, name) for code, name in _NAMES.items() if hasattr(torch, name)
}
CODES = {dtype: code for code, dtype in DTYPES.items()}
_HALVES = {"fp16": torch.float16, "bf16": torch.bfloat16}

short = reprlib.Repr()  # bounded: what it shows comes from a stranger's file
short.maxstring, short.maxlevel = 100, 2


class Entry(NamedTuple):
    """One tensor of the state dict, as the description in the metadata has it."""

    name: str
    encoding: str
    dtype: str
    shape: tuple[int, ...]
    values: str
    zstd: bool
    positions: int = 0
    low_bits: int = 0

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def dense_bytes(self) -> int:
        """Bytes of the tensor in memory."""
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize


def can_be(encoding: str, dtype: str, shape: list[Any]) -> bool:
    """Whether a tensor of this dtype and shape can exist and be so encoded."""
    if dtype not in DTYPES or (encoding in INDICES and not DTYPES[dtype].is_floating_point):
        return False
    if len(shape) > MAX_DIMENSIONS or any(type(d) is not int or not 0 <= d <= _MAX_ELEMENTS for d in shape):
        return False
    return math.prod(max(int(d), 1) for d in shape) <= _MAX_ELEMENTS


def can_be_stored(dtype: str, values: object) -> bool:
    """Whether elements of a dtype may be stored in another."""
    return values is None or (values in ("F16", "BF16") and dtype in ("F32", "F64"))


def can_be_index(n: int, count: object = 0, low_bits: object = 0) -> bool:
    """Whether so many of n positions can be stored with so many low bits."""
    if type(count) is not int or type(low_bits) is not int:
        return False
    if not (0 <= count <= n and 0 <= low_bits <= elias_fano.MAX_LOW_BITS):
        return False
    # the writer takes the fewest bytes; more than without any low bits would only cost memory
    return sum(elias_fano.byte_counts(n, count, low_bits)) <= sum(elias_fano.byte_counts(n, count, 0))


def pack(
    name: str, tensor: Tensor, values: Values, *, compress: bool, indices: tuple[str, ...], file_bytes: int
) -> tuple[dict[str, object], dict[str, Tensor]]:
    """An entry and the parts to store: of the encodings, the one that takes the fewest bytes of the file."""
    dense = tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
    entry: dict[str, object] = {"name": name, "dtype": CODES[dense.dtype], "shape": list(dense.shape)}
    if values != "same" and dense.dtype in (torch.float32, torch.float64) and dense.ndim > 1:
        rounded = dense.to(_HALVES[values])
        if (rounded.isinf() & ~dense.isinf()).any():
            raise SparseFileError(f"{name!r} has values too large for {values}: use bf16, or values='same'")
        dense = rounded
        entry["values"] = CODES[dense.dtype]
    bits = _without_signs_of_a_mask(
        dense.reshape(-1).view(torch.uint8).numpy().view(f"u{dense.itemsize}"), dense.dtype
    )
    forms: list[_Form] = [({"encoding": "dense"}, {"dense": dense})]
    if dense.is_floating_point():
        count = int(np.count_nonzero(bits))
        forms += [_outline(encoding, len(bits), count, dense.dtype) for encoding in indices]

    def cost(form: _Form) -> int:
        keys, parts = form
        return _size(parts) + _header_bytes(entry | keys, parts, file_bytes)

    best = min(forms, key=cost)
    rivals = [best]
    if compress and "values" in best[1]:
        # of the indices the one that is smallest in the end, which only compression can tell
        rivals = [best, *(form for form in forms if "values" in form[1] and form is not best)]
    made = [_filled(form, bits, dense.dtype) for form in rivals]
    frames = [
        (keys | {"zstd": True}, {part: _compressed(value) for part, value in parts.items()})
        for keys, parts in (made if compress else [])
    ]
    keys, parts = min((made[0], *frames), key=cost)
    return entry | keys, parts


def _without_signs_of_a_mask(bits: NDArray[Any], dtype: torch.dtype) -> NDArray[Any]:
    """The bit patterns, with 0.0 for every -0.0 where there are so many that a mask has left them."""
    if dtype not in _SIGNED_ZERO:
        return bits
    negative = bits == bits.dtype.type(1 << (8 * bits.itemsize - 1))
    masked = np.count_nonzero(negative) >= _MASKED * len(bits)
    return np.where(negative, bits.dtype.type(0), bits) if masked else bits


def _header_bytes(entry: dict[str, object], parts: Mapping[str, Tensor], file_bytes: int) -> int:
    """What the header takes for an entry and its parts, up to the digits of where the parts lie."""
    description = json.dumps(json.dumps(entry, separators=(",", ":")))  # a text within the header's JSON
    records = {
        f"{part}:{entry['name']}": {
            "dtype": CODES[value.dtype],
            "shape": list(value.shape),
            "data_offsets": [file_bytes, file_bytes],
        }
        for part, value in parts.items()
    }
    return len(description) + len(json.dumps(records, separators=(",", ":")))


def _outline(encoding: str, n: int, count: int, dtype: torch.dtype) -> _Form:
    """What an entry says of `count` values at n positions, and its parts without what is in them."""
    keys: dict[str, object] = {"encoding": encoding}
    sizes = {"mask": -(-n // 8)}
    if encoding == "elias-fano":
        low_bits = elias_fano.best_low_bits(n, count)
        keys |= {"count": count, "low_bits": low_bits}
        sizes = dict(zip(("low", "high"), elias_fano.byte_counts(n, count, low_bits), strict=True))
    index = {part: torch.empty(size, dtype=torch.uint8, device="meta") for part, size in sizes.items()}
    return keys, {**index, "values": torch.empty(count, dtype=dtype, device="meta")}


def _filled(form: _Form, bits: NDArray[Any], dtype: torch.dtype) -> _Form:
    """An outline with where the values are, and the values; a dense tensor as it is."""
    keys, outline = form
    if "values" not in outline:
        return form
    if keys["encoding"] == "bitmask":
        index = {"mask": np.packbits(bits != 0, bitorder="little")}
    else:
        low_bits = keys["low_bits"]
        assert isinstance(low_bits, int)
        low, high = elias_fano.encode(np.flatnonzero(bits), len(bits), low_bits)
        index = {"low": low, "high": high}
    parts = {part: torch.from_numpy(content) for part, content in index.items()}
    return keys, {**parts, "values": _from_bits(bits[bits != 0], dtype)}


def _size(parts: Mapping[str, Tensor]) -> int:
    return sum(value.numel() * value.itemsize for value in parts.values())


def check_stored(entry: Entry, stored: Mapping[str, Mapping[str, Any]]) -> set[str]:
    """The keys of an entry's stored parts, each of which must be there with its right dtype and shape."""
    low, high = elias_fano.byte_counts(entry.numel, entry.positions, entry.low_bits)
    known: dict[str, tuple[str, list[int] | None]] = {
        "dense": (entry.values, list(entry.shape)),
        "mask": ("U8", [-(-entry.numel // 8)]),
        "low": ("U8", [low]),
        "high": ("U8", [high]),
        # only the mask's bits say how many values there must be
        "values": (entry.values, [entry.positions] if entry.encoding == "elias-fano" else None),
    }
    for part in PARTS[entry.encoding]:
        dtype, shape = ("U8", None) if entry.zstd else known[part]
        key = f"{part}:{entry.name}"
        if key not in stored:
            raise SparseFileError(f"damaged: the stored {short.repr(key)} is missing")
        found = stored[key]
        fits = len(found["shape"]) == 1 if shape is None else found["shape"] == shape
        if found["dtype"] != dtype or not fits:
            wanted = f"{dtype} {'of one dimension' if shape is None else short.repr(shape)}"
            got = f"{found['dtype']} {short.repr(found['shape'])}"
            raise SparseFileError(f"damaged: expected the stored {short.repr(key)} to be {wanted}, got {got}")
    return {f"{part}:{entry.name}" for part in PARTS[entry.encoding]}


def unpack(entry: Entry, stored: Mapping[str, Mapping[str, Any]]) -> Tensor:
    """The dense tensor of an entry whose stored parts have the right dtypes and shapes."""
    dtype = DTYPES[entry.values]
    kind = np.dtype(f"u{dtype.itemsize}")

    def part(name: str, kind: np.dtype[Any], count: int) -> NDArray[Any]:
        data = stored[f"{name}:{entry.name}"]["data"]
        return np.frombuffer(
            _decompressed(entry, data, count * kind.itemsize) if entry.zstd else data, dtype=kind
        )

    n, byte = entry.numel, np.dtype("u1")
    if entry.encoding == "dense":
        bits = part("dense", kind, n)
        if dtype == torch.bool and (bits > 1).any():
            raise SparseFileError(f"damaged: {short.repr(entry.name)} has booleans that are neither 0 nor 1")
        return _from_bits(bits, dtype).reshape(entry.shape).to(DTYPES[entry.dtype])
    bits = np.zeros(n, dtype=kind)
    if entry.encoding == "bitmask":
        mask = np.unpackbits(part("mask", byte, -(-n // 8)), bitorder="little").view(np.bool_)
        count = int(np.count_nonzero(mask))
        values = part("values", kind, count)
        if mask[n:].any() or count != len(values):
            raise SparseFileError(
                f"damaged: the mask of {short.repr(entry.name)} does not fit {n} bits, {len(values)} values"
            )
        bits[mask[:n]] = values
    else:
        low, high = elias_fano.byte_counts(n, entry.positions, entry.low_bits)
        values, done = part("values", kind, entry.positions), 0
        index = part("low", byte, low), part("high", byte, high)
        try:
            for where in elias_fano.decode(*index, n, entry.positions, entry.low_bits):
                bits[where] = values[done : done + len(where)]
                done += len(where)
        except ValueError as error:
            raise SparseFileError(f"damaged: {short.repr(entry.name)} has {error}") from error
    return _from_bits(bits, dtype).reshape(entry.shape).to(DTYPES[entry.dtype])


def _from_bits(bits: NDArray[Any], dtype: torch.dtype) -> Tensor:
    """The 1-D tensor with these bit patterns."""
    return torch.from_numpy(bits.view(np.uint8)).view(dtype)


def _zstandard() -> Any:
    """The library, which only compressed files need."""
    with from_extra("export", "a compressed sparse file"):
        import zstandard
    return zstandard


def _compressed(tensor: Tensor) -> Tensor:
    """One frame of a tensor's bytes."""
    compressor = _zstandard().ZstdCompressor(level=_LEVEL, write_content_size=True)
    frame = compressor.compress(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return torch.frombuffer(bytearray(frame), dtype=torch.uint8)


def _decompressed(entry: Entry, frame: bytes, size: int) -> bytearray:
    """What is in a frame, which must say that it has this size before memory is asked for."""
    zstandard = _zstandard()
    try:
        if zstandard.frame_content_size(frame) == size:
            content = bytearray(zstandard.ZstdDecompressor().decompress(frame, allow_extra_data=False))
            if len(content) == size:
                return content
    except zstandard.ZstdError as error:
        reason = short.repr(str(error))
        raise SparseFileError(
            f"damaged: {short.repr(entry.name)} cannot be decompressed: {reason}"
        ) from error
    raise SparseFileError(f"damaged: {short.repr(entry.name)} is not {size} bytes when decompressed")
