"""The command on a small pair of runs, trained once for all tests here."""

import json
import shutil

import pytest
import torch

from dirprune.cli import main
from dirprune.cli.twins import Common, Pair
from dirprune.export import load_sparse
from dirprune.landscape import Connection, NormSeries, OneShot, Plane, ProjectionSeries

TRAIN = [
    "train",
    "digits",
    "--seeds",
    "1",
    "--epochs",
    "2",
    "--c",
    "0.1",
    "--width",
    "0.05",
    "--snapshots",
    "0",
    "1",
    "2",
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    assert main([*TRAIN, "--out", str(out)]) == 0
    (experiment,) = out.iterdir()
    return experiment


@pytest.fixture
def pair(trained, tmp_path):
    experiment = shutil.copytree(trained, tmp_path / "experiment")
    return experiment / "sgd-seed0", experiment / "grda-c0.1-mu0.6-seed0"


def run(topic, *arguments):
    return main(["landscape", topic, *map(str, arguments), "--threads", "1"])


def test_all_topics_and_the_report(pair, capsys):
    sgd, grda = pair
    assert run("connect", sgd, grda, "--epochs", "2", "--points", "5") == 0
    assert run("plane", sgd, grda, "--size", "3") == 0
    assert run("project", sgd, grda, "--k", "2") == 0
    assert run("norms", sgd, grda) == 0
    assert run("directional", sgd, "--k", "2", "--sparsities", "0.5") == 0
    said = capsys.readouterr().out
    assert "straight line, test loss: gRDA" in said
    assert "(above gRDA " in said
    assert "epoch 2: SGD |w|0 " in said
    assert "sparsity 50.0 %: directional" in said

    out = grda / "landscape"
    connection, plane = Connection.load(out), Plane.load(out)
    result = json.loads((sgd / "result.json").read_text())
    assert connection.curve.test_loss[-1] == pytest.approx(result["test_loss"], rel=1e-4)
    assert 1 - connection.curve.test_error[-1] == pytest.approx(result["test_accuracy"])
    result = json.loads((grda / "result.json").read_text())
    assert connection.curve.test_loss[0] == pytest.approx(result["test_loss"], rel=1e-4)
    assert plane.at_points.train_loss[0] == connection.curve.train_loss[0]
    assert [step.epoch for step in ProjectionSeries.load(out).steps] == [1, 2]
    norms = NormSeries.load(out)
    assert norms.epochs == (0, 1, 2)
    assert norms.sgd[0] == norms.grda[0]
    assert norms.grda[2].l0 == sum(
        x.numel() - zeros(x) for x in load_sparse(grda / "model.sparse.safetensors").values()
    )
    assert OneShot.load(sgd / "landscape").sparsities == pytest.approx((0.5,), abs=1e-3)
    assert run("directional", sgd, grda, "--k", "2", "--strengths", "0.01", "--save", sgd / "pruned") == 0
    shot = OneShot.load(out)
    assert f"sparsity {100 * shot.twin.sparsity:.1f} %: gRDA itself" in capsys.readouterr().out
    assert shot.twin.measured.train_loss == (connection.curve.train_loss[0],)
    pruned = load_sparse(sgd / "pruned")
    assert sum(map(zeros, pruned.values())) == round(shot.sparsities[0] * connection.request["weights"])
    objective = Pair(Common(), sgd, grda, None).objective
    assert objective.measure(pruned).train.loss == pytest.approx(shot.directional.train_loss[0], rel=1e-6)
    assert connection.barriers["line"]["test_loss"]["height"] >= 0
    environment = Connection.environment(out)
    assert environment["command"].startswith("dirprune landscape connect")
    assert connection.request["data"]["train"]["samples"] == 1437

    assert main(["report", str(sgd.parent)]) == 0
    page = (sgd.parent / "report.html").read_text()
    for words in (
        "Loss from gRDA to SGD",
        "on the plane through both",
        "sharpest directions",
        "Norm ratio",
        "one-shot",
    ):
        assert words in page


def zeros(tensor):
    return int((tensor == 0).sum())


def test_what_is_done_is_not_done_again_and_never_overwritten(pair, capsys):
    sgd, grda = pair
    assert run("connect", sgd, grda, "--epochs", "1", "--points", "2") == 0
    written = (grda / "landscape" / "connect.json").stat().st_mtime_ns
    assert run("connect", sgd, grda, "--epochs", "1", "--points", "2") == 0
    assert run("connect", sgd, grda, "--epochs", "2", "--points", "2") == 2
    assert "was made with epochs=1, not 2: choose another --out" in capsys.readouterr().err
    assert (grda / "landscape" / "connect.json").stat().st_mtime_ns == written


def test_another_plane_goes_elsewhere_and_finds_the_curve(pair, tmp_path, capsys):
    sgd, grda = pair
    assert run("connect", sgd, grda, "--epochs", "1", "--points", "2", "--images", "50") == 0
    assert run("plane", sgd, grda, "--size", "2", "--images", "50") == 0
    another = ("plane", sgd, grda, "--size", "2", "--images", "20")
    assert run(*another) == 2
    assert "choose another --out" in capsys.readouterr().err
    assert run(*another, "--out", tmp_path / "other") == 0
    made = [Plane.load(folder).request for folder in (grda / "landscape", tmp_path / "other")]
    assert [request["data"]["train"]["samples"] for request in made] == [50, 20]
    assert made[0]["bend"] == made[1]["bend"]


def test_fewer_images_are_said_in_the_evidence(pair):
    sgd, grda = pair
    assert run("connect", sgd, grda, "--epochs", "1", "--points", "2", "--images", "50") == 0
    data = Connection.load(grda / "landscape").request["data"]
    assert [data[split]["samples"] for split in ("train", "test")] == [50, 50]


def test_the_bend_is_trained_on_all_images_whatever_is_measured(pair, tmp_path):
    """A bend has as many weights as the network: on a few images it would be low on these alone."""
    sgd, grda = pair
    options = ["--epochs", "2", "--points", "3"]
    made = {}
    for name, images in (("all", []), ("few", ["--images", "50"]), ("fitted", ["--bend-images", "50"])):
        assert run("connect", sgd, grda, *options, *images, "--out", tmp_path / name) == 0
        made[name] = Connection.load(tmp_path / name)
    assert torch.equal(made["few"].bends, made["all"].bends)
    assert not torch.equal(made["fitted"].bends, made["all"].bends)
    assert {name: each.request["trained_on"]["samples"] for name, each in made.items()} == {
        "all": 1437,
        "few": 1437,
        "fitted": 50,
    }
    assert (
        made["few"].line.train_loss[0] != made["all"].line.train_loss[0] == made["fitted"].line.train_loss[0]
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plan", "{sgd}", "{grda}"], "did you mean 'plane'?"),
        (["plane", "{sgd}", "{grda}"], "run `dirprune landscape connect` first"),
        (["project", "{sgd}", "{grda}", "--epochs", "7"], "no snapshot of both runs at epoch 7"),
        (["norms", "{sgd}", "{sgd}/nowhere"], "is not a run folder"),
        (["norms", "{grda}", "{sgd}"], "RUN_SGD comes first"),
        (["norms", "{sgd}", "{sgd}"], "and another run after it"),
        (["connect", "{sgd}", "{grda}", "--points", "1"], "--points must be 2 or more"),
        (["connect", "{sgd}", "{grda}", "--images", "0"], "--images must be >= 1"),
        (["directional", "{grda}", "{sgd}"], "RUN_SGD comes first"),
        (["directional", "{sgd}", "--save", "x"], "--save needs one of --sparsities and --strengths"),
        (["directional", "{sgd}", "--strengths", "1", "--save", "nowhere/x"], "there is no folder nowhere"),
        (["directional", "{sgd}", "--k", "9999999"], "--k must be less than the number of weights"),
    ],
)
def test_mistakes_are_one_line(pair, capsys, arguments, message):
    named = {"sgd": pair[0], "grda": pair[1]}
    assert main(["landscape", *(argument.format(**named) for argument in arguments)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_runs_that_are_no_twins_are_refused(pair, capsys):
    config = json.loads((pair[0] / "config.json").read_text())
    (pair[0] / "config.json").write_text(json.dumps({**config, "lr": 0.3, "seed": 5}))
    assert run("norms", *pair) == 2
    assert "no twins: they differ in lr, seed" in capsys.readouterr().err


def test_an_unfinished_run_is_refused(pair, capsys):
    (pair[1] / "result.json").unlink()
    assert run("norms", *pair) == 2
    assert "has not finished" in capsys.readouterr().err


def test_a_run_of_other_data_is_refused(pair, capsys):
    config = json.loads((pair[1] / "config.json").read_text())
    (pair[1] / "config.json").write_text(json.dumps({**config, "data": "other"}))
    assert run("norms", *pair) == 2
    assert "was trained on other data (other)" in capsys.readouterr().err


def test_help_lists_the_topics(capsys):
    assert main(["landscape", "--help"]) == 0
    out = capsys.readouterr().out
    for topic in ("connect", "plane", "project", "norms", "directional"):
        assert f"dirprune landscape {topic}" in out
    assert main(["landscape"]) == 2


def test_the_last_snapshot_is_the_finished_network_and_the_first_the_start(pair):
    folders = [folder / "snapshots" for folder in pair]
    for folder in folders:
        assert sorted(path.name for path in folder.iterdir()) == [
            f"epoch-00000{i}.safetensors" for i in range(3)
        ]
        last, finished = (
            load_sparse(folder / "epoch-000002.safetensors"),
            load_sparse(folder.parent / "model.sparse.safetensors"),
        )
        assert all(torch.equal(last[name], finished[name]) for name in finished)
    starts = [load_sparse(folder / "epoch-000000.safetensors") for folder in folders]
    assert all(torch.equal(starts[0][name], starts[1][name]) for name in starts[0])


def test_runs_that_differ_in_the_penalty_are_twins(pair):
    config = json.loads((pair[1] / "config.json").read_text())
    (pair[1] / "config.json").write_text(json.dumps({**config, "penalty": "group"}))
    assert run("norms", *pair) == 0


def test_the_run_s_own_network_is_not_written_over(pair, capsys):
    sgd, _ = pair
    before = (sgd / "model.sparse.safetensors").read_bytes()
    out = sgd / "model.sparse.safetensors"
    assert run("directional", sgd, "--k", "2", "--sparsities", "0.5", "--save", out) == 2
    assert "is a file of the run in that folder: name another one" in capsys.readouterr().err
    assert out.read_bytes() == before
