"""The plain file: read by safetensors itself, from a module or a mapping, refused in one line."""

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from dirprune.errors import SparseFileError, UsageError
from dirprune.export import save_dense


@pytest.mark.parametrize("as_mapping", [False, True])
def test_a_module_and_its_state_give_the_same_file(as_mapping, tmp_path):
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    info = save_dense(model.state_dict() if as_mapping else model, str(tmp_path / "plain"))
    assert (info.path, info.bytes) == (tmp_path / "plain", (tmp_path / "plain").stat().st_size)
    state = load_file(info.path)
    assert set(state) == set(model.state_dict())
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        (3, UsageError, "expected a module or a mapping of tensors, got int"),
        ({"a": 3}, SparseFileError, "expected a tensor for 'a', got int"),
        (nn.LazyLinear(3), SparseFileError, "'weight' has no shape yet"),
    ],
)
def test_what_cannot_be_stored_is_refused(model, error, message, tmp_path):
    with pytest.raises(error, match=message):
        save_dense(model, tmp_path / "plain")
    assert not list(tmp_path.iterdir())
