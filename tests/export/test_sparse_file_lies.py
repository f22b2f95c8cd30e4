"""Files that lie, and files that are none, are refused in one line and without memory."""

import json
import os
import pickle
import tracemalloc
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save
from torch import Tensor

from dirprune.errors import SparseFileError
from dirprune.export import load_sparse
from dirprune.export.sparse_file import describe_dense

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
    message = f"expected a sparse file, found {found} by that name"
    with pytest.raises(SparseFileError, match=message) as caught:
        load_sparse(tmp_path / "file")
    assert isinstance(caught.value, FileNotFoundError) == (found == "nothing")
    assert pickle.loads(pickle.dumps(caught.value)).args == caught.value.args


@pytest.mark.parametrize(("dtype", "size"), [("F4", 2), ("F6_E2M3", 3), ("F8_E8M0", 4)])
def test_a_plain_file_of_a_dtype_without_a_reader_is_refused(dtype: str, size: int, tmp_path: Path) -> None:
    header = json.dumps({"w": {"dtype": dtype, "shape": [4], "data_offsets": [0, size]}}).encode()
    path = tmp_path / "plain.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(size))
    with pytest.raises(SparseFileError, match=f"dtype '{dtype}' is not known here"):
        describe_dense(path)
