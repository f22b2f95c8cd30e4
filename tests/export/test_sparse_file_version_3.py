"""Positions by the code of Elias and Fano, what is refused of it, and files of version 2.

The oracle codes with Python's own integers, bit by bit.
"""

import json
import math
import tracemalloc
from itertools import chain

import numpy as np
import pytest
import torch
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from dirprune.errors import SparseFileError
from dirprune.export import load_sparse, save_sparse
from dirprune.export.elias_fano import best_low_bits, byte_counts, decode, encode
from dirprune.export.sparse_layout import digest, split

KEY = "dirprune-sparse"


def coded(positions, n, k):
    """Low and high part as the layout has them."""
    low, high = 0, 0
    for i, p in enumerate(positions):
        low |= (p % 2**k) << (i * k)
        high |= 1 << (p // 2**k + i)
    bits = len(positions) + max(n - 1, 0) // 2**k
    return low.to_bytes(math.ceil(len(positions) * k / 8), "little"), high.to_bytes(
        math.ceil(bits / 8), "little"
    )


@settings(max_examples=200)
@given(n=st.integers(0, 3000), density=st.sampled_from([0.0, 0.001, 0.05, 0.3, 1.0]), seed=st.integers(0, 99))
def test_the_code_is_that_of_the_layout(n, density, seed):
    positions = np.flatnonzero(np.random.default_rng(seed).random(n) < density)
    for k in {0, 1, 5, best_low_bits(n, len(positions)), 32}:
        low, high = encode(positions, n, k)
        assert (low.tobytes(), high.tobytes()) == coded(positions.tolist(), n, k)
        assert (len(low), len(high)) == byte_counts(n, len(positions), k)
        assert list(chain(*decode(low, high, n, len(positions), k))) == positions.tolist()


def test_a_long_index_is_decoded_in_pieces():
    n, k = 2_000_000, 1
    positions = np.flatnonzero(np.random.default_rng(0).random(n) < 0.5)
    low, high = encode(positions, n, k)
    pieces = list(decode(low, high, n, len(positions), k))
    assert len(pieces) > 1
    assert np.array_equal(np.concatenate(pieces), positions)
    m = len(pieces[0])  # as many as were chosen, and more ones in the piece after
    with pytest.raises(ValueError, match="more than"):
        list(decode(low[: -(-m * k // 8)], high, n, m, k))


@pytest.mark.parametrize("density", [0.01, 0.05, 0.1])
def test_random_positions_take_little_more_than_their_entropy(density):
    n = 200_000
    m = int(density * n)
    entropy = -n * (density * math.log2(density) + (1 - density) * math.log2(1 - density))
    bits = 8 * sum(byte_counts(n, m, best_low_bits(n, m)))
    assert entropy < bits < entropy + 0.6 * m


def file_of(path, *, low, high, values=(1.0, 2.0), version=3, checked=True, **changes):
    entry = {"name": "a", "encoding": "elias-fano", "dtype": "F32", "shape": [16], "count": 2, "low_bits": 2}
    entry = {key: value for key, value in (entry | changes).items() if value is not ...}
    stored = {
        "low:a": torch.tensor(list(low), dtype=torch.uint8),
        "high:a": torch.tensor(list(high), dtype=torch.uint8),
        "values:a": torch.tensor(values),
    }
    description = {"version": version, "sha256": "", "entries": [entry]}
    if checked:
        description["sha256"] = digest([entry], split(save(stored))[1])
    path.write_bytes(save(stored, {KEY: json.dumps(description)}))
    return path


HONEST = dict(zip(("low", "high"), coded([3, 9], 16, 2), strict=True))


def test_the_honest_form_loads(tmp_path):
    loaded = load_sparse(file_of(tmp_path / "file", **HONEST))["a"]
    assert loaded.nonzero().flatten().tolist() == [3, 9]
    assert loaded[[3, 9]].tolist() == [1.0, 2.0]


LIES = {
    "no count": (HONEST | {"count": ...}, "an entry of no known form"),
    "a count of text": (HONEST | {"count": "2"}, "an entry of no known form"),
    "a count that is true": (HONEST | {"count": True}, "an entry of no known form"),
    "more than there are": (HONEST | {"count": 17}, "an entry of no known form"),
    "fewer than none": (HONEST | {"count": -1}, "an entry of no known form"),
    "too many low bits": (HONEST | {"low_bits": 33}, "an entry of no known form"),
    "low bits that only cost memory": (HONEST | {"low_bits": 16}, "an entry of no known form"),
    "integers": (HONEST | {"dtype": "I32"}, "an entry of no known form"),
    "an earlier version": (HONEST | {"version": 2}, "an entry of no known form"),
    "another key": (HONEST | {"high_bits": 3}, "unknown keys"),
    "count on a dense entry": (HONEST | {"encoding": "dense"}, "unknown keys"),
    "other low bits": (HONEST | {"low_bits": 0}, "'low:a' to be U8 [0], got U8 [1]"),
    "another count": (HONEST | {"count": 1}, "'values:a' to be F32 [1], got F32 [2]"),
    "another shape": (HONEST | {"shape": [400]}, "'high:a' to be U8 [13], got U8 [1]"),
    "the wrong checksum": (HONEST | {"checked": False}, "checksum"),
    "a one too few": (HONEST | {"high": [1]}, "'a' has an index of 1 positions, not 2"),
    "a one too many": (HONEST | {"high": [0b111]}, "'a' has an index of more than 2 positions"),
    "a bit after the low ones": (HONEST | {"low": [16 + 7]}, "an index with bits after its positions"),
    "twice the same": (HONEST | {"low": [0b0101], "high": [0b11]}, "positions that do not rise, or reach 16"),
    "falling": (HONEST | {"low": [0b0001 + 2], "high": [0b11]}, "positions that do not rise, or reach 16"),
    "beyond the end": (HONEST | {"high": [0b1000001]}, "positions that do not rise, or reach 16"),
}


@pytest.mark.parametrize("name", LIES)
def test_an_index_that_lies_is_refused(name, tmp_path):
    changes, reason = LIES[name]
    with pytest.raises(SparseFileError) as caught:
        load_sparse(file_of(tmp_path / "file", **changes))
    assert reason in str(caught.value)


def test_the_index_may_be_compressed(tmp_path):
    weight = torch.zeros(300, 400)
    weight[::3, ::10] = torch.randn(100, 40)  # regular, so that compression finds something
    plain = save_sparse({"a": weight}, tmp_path / "plain").bytes
    info = save_sparse({"a": weight}, tmp_path / "file", compress=True)
    assert info.bytes < plain
    assert torch.equal(load_sparse(info.path)["a"], weight)


def test_a_compressed_index_of_another_size_is_refused(tmp_path):
    frames = {part: zstandard.compress(bytes(content)) for part, content in HONEST.items()}
    stored = {f"{part}:a": torch.tensor(list(frame), dtype=torch.uint8) for part, frame in frames.items()}
    stored["values:a"] = torch.tensor(list(zstandard.compress(bytes(9))), dtype=torch.uint8)
    entry = {"name": "a", "encoding": "elias-fano", "dtype": "F32", "shape": [16], "count": 2, "low_bits": 2}
    entry["zstd"] = True
    description = {"version": 3, "sha256": digest([entry], split(save(stored))[1]), "entries": [entry]}
    (tmp_path / "file").write_bytes(save(stored, {KEY: json.dumps(description)}))
    with pytest.raises(SparseFileError, match="is not 8 bytes when decompressed"):
        load_sparse(tmp_path / "file")


def test_version_2_is_read(tmp_path):
    parts = {"mask:a": torch.tensor([2, 128], dtype=torch.uint8), "values:a": torch.tensor([1.0, -2.0])}
    entries = [{"name": "a", "encoding": "bitmask", "dtype": "F32", "shape": [16], "zstd": False}]
    description = {"version": 2, "sha256": digest(entries, split(save(parts))[1]), "entries": entries}
    (tmp_path / "old").write_bytes(save(parts, {KEY: json.dumps(description)}))
    assert load_sparse(tmp_path / "old")["a"].nonzero().flatten().tolist() == [1, 15]


def test_hardly_anything_but_zeros_is_no_bomb(tmp_path):
    weight = torch.zeros(1000, 1000)
    weight[5, 5] = 1.0
    info = save_sparse({"a": weight}, tmp_path / "file", compress=True)
    assert info.dense_bytes <= 256 * info.bytes
    assert torch.equal(load_sparse(info.path)["a"], weight)
    claims = {"count": 0, "low_bits": 32, "shape": [2**22]}
    with pytest.raises(SparseFileError, match="more than 256 times its own size"):
        load_sparse(file_of(tmp_path / "bomb", low=[], high=[], values=(), **claims))


def test_a_compressed_index_takes_no_more_than_a_few_times_the_memory_of_its_tensor(tmp_path):
    n = 1_000_000
    high = np.packbits(np.arange(2 * n - 1) % 2 == 0, bitorder="little")  # each position, one after the other
    frames = {"low": b"", "high": high.tobytes(), "values": b"\1" * 4 * n}
    stored = {
        f"{part}:a": torch.tensor(list(zstandard.compress(content)), dtype=torch.uint8)
        for part, content in frames.items()
    }
    stored["dense:filling"] = torch.zeros(n // 64, dtype=torch.uint8)
    entries = [
        {"name": "a", "encoding": "elias-fano", "dtype": "F32", "shape": [n], "count": n, "low_bits": 0},
        {"name": "filling", "encoding": "dense", "dtype": "U8", "shape": [n // 64]},
    ]
    entries[0]["zstd"] = True
    description = {"version": 3, "sha256": digest(entries, split(save(stored))[1]), "entries": entries}
    (tmp_path / "file").write_bytes(save(stored, {KEY: json.dumps(description)}))
    tracemalloc.start()
    try:
        assert load_sparse(tmp_path / "file")["a"].count_nonzero() == n
        assert tracemalloc.get_traced_memory()[1] < 4 * 4 * n
    finally:
        tracemalloc.stop()
