"""Exceptions that say what to do, and that are what Python's users expect them to be."""

import importlib
import sys

import pytest
import torch
from torch import nn

from dirprune.data import load_dataset
from dirprune.errors import MissingPackageError, SparseFileError, UsageError, from_extra
from dirprune.export import export_onnx, load_sparse, save_sparse
from dirprune.landscape import EigenSettings, Objective, top_eigenpairs
from dirprune.models import create_model

STATE = {"weight": torch.zeros(1000, 10)}


def eigenpairs():
    model, data = nn.Linear(2, 1), [(torch.eye(2), torch.zeros(2, 1))]
    objective = Objective(model, nn.MSELoss(), data, errors=None)
    return top_eigenpairs(objective, model.state_dict(), EigenSettings(k=1))


@pytest.mark.parametrize(
    ("package", "extra", "use"),
    [
        ("zstandard", "export", lambda path: save_sparse(STATE, path, compress=True)),
        ("onnx", "export", lambda path: export_onnx(nn.Linear(3, 2), path, (3,))),
        ("onnxruntime", "export", lambda path: export_onnx(nn.Linear(3, 2), path, (3,))),
        ("torchvision", "train", lambda _: create_model("resnet50", num_classes=4, image_size=64)),
        ("torchvision", "train", lambda _: create_model("vit2x16p4", num_classes=4)),
        ("timm", "timm", lambda _: create_model("timm/resnet18", num_classes=4)),
        ("sklearn", "train", lambda _: load_dataset("digits")),
        ("scipy", "landscape", lambda _: eigenpairs()),
    ],
)
def test_every_part_names_the_extra_that_it_lacks(package, extra, use, monkeypatch, tmp_path):
    hide(package, monkeypatch)
    named = {"sklearn": "scikit-learn"}.get(package, package)
    message = rf" needs {named}: pip install 'directional-pruning\[{extra}\]'$"
    with pytest.raises(MissingPackageError, match=message) as caught:
        use(tmp_path / "file")
    assert isinstance(caught.value, UsageError)
    assert caught.value.name.partition(".")[0] == package
    assert not list(tmp_path.iterdir())


def hide(package, monkeypatch):
    for name in [*sys.modules, package]:
        if name.partition(".")[0] == package:
            monkeypatch.setitem(sys.modules, name, None)


def test_a_compressed_file_is_not_called_damaged_where_its_package_is_missing(tmp_path, monkeypatch):
    path = save_sparse(STATE, tmp_path / "file", compress=True).path
    hide("zstandard", monkeypatch)
    with pytest.raises(MissingPackageError, match="needs zstandard") as caught:
        load_sparse(path)
    assert not isinstance(caught.value, SparseFileError)


def test_a_module_of_our_own_is_no_missing_package():
    with pytest.raises(ModuleNotFoundError) as caught, from_extra("all", "this"):
        importlib.import_module("dirprune.no_such_part")
    assert not isinstance(caught.value, MissingPackageError)


def test_the_innermost_extra_is_named():
    with (
        pytest.raises(MissingPackageError, match=r"a needs no_such_package: .*\[hub\]'$"),
        from_extra("all", "b"),
        from_extra("hub", "a"),
    ):
        importlib.import_module("no_such_package")
