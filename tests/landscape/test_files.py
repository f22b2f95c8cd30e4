import json
import math

import pytest
import torch

from dirprune.errors import RunFolderError
from dirprune.landscape import Connection, Eigenpairs, Norms, NormSeries, Store, Values, keep

REQUEST = {"k": 2, "data": {"train": {"samples": 3}}}


def connection(**changes):
    values = Values((1.0, math.inf), (), (0.5, 0.25), (0.1, 0.2))
    standard = {
        "request": REQUEST,
        "t": (0.0, 1.0),
        "curve": values,
        "line": values,
        "epoch_losses": (2.0,),
        "converged": True,
        "bends": torch.tensor([[1.0, -0.0]]),
    }
    return Connection(**{**standard, **changes})


def test_a_result_comes_back_as_it_was(tmp_path):
    result = connection()
    path = result.save(tmp_path / "deep" / "folder", {"command": "me"})
    back = Connection.load(path.parent)
    assert (back.request, back.t, back.epoch_losses, back.converged) == (REQUEST, (0.0, 1.0), (2.0,), True)
    assert back.curve.test_loss == (0.5, 0.25)
    assert math.isnan(back.curve.train_loss[1])  # JSON has no infinity; null stands for it
    assert torch.equal(back.bends.view(torch.int32), result.bends.view(torch.int32))
    assert Connection.environment(path.parent) == {"command": "me"}
    assert sorted(p.name for p in path.parent.iterdir()) == ["connect.json", "connect.safetensors"]


def test_nested_results_come_back(tmp_path):
    series = NormSeries({}, (0, 3), (Norms(1, 2.0, 3.0),) * 2, (Norms(4, 5.0, 6.0),) * 2)
    series.save(tmp_path, {})
    edit(tmp_path / f"{NormSeries.kind}.json", converged=True)  # as files of before hold what is gone
    back = NormSeries.load(tmp_path)
    assert (back.epochs, back.sgd, back.grda) == (series.epochs, series.sgd, series.grda)


def test_nothing_is_no_result(tmp_path):
    assert NormSeries.load(tmp_path) is None


def edit(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "connect.json").write_text("{"), "not valid JSON"),
        (lambda folder: (folder / "connect.json").write_text("[]"), "must hold a JSON object"),
        (lambda folder: edit(folder / "connect.json", t="x"), "t must be of type"),
        (lambda folder: edit(folder / "connect.json", t=[True]), "t must be of type"),
        (lambda folder: edit(folder / "connect.json", curve=[]), "curve must be of type"),
        (lambda folder: edit(folder / "connect.json", converged=None), "converged must be of type"),
        (lambda folder: (folder / "connect.safetensors").unlink(), "cannot be read"),
        (lambda folder: (folder / "connect.safetensors").write_bytes(b"1234567890"), "cannot be read"),
    ],
)
def test_damage_is_one_line(tmp_path, damage, message):
    connection().save(tmp_path, {})
    damage(tmp_path)
    with pytest.raises(RunFolderError) as caught:
        Connection.load(tmp_path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_eigenvectors_of_whole_numbers_are_refused(tmp_path):
    Eigenpairs({}, (1.0,), torch.ones(1, 3, dtype=torch.int32), (0.0,), 0.5, 7, 1.0).save(tmp_path, {})
    with pytest.raises(RunFolderError, match="does not hold"):
        Eigenpairs.load(tmp_path)


def test_what_is_done_is_not_done_again(tmp_path):
    calls = []

    def make(store):
        calls.append(store.values)
        store.values["half"] = 1
        store.save()
        return connection()

    first = keep(Connection, tmp_path, REQUEST, {}, make)
    again = keep(Connection, tmp_path, REQUEST, {}, make)
    assert len(calls) == 1
    assert first.t == again.t
    assert not list(tmp_path.glob(".*"))  # what was half done is forgotten


def test_the_result_of_another_request_is_never_overwritten(tmp_path):
    keep(Connection, tmp_path, REQUEST, {}, lambda _: connection())
    with pytest.raises(RunFolderError, match="was made with k=2, not 3"):
        keep(Connection, tmp_path, {**REQUEST, "k": 3}, {}, lambda _: connection())


def test_what_is_half_done_belongs_to_its_request(tmp_path):
    store = Store(tmp_path, REQUEST, "connect")
    store.values, store.tensors = {"a": [1.5]}, {"w": torch.ones(2)}
    store.save()
    assert Store(tmp_path, REQUEST, "connect").values == {"a": [1.5]}
    assert torch.equal(Store(tmp_path, REQUEST, "connect").tensors["w"], torch.ones(2))
    assert Store(tmp_path, {**REQUEST, "k": 3}, "connect").values == {}
    assert Store(tmp_path, REQUEST, "plane").values == {}


def test_a_damaged_store_says_so(tmp_path):
    store = Store(tmp_path, REQUEST, "connect")
    store.save()
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:5])
    with pytest.raises(RunFolderError, match="delete it to start anew"):
        Store(tmp_path, REQUEST, "connect")
