"""A file that does not fit the model is refused, and the model is left as it was."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dirprune.errors import SparseFileError
from dirprune.export import load_sparse, save_sparse
from tests.export.sparse_oracle import assert_same

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
