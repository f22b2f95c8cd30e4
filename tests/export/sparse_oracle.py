"""A decoder of the sparse file that knows only the published layout: plain Python over its bytes."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

FLOATS = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.float8_e4m3fnuz: "F8_E4M3FNUZ",
    torch.float8_e5m2fnuz: "F8_E5M2FNUZ",
    torch.float8_e8m0fnu: "F8_E8M0",
}
OTHERS = {
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
    torch.complex64: "C64",
}


def raw(tensor: Tensor) -> bytes:
    """The bytes of a tensor's elements in row-major order."""
    return tensor.resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def elias_fano_by_layout(low: bytes, high: bytes, n: int, count: int, k: int) -> list[int]:
    """Which of n elements are there, from integers of any length."""
    lows, highs = int.from_bytes(low, "little"), int.from_bytes(high, "little")
    assert len(low) == -(-count * k // 8)
    assert len(high) == -(-(count + (max(n - 1, 0) >> k)) // 8)
    set_bits = [0] * n
    position = 0  # of the high parts: a one counts the next element, a zero counts the next high part
    found = 0
    for bit in bin(highs)[:1:-1]:
        if bit == "1":
            set_bits[(position << k) + (lows >> found * k) % 2**k] = 1
            found += 1
        else:
            position += 1
    assert found == count == sum(set_bits)
    return set_bits


def read_by_layout(path: Path) -> tuple[dict[str, dict[str, Any]], dict[str, bytes]]:
    """The entries by name and the bytes of each dense tensor, by the published layout alone."""
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    metadata = header.pop("__metadata__")
    assert list(metadata) == ["dirprune-sparse"]
    description = json.loads(metadata["dirprune-sparse"])
    assert description["version"] == 3
    stored = {
        key: (record["dtype"], content[end + record["data_offsets"][0] : end + record["data_offsets"][1]])
        for key, record in header.items()
    }
    entries = {entry["name"]: entry for entry in description["entries"]}
    dense: dict[str, bytes] = {}
    for name, entry in entries.items():
        if entry["encoding"] == "alias":
            dense[name] = dense[entry["target"]]
        elif entry["encoding"] == "dense":
            dtype, dense[name] = stored.pop(f"dense:{name}")
            assert dtype == entry["dtype"]
        else:
            n = int(np.prod(entry["shape"], dtype=int))
            if entry["encoding"] == "bitmask":
                _, mask = stored.pop(f"mask:{name}")
                set_bits = [mask[i // 8] >> (i % 8) & 1 for i in range(n)]
            else:
                _, low = stored.pop(f"low:{name}")
                _, high = stored.pop(f"high:{name}")
                set_bits = elias_fano_by_layout(low, high, n, entry["count"], entry["low_bits"])
            dtype, values = stored.pop(f"values:{name}")
            assert dtype == entry["dtype"]
            size = 1 if dtype.startswith("F8") else {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}[dtype]
            rest = iter([values[i : i + size] for i in range(0, len(values), size)])
            dense[name] = b"".join(next(rest) if bit else bytes(size) for bit in set_bits)
            assert next(rest, None) is None
    assert not stored
    return entries, dense


def assert_same(loaded: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> None:
    assert list(loaded) == list(saved)
    for name, tensor in saved.items():
        assert loaded[name].dtype == tensor.dtype
        assert loaded[name].shape == tensor.shape
        assert raw(loaded[name]) == raw(tensor), name
