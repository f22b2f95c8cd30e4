"""The sparse file: lossless to the bit, small, and unmoved by files that lie.

The oracle is a decoder that knows only the published layout: plain Python over the bytes of the file.
"""

import errno
import json
import math
import os
import pickle
import tracemalloc
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.utils import prune

from dirprune.errors import SparseFileError
from dirprune.export import load_sparse, save_sparse
from dirprune.export.packing import INDICES, pack
from dirprune.export.sparse_file import describe_dense
from dirprune.export.sparse_layout import encode

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


# ---- the oracle ----


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


# ---- what goes in comes out ----


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    """A tensor of any dtype, shape and sparsity, with every format's special bit patterns among them."""
    dtype = draw(st.sampled_from([*FLOATS, *OTHERS]))
    shape = draw(st.lists(st.integers(0, 9), max_size=4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    density = draw(st.sampled_from([0.0, 0.05, 0.5, 0.9, 1.0]))
    n, size = int(np.prod(shape, dtype=int)), dtype.itemsize
    if dtype == torch.bool:
        return torch.from_numpy(np.asarray(rng.random(shape) < density))
    elements = rng.integers(0, 256, (n, size), dtype=np.uint8)
    top = elements[:, -1]  # little-endian: sign and the high bits of the exponent
    top[rng.random(n) < 0.2] |= 0x7F  # infinities and NaNs with payloads
    elements[: n // 10] = [0] * (size - 1) + [0x80]  # -0.0, fewer than a mask leaves
    elements[rng.random(n) < 0.1] = [1] + [0] * (size - 1)  # the smallest subnormal
    elements[rng.random(n) >= density] = 0
    return torch.from_numpy(elements.reshape(-1)).view(dtype).reshape(shape)


@settings(max_examples=250)
@given(state=st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=8), tensors(), max_size=4))
def test_every_bit_comes_back(state: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "file"
    info = save_sparse(state, path)
    assert_same(load_sparse(path), state)
    entries, dense = read_by_layout(path)
    assert list(entries) == list(state)
    for name, tensor in state.items():
        data = raw(tensor)
        assert dense[name] == data
        assert entries[name]["dtype"] == (FLOATS | OTHERS)[tensor.dtype]
        assert entries[name]["shape"] == list(tensor.shape)
        n, size = tensor.numel(), tensor.itemsize
        nonzero = sum(any(data[i : i + size]) for i in range(0, len(data), size))
        high_bits = [nonzero + (max(n - 1, 0) >> k) for k in range(33)]
        elias_fano = min(-(-nonzero * k // 8) + -(-bits // 8) for k, bits in enumerate(high_bits))
        takes = {"dense": n * size}
        if tensor.dtype in FLOATS:
            takes |= {"bitmask": -(-n // 8) + nonzero * size, "elias-fano": elias_fano + nonzero * size}
        # The header takes more or less, of which names of other alphabets have the most.
        expected = {encoding for encoding in takes if takes[encoding] <= min(takes.values()) + 500}
        if info.dense_bytes > 256 * info.bytes:  # hardly anything but zeros
            expected |= {"bitmask"}
        assert entries[name]["encoding"] in expected
    assert (info.path, info.bytes) == (path, path.stat().st_size)
    assert info.dense_bytes == sum(len(raw(tensor)) for tensor in state.values())


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_negative_zero_and_nan_payloads_survive_packing(dtype: torch.dtype, tmp_path: Path) -> None:
    size = dtype.itemsize
    patterns = np.zeros((4000, size), dtype=np.uint8)
    patterns[7, -1] = 0x80  # -0.0
    patterns[8] = 0xFF  # a NaN with a full payload
    patterns[9, -1], patterns[9, 0] = 0x7F, 0x81 if size > 1 else 0x7F
    tensor = torch.from_numpy(patterns.reshape(-1)).view(dtype)
    save_sparse({"x": tensor}, tmp_path / "file")
    entries, dense = read_by_layout(tmp_path / "file")
    assert entries["x"]["encoding"] == "elias-fano"
    assert dense["x"] == patterns.tobytes()
    assert_same(load_sparse(tmp_path / "file"), {"x": tensor})


def test_tensors_that_are_not_contiguous_come_back(tmp_path: Path) -> None:
    x = torch.randn(6, 8).masked_fill(torch.rand(6, 8) < 0.8, 0.0)
    z = torch.view_as_complex(torch.randn(5, 2))
    state = {
        "transposed": x.T,
        "strided": x[::2, 1::3],
        "expanded": torch.tensor([0.0, 0.0, 1.5]).expand(9, 3),
        "permuted": x.reshape(2, 3, 8).permute(2, 0, 1),
        "overlapping a": x[:4],
        "overlapping b": x[2:],
        "flat": x.view(-1),
        "conjugate": z.conj(),
        "negative": z.conj().imag,
    }
    assert state["negative"].is_neg()
    save_sparse(state, tmp_path / "file")
    assert_same(load_sparse(tmp_path / "file"), state)


def small_cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(128, 10)
    )


def test_a_network_computes_the_same_after_the_round_trip(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, other, x = small_cnn(), small_cnn(), torch.randn(5, 1, 8, 8)
    with torch.no_grad():
        model(x)  # moves the BatchNorm's statistics and its count of batches
        for parameter in model.parameters():
            parameter[torch.rand_like(parameter) < 0.9] = 0.0
    info = save_sparse(model, tmp_path / "file")
    state = load_sparse(info.path, other)
    assert_same(state, model.state_dict())
    assert_same(other.state_dict(), model.state_dict())
    assert state["1.num_batches_tracked"].item() == 1
    assert torch.equal(model.eval()(x), other.eval()(x))


def test_what_is_loaded_is_the_callers_own(tmp_path: Path) -> None:
    save_sparse({"a": torch.ones(3), "b": torch.zeros(30)}, tmp_path / "file")
    state = load_sparse(tmp_path / "file")
    (tmp_path / "file").unlink()
    for tensor in state.values():
        tensor.add_(1)
    assert state["a"].tolist() == [2.0] * 3
    assert state["b"].tolist() == [1.0] * 30


# ---- size, ties, determinism ----


def shortest(n: int, nonzero: int) -> dict[str, int]:
    """Length of a file with one float32 tensor, by each encoding, from the layout and safetensors alone."""
    low_bits = min(range(33), key=lambda k: sum(elias_fano_bytes(n, nonzero, k)))
    low, high = elias_fano_bytes(n, nonzero, low_bits)
    forms: dict[str, tuple[dict[str, int], dict[str, Tensor]]] = {
        "dense": ({}, {"dense": torch.zeros(n)}),
        "bitmask": ({}, {"mask": torch.zeros(-(-n // 8), dtype=torch.uint8), "values": torch.zeros(nonzero)}),
        "elias-fano": (
            {"count": nonzero, "low_bits": low_bits},
            {
                "low": torch.zeros(low, dtype=torch.uint8),
                "high": torch.zeros(high, dtype=torch.uint8),
                "values": torch.zeros(nonzero),
            },
        ),
    }
    lengths = {}
    for encoding, (keys, parts) in forms.items():
        entry = {"name": "fc.bias", "encoding": encoding, "dtype": "F32", "shape": [n], **keys}
        description = {"version": 3, "sha256": "0" * 64, "entries": [entry]}
        text = json.dumps(description, separators=(",", ":"))
        stored = {f"{part}:fc.bias": value for part, value in parts.items()}
        lengths[encoding] = len(save(stored, {"dirprune-sparse": text}))
    return lengths


def elias_fano_bytes(n: int, nonzero: int, k: int) -> tuple[int, int]:
    return -(-nonzero * k // 8), -(-(nonzero + ((n - 1) >> k)) // 8)


def test_a_small_tensor_is_packed_only_where_the_whole_file_is_shorter(tmp_path: Path) -> None:
    chosen = set()
    for n in (8, 32, 60, 100, 200, 500, 1000, 2000, 4096):
        for density in (0.0, 0.01, 0.1, 0.5, 0.9, 1.0):
            tensor = torch.zeros(n)
            tensor[torch.randperm(n)[: round(density * n)]] = 1.5
            size = save_sparse({"fc.bias": tensor}, tmp_path / "file").bytes
            lengths = shortest(n, int(tensor.count_nonzero()))
            # safetensors fills the header up to eights, and digits of offsets are counted generously
            assert size <= min(lengths.values()) + 12, (n, density)
            entries, _ = read_by_layout(tmp_path / "file")
            encoding = entries["fc.bias"]["encoding"]
            assert size == lengths[encoding]
            chosen.add(encoding)
    assert chosen == {"dense", "bitmask", "elias-fano"}


def test_small_sparse_tensors_cost_no_more_than_dense_ones(tmp_path: Path) -> None:
    state = {f"layers.{i}.norm.bias": torch.zeros(64) for i in range(50)}
    for i, tensor in enumerate(state.values()):
        tensor[: 40 + i % 24] = 1.0 + i
    content, _ = encode(state, "same", compress=False, indices=())
    assert save_sparse(state, tmp_path / "file").bytes <= len(content)


@pytest.mark.parametrize(("zeros", "limit"), [(0.90, 0.118), (0.95, 0.061)])
def test_a_million_parameters_take_the_promised_share(zeros: float, limit: float, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(1000, 900), nn.Linear(900, 110))
    parameters = sum(p.numel() for p in model.parameters())
    assert parameters >= 1_000_000
    with torch.no_grad():
        for parameter in model.parameters():
            drop = torch.randperm(parameter.numel(), generator=generator)[: round(zeros * parameter.numel())]
            parameter.view(-1)[drop] = 0.0
    info = save_sparse(model, tmp_path / "file")
    assert info.dense_bytes == 4 * parameters
    assert info.bytes == (tmp_path / "file").stat().st_size
    assert info.bytes <= limit * info.dense_bytes


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("zeros", [0.5, 0.95])
def test_zeros_that_a_mask_leaves_cost_no_more_for_their_sign(
    zeros: float, dtype: torch.dtype, tmp_path: Path
) -> None:
    layer = nn.Linear(300, 100, dtype=dtype)
    prune.l1_unstructured(layer, "weight", zeros)
    prune.remove(layer, "weight")
    weight = layer.weight.detach()
    negative = (weight == 0) & weight.signbit()
    assert negative.sum() > 0.4 * zeros * weight.numel()
    plain = {"weight": weight + 0.0}
    info = save_sparse({"weight": weight}, tmp_path / "masked")
    assert info.bytes == save_sparse(plain, tmp_path / "plain").bytes
    assert_same(load_sparse(tmp_path / "masked"), plain)


def test_a_signed_zero_is_kept_below_an_eighth_and_in_what_is_stored_dense(tmp_path: Path) -> None:
    sparse = torch.zeros(4000)
    sparse[:499] = -0.0
    save_sparse({"x": sparse}, tmp_path / "file")
    assert_same(load_sparse(tmp_path / "file"), {"x": sparse})
    sparse[499] = -0.0
    save_sparse({"x": sparse}, tmp_path / "file")
    assert_same(load_sparse(tmp_path / "file"), {"x": torch.zeros(4000)})
    short = torch.tensor([-0.0, 1.0])
    save_sparse({"x": short}, tmp_path / "file")
    assert_same(load_sparse(tmp_path / "file"), {"x": short})


def tied(width: int = 12) -> nn.Module:
    model = nn.Sequential(nn.Embedding(20, width), nn.Linear(width, 20))
    model[1].weight = model[0].weight
    return model


def test_tied_weights_are_stored_once_and_come_back_tied(tmp_path: Path) -> None:
    model, other = tied(), tied()
    info = save_sparse(model, tmp_path / "file")
    entries, _ = read_by_layout(tmp_path / "file")
    assert entries["1.weight"] == {"name": "1.weight", "encoding": "alias", "target": "0.weight"}
    assert info.dense_bytes == 4 * (20 * 12 + 20)
    state = load_sparse(tmp_path / "file", other)
    assert state["1.weight"] is state["0.weight"]
    assert_same(other.state_dict(), model.state_dict())


class MadeOnDemand(Mapping[str, Tensor]):
    """Tensors that live no longer than they are looked at, so that one gets the address of another."""

    def __getitem__(self, name: str) -> Tensor:
        tensor = torch.zeros(1000)
        tensor[int(name)] = 1.0
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter("123456")

    def __len__(self) -> int:
        return 6


def test_equal_addresses_alone_do_not_tie(tmp_path: Path) -> None:
    z = torch.view_as_complex(torch.randn(5, 2))
    x = torch.randn(4, 4)
    for state in (MadeOnDemand(), {"z": z, "conjugate": z.conj()}, {"x": x, "transposed": x.T, "row": x[0]}):
        save_sparse(state, tmp_path / "file")
        assert_same(load_sparse(tmp_path / "file"), state)


def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    model = small_cnn()
    contents = set()
    for _ in range(5):
        save_sparse(model, tmp_path / "file")
        contents.add((tmp_path / "file").read_bytes())
    assert len(contents) == 1


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_sparse({"x": torch.ones(3)}, tmp_path / "file")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save_sparse({"x": torch.zeros(3)}, tmp_path / "file")
    assert load_sparse(tmp_path / "file")["x"].tolist() == [1.0] * 3
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


# ---- what cannot be saved ----


class Gathered(Tensor):
    """Stands for the subclasses, such as DTensor, that have no plain memory of their own."""

    @classmethod
    def __torch_dispatch__(cls, *_: Any) -> Any:
        raise NotImplementedError


UNSAVEABLE = [
    (3, "expected a module or a mapping of tensors, got int"),
    ({"a": {"step": 1}}, "expected a tensor for 'a', got dict: leave it out"),
    ({1: torch.ones(1)}, "expected a tensor for 1"),
    ({"a": torch.ones(2, device="meta")}, "without values"),
    ({"a": torch.ones(2).to_sparse()}, "torch.sparse_coo: make it dense"),
    ({"a": torch.ones(2, dtype=torch.complex128)}, "'a' is torch.complex128, expected one of torch.float64"),
    ({"a": torch.ones([1] * 65)}, "65 dimensions, expected at most 64"),
    ({"a": torch.ones(2).as_subclass(Gathered)}, "got a Gathered: gather it with full_tensor()"),
    ({"\ud800": torch.ones(2)}, "surrogates not allowed"),
    (nn.LazyLinear(3), "'weight' has no shape yet"),
]


@pytest.mark.parametrize(("model", "fragment"), UNSAVEABLE, ids=[fragment for _, fragment in UNSAVEABLE])
def test_what_has_no_place_in_the_format_is_refused(model: Any, fragment: str, tmp_path: Path) -> None:
    with pytest.raises(SparseFileError) as caught:
        save_sparse(model, tmp_path / "file")
    assert fragment in str(caught.value)
    assert not list(tmp_path.iterdir())


# ---- what cannot be loaded ----

MASK, VALUES = torch.tensor([0b101], dtype=torch.uint8), torch.tensor([1.0, 2.0])
PACKED = {"name": "a", "encoding": "bitmask", "dtype": "F32", "shape": [3]}
PACKED_PARTS = {"mask:a": MASK, "values:a": VALUES}
PLAIN = {"name": "a", "encoding": "dense", "dtype": "F32", "shape": [2]}
PLAIN_PARTS = {"dense:a": VALUES.clone()}
ALIAS = {"name": "b", "encoding": "alias", "target": "a"}


def made(entries: Any, parts: Mapping[str, Tensor], **more: Any) -> bytes:
    """A file with any description, by safetensors itself."""
    return save(dict(parts), {"dirprune-sparse": json.dumps({"version": 1, "entries": entries} | more)})


def described(text: str) -> bytes:
    return save({}, {"dirprune-sparse": text})


def packed(**changes: Any) -> bytes:
    return made([PACKED | changes], PACKED_PARTS)


def plain(**changes: Any) -> bytes:
    return made([PLAIN | changes], PLAIN_PARTS)


def headed(text: str, data: bytes = b"") -> bytes:
    return len(text).to_bytes(8, "little") + text.encode() + data


NOT_SAFETENSORS = "not a safetensors file, or a damaged one"
NO_FORM = "an entry of no known form"
UNLOADABLE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", NOT_SAFETENSORS),
    "a pickle": (pickle.dumps(print), NOT_SAFETENSORS),
    "text": (b"a,b\n1,2\n" * 9, NOT_SAFETENSORS),
    "truncated": (packed()[:-1], NOT_SAFETENSORS),
    "with a tail": (packed() + b"x", NOT_SAFETENSORS),
    "length beyond the file": ((2**63).to_bytes(8, "little") + packed()[8:], NOT_SAFETENSORS),
    "header too deep": (headed('{"a":' * 100_000), NOT_SAFETENSORS),
    "header that is a list": (headed("[]"), NOT_SAFETENSORS),
    "plain safetensors": (save({"a": VALUES}), "not a dirprune sparse file: use one from save_sparse"),
    "another's metadata": (save({"a": VALUES}, {"format": "pt"}), "not a dirprune sparse file"),
    "null metadata": (headed('{"__metadata__":null}'), "not a dirprune sparse file"),
    "no JSON": (described("{"), "no JSON that can be read"),
    "deep JSON": (described("[" * 200_000), "no JSON that can be read (maximum recursion depth"),
    "deep JSON of objects": (described('{"version":' * 200_000), "no JSON that can be read"),
    "long number": (described('{"version":' + "9" * 5000 + "}"), "no JSON that can be read"),
    "not an object": (described("[1]"), "expected a version from 1, got None"),
    "no version": (described('{"entries":[]}'), "expected a version from 1, got None"),
    "version true": (made([], {}, version=True), "expected a version from 1, got True"),
    "version 0": (made([], {}, version=0), "expected a version from 1, got 0"),
    "version of text": (made([], {}, version="1"), "expected a version from 1, got '1'"),
    "newer version": (
        made([], {}, version=4, blocks=[]),
        "format version 4, and this dirprune reads 3: upgrade",
    ),
    "unknown key": (made([], {}, checksum=1), "a version and a list of entries and nothing else"),
    "no list": (made({"a": PLAIN}, PLAIN_PARTS), "a version and a list of entries and nothing else"),
    "entry no object": (made(["a"], {}), NO_FORM + ", 'a'"),
    "no name": (made([{"encoding": "dense", "dtype": "F32", "shape": [2]}], PLAIN_PARTS), NO_FORM),
    "name no text": (plain(name=1), NO_FORM),
    "two of one name": (made([PLAIN, PLAIN], PLAIN_PARTS), "the entry 'a' has a name that another has"),
    "alias of its own name": (made([PLAIN, ALIAS | {"name": "a"}], PLAIN_PARTS), "a name that another has"),
    "unknown encoding": (plain(encoding="zip"), NO_FORM),
    "unknown dtype": (plain(dtype="float32"), NO_FORM),
    "dtype no text": (plain(dtype=["F32"]), NO_FORM),
    "unknown key of an entry": (plain(scale=2), "the entry 'a' has unknown keys, ['scale']"),
    "unknown key of an alias": (
        made([PLAIN, ALIAS | {"shape": [2]}], PLAIN_PARTS),
        "unknown keys, ['shape']",
    ),
    "negative dimension": (plain(shape=[-2]), NO_FORM),
    "two negative dimensions": (plain(shape=[-1, -2]), NO_FORM),
    "boolean dimension": (plain(shape=[True, 2]), NO_FORM),
    "fractional dimension": (plain(shape=[2.0]), NO_FORM),
    "shape no list": (plain(shape=2), NO_FORM),
    "too many dimensions": (plain(shape=[2] + [1] * 64), NO_FORM),
    "product beyond 64 bits": (packed(shape=[2**32, 2**32]), NO_FORM),
    "zero times beyond 64 bits": (packed(shape=[0, 2**50, 2**50]), NO_FORM),
    "huge packed shape": (packed(shape=[2**40]), "'mask:a' to be U8 [137438953472], got U8 [1]"),
    "huge dense shape": (plain(shape=[2**40]), "'dense:a' to be F32 [1099511627776], got F32 [2]"),
    "shape of another rank": (plain(shape=[2, 1]), "'dense:a' to be F32 [2, 1], got F32 [2]"),
    "dtype of another size": (plain(dtype="F64"), "'dense:a' to be F64 [2], got F32 [2]"),
    "dtype of the same size": (plain(dtype="I32"), "'dense:a' to be I32 [2], got F32 [2]"),
    "packed dtype of another size": (
        packed(dtype="F64"),
        "'values:a' to be F64 of one dimension, got F32 [2]",
    ),
    "packed integers": (packed(dtype="I32"), NO_FORM),
    "values of two dimensions": (
        made([PACKED], PACKED_PARTS | {"values:a": VALUES.view(2, 1)}),
        "'values:a' to be F32 of one dimension, got F32 [2, 1]",
    ),
    "mask of another dtype": (
        made([PACKED], PACKED_PARTS | {"mask:a": MASK.view(torch.int8)}),
        "'mask:a' to be U8 [1], got I8 [1]",
    ),
    "missing dense": (made([PLAIN], {}), "the stored 'dense:a' is missing"),
    "missing mask": (made([PACKED], {"values:a": VALUES}), "the stored 'mask:a' is missing"),
    "missing values": (made([PACKED], {"mask:a": MASK}), "the stored 'values:a' is missing"),
    "tensor that no entry names": (
        made([PACKED], PACKED_PARTS | PLAIN_PARTS),
        "no entry names the stored 'dense:a'",
    ),
    "alias of nothing": (made([ALIAS], {}), NO_FORM),
    "alias of itself": (made([ALIAS | {"target": "b"}], {}), NO_FORM),
    "alias of a later entry": (made([ALIAS, PLAIN], PLAIN_PARTS), NO_FORM),
    "alias of an alias": (made([PLAIN, ALIAS, ALIAS | {"name": "c", "target": "b"}], PLAIN_PARTS), NO_FORM),
    "alias of no text": (made([PLAIN, ALIAS | {"target": ["a"]}], PLAIN_PARTS), NO_FORM),
    "padding bits set": (
        made([PACKED], PACKED_PARTS | {"mask:a": MASK + 8}),
        "does not fit 3 bits, 2 values",
    ),
    "padding bit for a value": (
        made([PACKED], PACKED_PARTS | {"mask:a": MASK + 8 - 1}),
        "does not fit 3 bits, 2 values",
    ),
    "more bits than values": (
        made([PACKED], PACKED_PARTS | {"mask:a": MASK + 2}),
        "does not fit 3 bits, 2 values",
    ),
    "fewer bits than values": (
        made([PACKED], PACKED_PARTS | {"mask:a": MASK - 1}),
        "does not fit 3 bits, 2 values",
    ),
    "one value for two bits": (
        made([PACKED], PACKED_PARTS | {"values:a": VALUES[:1]}),
        "does not fit 3 bits, 1 values",
    ),
    "a boolean of 2": (
        made(
            [PLAIN | {"dtype": "BOOL"}], {"dense:a": torch.tensor([1, 2], dtype=torch.uint8).view(torch.bool)}
        ),
        "booleans that are neither 0 nor 1",
    ),
    "long name": (plain(name="x" * 100_000), "the stored 'dense:xxx"),
    "name with a line break": (plain(name="x\ny"), r"the stored 'dense:x\ny' is missing"),
}


@pytest.mark.parametrize(("content", "fragment"), UNLOADABLE.values(), ids=UNLOADABLE)
def test_a_file_that_lies_is_refused_in_one_line_and_without_memory(
    content: bytes, fragment: str, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(SparseFileError) as caught:
            load_sparse(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert fragment in message
    assert "\n" not in message
    assert len(message) < len(str(path)) + 500
    assert peak < 64 * len(content) + 2**20


def test_the_honest_forms_of_those_lies_load(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(made([PACKED, ALIAS], PACKED_PARTS))
    assert {name: tensor.tolist() for name, tensor in load_sparse(path).items()} == {
        "a": [1.0, 0.0, 2.0],
        "b": [1.0, 0.0, 2.0],
    }
    path.write_bytes(plain())
    assert load_sparse(path)["a"].tolist() == [1.0, 2.0]
    path.write_bytes(made([], {}))
    assert load_sparse(path) == {}


@pytest.mark.parametrize(
    ("make", "found"),
    [(str, "nothing"), (Path.mkdir, "something else"), (os.mkfifo, "something else")],
    ids=["missing", "folder", "pipe"],
)
def test_what_is_no_file_is_refused(make: Callable[[Path], object], found: str, tmp_path: Path) -> None:
    make(tmp_path / "file")
    with pytest.raises(SparseFileError, match=f"expected a sparse file, found {found} by that name"):
        load_sparse(tmp_path / "file")


MISFITS: list[tuple[dict[str, list[int]], str]] = [
    ({"weight": [2, 3]}, "the file lacks 'bias'"),
    ({"weight": [2, 3], "bias": [2], "scale": [1]}, "the model lacks 'scale'"),
    ({"weight": [3, 2], "bias": [2]}, "'weight' is (3, 2) in the file, (2, 3) in the model"),
    ({"weight": [2, 3], "bias": [1]}, "'bias' is (1,) in the file, (2,) in the model"),
    ({f"x{i}": [1] for i in range(9)}, "the file lacks 'bias'; the model lacks 'x0'; and 8 more"),
]


@pytest.mark.parametrize(("shapes", "fragment"), MISFITS, ids=[fragment for _, fragment in MISFITS])
def test_a_file_for_another_model_leaves_the_model_alone(
    shapes: dict[str, list[int]], fragment: str, tmp_path: Path
) -> None:
    model = nn.Linear(3, 2)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    save_sparse({name: torch.zeros(shape) for name, shape in shapes.items()}, tmp_path / "file")
    with pytest.raises(SparseFileError, match="does not fit the model") as caught:
        load_sparse(tmp_path / "file", model)
    assert fragment in str(caught.value)
    assert_same(model.state_dict(), before)


def test_a_state_that_is_not_tensors_alone_is_said_of_the_model(tmp_path: Path) -> None:
    class Counting(nn.Linear):
        def get_extra_state(self) -> dict[str, int]:
            return {"calls": 3}

    save_sparse(nn.Linear(3, 2), tmp_path / "file")
    with pytest.raises(SparseFileError, match=r"'_extra_state' of the model is no tensor, which a sparse"):
        load_sparse(tmp_path / "file", Counting(3, 2))


def test_a_model_without_values_is_not_loaded_in_silence(tmp_path: Path) -> None:
    with torch.device("meta"):
        model = nn.Linear(3, 2)
    save_sparse(nn.Linear(3, 2).state_dict(), tmp_path / "file.safetensors")
    with pytest.raises(
        SparseFileError, match=r"'weight' of the model is on the meta device: call model\.to_empty"
    ):
        load_sparse(tmp_path / "file.safetensors", model)
    model.to_empty(device="cpu")
    load_sparse(tmp_path / "file.safetensors", model)


@pytest.mark.parametrize(("dtype", "size"), [("F4", 2), ("F6_E2M3", 3), ("F8_E8M0", 4)])
def test_a_plain_file_of_a_dtype_without_a_reader_is_refused(dtype: str, size: int, tmp_path: Path) -> None:
    header = json.dumps({"w": {"dtype": dtype, "shape": [4], "data_offsets": [0, size]}}).encode()
    path = tmp_path / "plain.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(size))
    with pytest.raises(SparseFileError, match=f"dtype '{dtype}' is not known here"):
        describe_dense(path)


@pytest.mark.parametrize(
    ("stored", "dtype", "fits"),
    [
        (torch.tensor([1e300, 2.0], dtype=torch.float64), torch.float32, False),
        (torch.tensor([70000.0, 2.0]), torch.float16, False),
        (torch.tensor([0.5, 2.0]), torch.int8, False),
        (torch.tensor([math.inf, math.nan], dtype=torch.float64), torch.float32, True),
        (torch.tensor([0.1, 2.0], dtype=torch.float64), torch.float32, True),
        (torch.tensor([1, 2]), torch.float32, True),
    ],
)
def test_a_dtype_that_cannot_hold_the_values_is_refused(
    stored: Tensor, dtype: torch.dtype, fits: bool, tmp_path: Path
) -> None:
    model = nn.Module()
    model.register_buffer("x", torch.zeros(2, dtype=dtype))
    save_sparse({"x": stored}, tmp_path / "file")
    if fits:
        load_sparse(tmp_path / "file", model)
        assert torch.equal(model.x.nan_to_num(), stored.to(dtype).nan_to_num())
    else:
        with pytest.raises(SparseFileError, match=f"which {dtype} of the model cannot hold"):
            load_sparse(tmp_path / "file", model)
        assert torch.equal(model.x, torch.zeros(2, dtype=dtype))


def test_a_model_without_shapes_is_refused(tmp_path: Path) -> None:
    save_sparse(nn.Linear(2, 3), tmp_path / "file")
    with pytest.raises(SparseFileError, match="'weight' of the model has no shape yet"):
        load_sparse(tmp_path / "file", nn.LazyLinear(3))


def test_a_dense_tensor_takes_little_memory_to_store() -> None:
    """What an index would take is known without making one."""
    tensor = torch.randn(500_000).bfloat16()
    tracemalloc.start()
    entry, _ = pack("x", tensor, "same", compress=False, indices=INDICES, file_bytes=10**6)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert entry["encoding"] == "dense"
    assert peak < 2 * tensor.nbytes  # NumPy's part; the index alone would take 27 times the tensor
