"""The sparse file: lossless to the bit, and small."""

import errno
import json
import os
import tracemalloc
from collections.abc import Iterator, Mapping
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

from dirprune.errors import SparseFileError, UsageError
from dirprune.export import load_sparse, save_sparse
from dirprune.export.packing import INDICES, pack
from dirprune.export.sparse_layout import encode
from tests.export.sparse_oracle import FLOATS, OTHERS, assert_same, raw, read_by_layout


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


@pytest.mark.parametrize(
    ("model", "values", "message"),
    [
        (3, "same", "expected a module or a mapping of tensors, got int"),
        ({}, "bf8", "values must be 'same', 'fp16' or 'bf16', got 'bf8'"),
    ],
)
def test_a_wrong_argument_is_not_the_file_s_fault(
    model: Any, values: Any, message: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        save_sparse(model, tmp_path / "file", values=values)
    assert not isinstance(caught.value, SparseFileError)
    assert not list(tmp_path.iterdir())


def test_a_dense_tensor_takes_little_memory_to_store() -> None:
    """What an index would take is known without making one."""
    tensor = torch.randn(500_000).bfloat16()
    tracemalloc.start()
    entry, _ = pack("x", tensor, "same", compress=False, indices=INDICES, file_bytes=10**6)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert entry["encoding"] == "dense"
    assert peak < 2 * tensor.nbytes  # NumPy's part; the index alone would take 27 times the tensor
