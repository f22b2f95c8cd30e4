"""The bench times what it says, compares outputs, and its verdicts follow from the figures."""

import json
import time
from dataclasses import replace

import pytest
import torch
from torch import nn

from dirprune.errors import UsageError
from dirprune.export import inference_bench, save_dense
from dirprune.export.contenders import CONTENDERS, DENSE
from dirprune.export.inference_bench import Timing, as_json, check_request, measure_inference, verdicts
from dirprune.export.sizes import file_sizes
from dirprune.models import create_model
from tests.export.networks import thin


def test_every_program_runs_and_agrees():
    torch.manual_seed(0)
    model = thin(create_model("lenet-300-100", num_classes=10, in_channels=1, image_size=28), 0.9)
    names = [name for name in CONTENDERS if name not in ("torch.compile", "OpenVINO")]  # to save time
    threads = torch.get_num_threads()
    rows = measure_inference(model, (1, 28, 28), batches=[2], threads=[1], rounds=1, contenders=names)
    assert torch.get_num_threads() == threads
    assert [(row.name, row.batch) for row in rows] == [(name, 2) for name in names]
    for row in rows:
        assert row.note == "", row
        assert row.difference < (0.05 if "bf16" in row.name else 1e-4), row
        assert row.per_second == pytest.approx(1000 * row.batch / row.milliseconds)
        assert row.fastest <= row.milliseconds


def test_rows_of_linear_layers_run_inside_a_transformer():
    torch.manual_seed(0)
    model = thin(create_model("vit1x16p4", num_classes=5, in_channels=1, image_size=8), 0.8)
    names = [name for name in CONTENDERS if "CSR" in name]
    rows = measure_inference(model, (1, 8, 8), batches=[2], threads=[1], rounds=1, contenders=names)
    assert [(row.note, row.difference < 1e-4) for row in rows] == [("", True)] * 2


def test_torch_s_words_on_sparse_rows_are_not_shown(recwarn):
    before = torch.is_warn_always_enabled()
    torch.set_warn_always(True)  # else it would be said once in a process
    try:
        for name in ("torch CSR linear, input first", "torch CSR linear, weight first"):
            CONTENDERS[name](nn.Sequential(nn.Linear(3, 2)), torch.ones(1, 3), 1)
    finally:
        torch.set_warn_always(before)
    assert not [str(warning.message) for warning in recwarn]


def test_what_cannot_run_says_why_and_what_is_slow_is_slow(monkeypatch):
    def missing(model, x, threads):
        raise ImportError("no module")

    def slow(model, x, threads):
        return lambda x: time.sleep(0.03) or model(x)

    monkeypatch.setattr(inference_bench, "CONTENDERS", {"missing": missing, "slow": slow})
    rows = {
        row.name: row for row in measure_inference(nn.Linear(2, 2), (2,), batches=[1], threads=[1], rounds=2)
    }
    assert rows["missing"].note == "ImportError: no module"
    assert rows["missing"].milliseconds is None
    assert 30 <= rows["slow"].fastest < 300


def test_what_computes_something_else_is_no_gain(monkeypatch):
    def making(factor):
        return lambda model, *_: lambda x: factor * model(x).detach()

    others = {"torch": making(1.0), "wrong": making(2.0), "nothing": making(float("nan"))}
    monkeypatch.setattr(inference_bench, "CONTENDERS", others)
    rows = measure_inference(nn.Linear(2, 2), (2,), batches=[1], threads=[1], rounds=2)
    assert [row.difference for row in rows] == [0, pytest.approx(1), None]
    assert [row.note for row in rows] == ["", "outputs differ by 1", "outputs are not finite"]
    fast = [replace(row, milliseconds=1.0 if row.note else 9.0) for row in rows]
    assert verdicts(fast) == ["batch 1, 1 thread: no sparse program could run: wrong, nothing"]
    json.dumps(as_json(rows), allow_nan=False)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"rounds": 0}, r"^`rounds` must be >= 1, got 0$"),
        ({"batches": [4, 0]}, r"^`batches` must be >= 1, got 4 0$"),
        ({"batches": []}, r"^`batches` must be >= 1, got nothing$"),
        ({"threads": [0]}, r"^`threads` must be >= 1, got 0$"),
        ({"contenders": ["torhc"]}, r"^unknown program 'torhc'; did you mean 'torch'\?"),
    ],
)
def test_what_cannot_be_measured_is_said(wrong, message):
    with pytest.raises(UsageError, match=message):
        measure_inference(nn.Linear(2, 2), (2,), **{"batches": [1], "threads": [1], "rounds": 2, **wrong})


def test_too_many_threads_are_refused():
    with pytest.raises(UsageError, match=r"^`threads` must be <= 4096, got 5000$"):
        check_request([1], [1, 5000], 2, ["torch"])


def test_verdicts():
    def rows(**milliseconds):
        return [Timing(name.replace("_", " "), 1, 2, time) for name, time in milliseconds.items()]

    assert verdicts(rows(torch=4.0, onnxruntime=2.0, sparse=1.0, slim=1.95)) == [
        "batch 1, 2 threads: sparse is 2.00 x as fast as the fastest dense program, onnxruntime (2.00 ms)"
    ]
    assert verdicts(rows(torch=4.0, sparse=3.9, other=None)) == [
        "batch 1, 2 threads: nothing gains over the fastest dense program, torch (4.00 ms)"
    ]
    assert verdicts(rows(torch=4.0, sparse=None, slim=None)) == [
        "batch 1, 2 threads: no sparse program could run: sparse, slim"
    ]
    assert verdicts(rows(torch=4.0))[0].endswith(
        "nothing gains over the fastest dense program, torch (4.00 ms)"
    )
    assert verdicts(rows(sparse=3.9)) == []
    assert set(DENSE) <= set(CONTENDERS)


def test_sizes(tmp_path):
    torch.manual_seed(0)
    model = thin(create_model("lenet-300-100", num_classes=10, in_channels=1, image_size=28), 0.95)
    sizes = file_sizes(model)
    assert save_dense(model, tmp_path / "dense").bytes == sizes["dense"]
    elements = sum(parameter.numel() for parameter in model.parameters())
    assert 0 < sizes["dense"] - 4 * elements < 1000
    assert sizes["sparse, fp16, zstd"] < sizes["sparse, fp16"] < sizes["sparse"] < sizes["dense"]
    assert sizes["sparse, zstd"] < sizes["dense, gzip"] < sizes["dense"]
