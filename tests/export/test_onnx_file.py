"""ONNX files: onnxruntime and the standard's own checker are the judges."""

from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from dirprune.errors import ExportError, UsageError
from dirprune.export import SparseModel, slim
from dirprune.export.onnx_file import export_onnx
from dirprune.models import create_model
from tests.conftest import ROOT
from tests.export.networks import thin

_PLACES = [str(place).encode() for place in (ROOT, Path(torch.__file__).parents[1], Path.home())]


@pytest.mark.parametrize("sparse", [True, False])
def test_onnxruntime_computes_the_same_for_any_batch(sparse, tmp_path):
    torch.manual_seed(0)
    model = thin(create_model("lenet5", num_classes=10, in_channels=1, image_size=28), 0.95).train()
    info = export_onnx(model, tmp_path / "file.onnx", (1, 28, 28), sparse=sparse)
    assert model.training
    assert info.difference < 1e-5
    assert info.bytes == info.path.stat().st_size
    onnx.checker.check_model(str(info.path))
    content = info.path.read_bytes()
    assert not [word for word in (*_PLACES, b'File "', b".py") if word in content]
    session = onnxruntime.InferenceSession(str(info.path), providers=["CPUExecutionProvider"])
    for images in (1, 7):
        x = torch.randn(images, 1, 28, 28)
        actual = torch.from_numpy(session.run(None, {"input": x.numpy()})[0])
        torch.testing.assert_close(actual, model.eval()(x).detach(), atol=1e-4, rtol=0)
    dense = sum(parameter.numel() * 4 for parameter in model.parameters())
    assert (info.sparse_weights, info.bytes < dense / 4) == ((4, True) if sparse else (0, False))


def test_a_weight_without_non_zeros_is_stored_sparse_too(tmp_path):
    model = nn.Sequential(nn.Conv2d(2, 30, 3), nn.Flatten(), nn.Linear(120, 50), nn.ReLU(), nn.Linear(50, 3))
    with torch.no_grad():
        model[0].weight.zero_()
        model[2].weight.zero_()
    info = export_onnx(model, tmp_path / "file.onnx", (2, 4, 4))
    assert info.sparse_weights == 2
    assert info.bytes < 4 * 120 * 50 / 4
    onnx.checker.check_model(str(info.path))
    session = onnxruntime.InferenceSession(str(info.path), providers=["CPUExecutionProvider"])
    x = torch.randn(3, 2, 4, 4)
    actual = torch.from_numpy(session.run(None, {"input": x.numpy()})[0])
    torch.testing.assert_close(actual, model(x).detach(), atol=1e-5, rtol=0)


class Random(nn.Module):
    def forward(self, x):
        return x + torch.rand_like(x)


class Branch(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


class Pair(nn.Module):
    def forward(self, x):
        return x, x


class OfTwo(nn.Module):
    def forward(self, x, y):
        return x + y


class OfTwoImages(nn.Module):
    def forward(self, x):
        return x.reshape(2, 3)


def test_refusals(tmp_path):
    with pytest.raises(ExportError, match="outputs differ from"):
        export_onnx(Random(), tmp_path / "file.onnx", (3,))
    with pytest.raises(ExportError, match=r"torch\.onnx cannot export Branch"):
        export_onnx(Branch(), tmp_path / "file.onnx", (3,))
    with pytest.raises(ExportError, match="expected one tensor out of Pair, got tuple"):
        export_onnx(Pair(), tmp_path / "file.onnx", (3,))
    with pytest.raises(ExportError, match=r"cannot export OfTwo: .*missing a required argument: 'y'"):
        export_onnx(OfTwo(), tmp_path / "file.onnx", (3,))
    with pytest.raises(ExportError, match="OfTwoImages takes batches of one size only"):
        export_onnx(OfTwoImages(), tmp_path / "file.onnx", (3,))
    assert not list(tmp_path.iterdir())


def test_every_export_refuses_parameters_that_are_not_float32_or_have_no_values(tmp_path):
    linear = nn.Linear(3, 2)
    exports = (lambda m: export_onnx(m, tmp_path / "file.onnx", (3,)), lambda m: slim(m, (3,)))
    for export in (*exports, lambda m: SparseModel(m, (3,))):
        with pytest.raises(ExportError, match=r"weight is torch\.bfloat16, expected torch\.float32"):
            export(nn.Linear(3, 2).bfloat16())
        with pytest.raises(ExportError, match="weight has no values"):
            export(nn.Linear(3, 2, device="meta"))
    assert exports[1](linear).difference == 0


@pytest.mark.parametrize(
    ("shape", "example", "message"),
    [
        ((4,), torch.zeros(2, 5), r"^example: expected float32 \[n, 4\] .*; got torch\.float32 \[2, 5\]"),
        ((4,), torch.zeros(4), r"^example: expected float32 \[n, 4\] .*; got torch\.float32 \[4\]"),
        ((4,), torch.zeros(2, 4).double(), r"^example: expected float32 .*; got torch\.float64"),
        ((4,), torch.zeros(0, 4), "^example: expected float32 .* n >= 1; got"),
        (4, None, r"^input_shape must be that of one sample, such as \(3, 32, 32\), got 4$"),
        ((4.0,), None, r"^input_shape must be .* got \(4\.0,\)$"),
        ((-4,), None, r"^input_shape must be .* got \(-4,\)$"),
    ],
)
def test_every_export_refuses_an_example_or_a_shape_that_is_none(tmp_path, shape, example, message):
    exports = (slim, SparseModel, lambda m, *of, **more: export_onnx(m, tmp_path / "file.onnx", *of, **more))
    for export in exports:
        with pytest.raises(UsageError, match=message):
            export(nn.Linear(4, 2), shape, example=example)
    assert not list(tmp_path.iterdir())
