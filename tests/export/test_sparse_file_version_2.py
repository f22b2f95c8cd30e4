"""Two bytes per value, Zstandard, the checksum, and what an earlier version wrote."""

import json
import tracemalloc

import pytest
import torch
import zstandard
from safetensors.torch import save

from dirprune.errors import SparseFileError, UsageError
from dirprune.export import load_sparse, save_sparse
from dirprune.export.packing import Entry, unpack
from dirprune.export.sparse_file import describe_sparse

KEY = "dirprune-sparse"


def sample():
    torch.manual_seed(0)
    weight = torch.randn(60, 50).masked_fill(torch.rand(60, 50) < 0.9, 0)
    return {
        "weight": weight,
        "bias": torch.randn(50),
        "dense": torch.randn(4, 5).double(),
        "n": torch.arange(300),
    }


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize(
    ("values", "half"), [("same", None), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_values_and_compression(values, half, compress, tmp_path):
    state = sample()
    info = save_sparse(state, tmp_path / "file", values=values, compress=compress)
    plain = save_sparse(state, tmp_path / "plain")
    loaded = load_sparse(info.path)
    for name, tensor in state.items():
        rounded = (
            tensor
            if half is None or not tensor.is_floating_point() or tensor.ndim < 2
            else tensor.to(half).to(tensor.dtype)
        )
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], rounded), name
    if values != "same" or compress:
        assert info.bytes < plain.bytes
    assert info.dense_bytes == plain.dense_bytes
    assert (
        save_sparse(state, tmp_path / "again", values=values, compress=compress).path.read_bytes()
        == info.path.read_bytes()
    )


def test_frames_are_those_of_the_standard(tmp_path):
    state = sample()
    content = save_sparse(state, tmp_path / "file", compress=True).path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    start, stop = header["values:weight"]["data_offsets"]
    values = zstandard.ZstdDecompressor().decompress(content[end + start : end + stop])
    weight = state["weight"].numpy()
    assert values == weight[weight != 0].tobytes()


def test_every_flipped_bit_is_seen(tmp_path):
    content = bytearray(save_sparse(sample(), tmp_path / "file").path.read_bytes())
    end = 8 + int.from_bytes(content[:8], "little")
    for position in range(end, len(content), 97):
        damaged = bytearray(content)
        damaged[position] ^= 4
        (tmp_path / "damaged").write_bytes(damaged)
        with pytest.raises(SparseFileError, match=r"checksum|mask"):
            load_sparse(tmp_path / "damaged")


def test_version_1_is_read(tmp_path):
    values = torch.tensor([1.0, -2.0])
    entries = [{"name": "a", "encoding": "bitmask", "dtype": "F32", "shape": [16]}]
    parts = {"mask:a": torch.tensor([2, 128], dtype=torch.uint8), "values:a": values}
    (tmp_path / "old").write_bytes(save(parts, {KEY: json.dumps({"version": 1, "entries": entries})}))
    expected = torch.zeros(16)
    expected[1], expected[15] = 1.0, -2.0
    assert torch.equal(load_sparse(tmp_path / "old")["a"], expected)


def test_what_unfolds_too_far_is_neither_written_nor_read(tmp_path):
    state = {"zeros": torch.zeros(4_000_000), "one": torch.ones(1)}
    info = save_sparse(state, tmp_path / "file", compress=True)
    assert [tensor.encoding for tensor in describe_sparse(info.path)] == ["bitmask", "dense"]
    frame = zstandard.ZstdCompressor().compress(bytes(500_000_000))
    stored = {"dense:bomb": torch.frombuffer(bytearray(frame), dtype=torch.uint8)}
    entry = {"name": "bomb", "encoding": "dense", "dtype": "U8", "shape": [500_000_000], "zstd": True}
    description = {"version": 2, "sha256": "", "entries": [entry]}
    (tmp_path / "bomb").write_bytes(save(stored, {KEY: json.dumps(description)}))
    with pytest.raises(SparseFileError, match="more than 256 times its own size"):
        load_sparse(tmp_path / "bomb")


def test_a_frame_of_another_size_is_refused(tmp_path, monkeypatch):
    for frame, reason in (
        (zstandard.compress(bytes(9)), "is not 16 bytes"),
        (b"no frame", "cannot be decompressed|not 16"),
    ):
        stored = {"dense:a": torch.frombuffer(bytearray(frame), dtype=torch.uint8)}
        entries = [{"name": "a", "encoding": "dense", "dtype": "U8", "shape": [16], "zstd": True}]
        content = save(stored)
        from dirprune.export import sparse_layout

        digest = sparse_layout.digest(entries, sparse_layout.split(content)[1])
        description = {"version": 2, "sha256": digest, "entries": entries}
        (tmp_path / "file").write_bytes(save(stored, {KEY: json.dumps(description)}))
        with pytest.raises(SparseFileError, match=reason):
            load_sparse(tmp_path / "file")


def test_a_frame_that_says_too_much_gets_no_memory():
    bomb = zstandard.compress(bytes(100_000_000))
    entry = Entry("a", "dense", "U8", (999,), "U8", True)
    tracemalloc.start()
    with pytest.raises(SparseFileError, match="is not 999 bytes"):
        unpack(entry, {"dense:a": {"data": bomb}})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000_000


def test_bad_requests(tmp_path):
    with pytest.raises(SparseFileError, match="too large for fp16"):
        save_sparse({"a": torch.full((2, 2), 1e6)}, tmp_path / "file", values="fp16")
    with pytest.raises(UsageError, match="must be 'same', 'fp16' or 'bf16'"):
        save_sparse(sample(), tmp_path / "file", values="int8")
    assert not list(tmp_path.iterdir())


def test_description_of_a_file(tmp_path):
    weight = torch.zeros(400, 10)
    weight[0, :5] = 1
    save_sparse({"a": weight, "b": weight, "c": torch.ones(3)}, tmp_path / "file", values="bf16")
    a, b, c = describe_sparse(tmp_path / "file")
    assert (a.encoding, a.zeros, a.bytes, a.shape, a.dtype) == (
        "elias-fano BF16",
        3995,
        # the five positions, with the number of low bits that takes the fewest bytes, and the values
        min(-(-5 * k // 8) + -(-(5 + (3999 >> k)) // 8) for k in range(12)) + 10,
        (400, 10),
        torch.float32,
    )
    assert (b.encoding, b.bytes) == ("= a", 0)
    assert (c.encoding, c.zeros, c.bytes) == ("dense", 0, 12)
