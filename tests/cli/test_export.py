"""`export`, `inspect` and the bench of inference on a finished run."""

import copy
import json
import re
import shutil
import sys

import onnx
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file

from dirprune.cli import main
from dirprune.cli.bench_inference import bench_inference
from dirprune.cli.networks import architecture, load_network, one_run
from dirprune.data import ImageDataset, Split, load_dataset
from dirprune.errors import SparseFileError, UsageError
from dirprune.export import load_slim, load_sparse, save_sparse
from dirprune.integrations.hub import from_pretrained
from dirprune.runs import RunFolder
from dirprune.train import Diagnosis, Execution, TrainConfig, Trainer
from tests.image_folder import make_image_folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    quick = ["--seeds", "1", "--epochs", "2", "--threads", "1", "--methods", "grda", "--c", "0.03"]
    assert main(["train", "digits", *quick, "--out", str(out)]) == 0
    folder = next(out.glob("*/grda*"))
    state = load_sparse(folder / "model.sparse.safetensors")
    for name in ("fc1.weight", "fc1.bias"):
        state[name][:50] = 0  # two epochs leave no unit without weights
    save_sparse(state, folder / "model.sparse.safetensors")
    return folder


def test_a_run_on_smaller_images_is_opened_again(tmp_path):
    quick = ["--seeds", "1", "--epochs", "1", "--threads", "1", "--methods", "grda", "--image-size", "4"]
    assert main(["train", "digits", *quick, "--out", str(tmp_path)]) == 0
    model, shape = load_network(one_run(next(tmp_path.glob("*/grda*"))))
    assert shape == (1, 4, 4)
    assert model(torch.zeros(2, *shape)).shape == (2, 10)


def test_a_run_whose_method_narrows_the_network_is_opened_again(tmp_path):
    quick = ["--seeds", "1", "--epochs", "1", "--threads", "1", "--width", "0.5", "--out", str(tmp_path)]
    assert main(["train", "digits", "--methods", "small-dense", "--sparsity", "0.9", *quick]) == 0
    folder = next(tmp_path.glob("*/small-dense*"))
    trained = load_sparse(folder / "model.sparse.safetensors")
    assert len(trained["fc1.bias"]) < 100  # 150 at the width that was asked for
    model, _ = load_network(one_run(folder))
    assert all(torch.equal(trained[name], tensor) for name, tensor in model.state_dict().items())
    assert main(["inspect", str(folder)]) == 0
    assert main(["export", str(folder), "--to", "hub", "--out", str(tmp_path / "net")]) == 0
    again = from_pretrained(tmp_path / "net")
    assert all(torch.equal(trained[name], tensor) for name, tensor in again.state_dict().items())


def test_a_run_of_an_earlier_version_is_opened_again(run, tmp_path):
    """Earlier configurations had no targets, no settings, no penalty."""
    config = json.loads((run / "config.json").read_text())
    (tmp_path / "config.json").write_text(
        json.dumps({key: config[key] for key in config.keys() - {"sparsity", "settings", "penalty"}})
    )
    (tmp_path / "model.sparse.safetensors").write_bytes((run / "model.sparse.safetensors").read_bytes())
    assert architecture(one_run(tmp_path)) == architecture(one_run(run))
    assert load_network(one_run(tmp_path))[1] == (1, 8, 8)


def test_folder_for_the_hub(run, tmp_path, capsys):
    assert main(["export", str(run), "--to", "hub", "--out", str(tmp_path / "net"), "--values", "bf16"]) == 0
    assert "publish it: hf upload OWNER/NAME" in capsys.readouterr().out
    model, shape = load_network(one_run(run))
    x = torch.randn(3, *shape)
    again = from_pretrained(tmp_path / "net")
    torch.testing.assert_close(again(x), model(x), rtol=0.05, atol=0.05)
    assert torch.equal(again.fc2.weight, model.fc2.weight.bfloat16().float())
    accuracy = json.loads((run / "result.json").read_text())["test_accuracy"]
    page = (tmp_path / "net" / "README.md").read_text()
    assert f"| test accuracy | {100 * accuracy:.2f} % |" in page
    assert "| weights | rounded to bf16 after the accuracy was measured |" in page
    assert "| recipe | digits of dirprune: gRDA c=0.03 mu=0.6, lr 0.1," in page


def test_nothing_is_written_over_a_run_or_over_other_people_s_files(run, tmp_path, capsys):
    before = {path: path.read_bytes() for path in run.iterdir() if path.is_file()}
    for words in (["sparse", run / "model.sparse.safetensors"], ["onnx", run / "result.json"], ["hub", run]):
        kind, out = map(str, words)
        assert main(["export", str(run), "--to", kind, "--out", out]) == 2
    assert {path: path.read_bytes() for path in before} == before
    assert "is a file of the run in that folder" in capsys.readouterr().err
    project = tmp_path / "project"
    project.mkdir()
    (project / "README.md").write_text("mine")
    assert main(["export", str(run), "--to", "hub", "--out", str(project)]) == 2
    assert [path.name for path in project.iterdir()] == ["README.md"]
    assert "README.md that is not of such a network" in capsys.readouterr().err
    (project / "model.sparse.safetensors").touch()
    (project / "config.json").write_text('{"model_type": "bert"}')
    assert main(["export", str(run), "--to", "hub", "--out", str(project)]) == 2
    assert "config.json that is not of such a network" in capsys.readouterr().err
    assert main(["export", str(run), "--to", "dense", "--out", str(project / "model.safetensors")]) == 0
    for _ in range(2):  # its own it replaces
        assert main(["export", str(run), "--to", "hub", "--out", str(tmp_path / "net")]) == 0


def test_a_lost_network_is_made_again_from_the_checkpoint_or_said_to_be_lost(tmp_path, capsys):
    words = ["train", "digits", "--seeds", "1", "--epochs", "2", "--threads", "1", "--methods", "sgd"]
    assert main([*words, "--out", str(tmp_path)]) == 0
    folder = next(tmp_path.glob("*/sgd*"))
    network, result = folder / "model.sparse.safetensors", json.loads((folder / "result.json").read_text())
    written = network.read_bytes()
    network.unlink()
    assert main(["inspect", str(folder)]) == 2
    assert (
        "no finished network, model.sparse.safetensors: start its training again" in capsys.readouterr().err
    )
    assert main([*words, "--out", str(tmp_path)]) == 0
    assert network.read_bytes() == written
    again = json.loads((folder / "result.json").read_text())
    assert again["test_accuracy"] == result["test_accuracy"]
    network.unlink()
    shutil.rmtree(folder / "checkpoints")
    assert main([*words, "--out", str(tmp_path)]) == 0  # as one that another machine trained
    assert main(["inspect", str(folder)]) == 2
    assert "delete that folder and start its training again" in capsys.readouterr().err


def in_memory():
    images, labels = torch.randint(256, (40, 3, 20, 20), dtype=torch.uint8), torch.arange(40) % 4
    return ImageDataset(Split(images, labels), Split(images, labels), num_classes=4, class_names=())


@pytest.mark.parametrize("name", ["mine", "imagenet"])
def test_a_run_on_data_of_ones_own(name, tmp_path, capsys):
    """Four classes, which no catalogue knows: in memory, and in the folders of ImageNet."""
    folders = tmp_path / "images"
    data = in_memory() if name == "mine" else load_dataset(name, make_image_folder(folders, 16, 8, classes=4))
    size = None if name == "mine" else 20
    config = TrainConfig(
        recipe="mine", dataset=name, model="lenet5", image_size=size, batch_size=8, epochs=1, c=1e-3
    )
    folder = RunFolder(tmp_path / "run")
    execution = Execution(workers=0)
    Trainer(config, data, folder, callbacks=[Diagnosis()], execution=execution).run()
    noted = {"name": "lenet5", "num_classes": 4, "in_channels": 3, "image_size": 20, "width": 1.0}
    assert folder.network() == architecture(folder) == noted
    for kind in ("sparse", "slim", "dense", "onnx", "hub"):
        assert main(["export", str(folder.path), "--to", kind, "--out", str(tmp_path / kind)]) == 0
    assert from_pretrained(tmp_path / "hub")(torch.zeros(2, 3, 20, 20)).shape == (2, 4)
    quick = ["--batches", "1", "--threads", "1", "--rounds", "1", "--programs", "torch", "sparse (ours)"]
    assert bench_inference([str(folder.path), *quick]) == 0

    (folder.path / "network.json").unlink()  # as written before; the same call notes it again
    Trainer(config, data, folder, execution=execution).run()
    assert folder.network() == noted
    (folder.path / "network.json").write_text('{"name": "lenet5"}')
    assert main(["export", str(folder.path), "--to", "dense"]) == 2
    assert "network.json does not hold the arguments" in capsys.readouterr().err


def test_every_kind_of_file(run, tmp_path, capsys):
    model, shape = load_network(one_run(run))
    x = torch.randn(3, *shape)
    expected = model(x).detach()
    for kind in ("sparse", "slim", "dense", "onnx"):
        capsys.readouterr()
        path = tmp_path / kind
        assert main(["export", str(run), "--to", kind, "--out", str(path)]) == 0
        out = capsys.readouterr().out
        assert f"{path.stat().st_size:,}" in out
        assert f"written: {path}" in out.replace("\n", "")
        fresh, _ = load_network(one_run(run))
        if kind == "sparse":
            load_sparse(path, fresh)
        elif kind == "slim":
            assert "channels" in out
            with pytest.raises(SparseFileError, match=r"made by dirprune\.export\.slim"):
                load_sparse(path, fresh)
            load_slim(load_sparse(path), fresh)
            assert sum(p.numel() for p in fresh.parameters()) < sum(p.numel() for p in model.parameters())
        elif kind == "dense":
            fresh.load_state_dict(load_file(path))
        else:
            session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
            actual = torch.from_numpy(session.run(None, {"input": x.numpy()})[0])
            torch.testing.assert_close(actual, expected, atol=1e-4, rtol=0)
            continue
        torch.testing.assert_close(fresh(x).detach(), expected, atol=1e-5, rtol=0)


def test_smaller_values_and_default_names(run, capsys):
    assert main(["export", str(run), "--to", "sparse"]) == 0
    assert main(["export", str(run), "--to", "slim", "--values", "bf16", "--compress"]) == 0
    sparse, slim = run / "export-sparse.safetensors", run / "export-slim.safetensors"
    assert slim.stat().st_size < sparse.stat().st_size
    assert one_run(run).sparse_file.read_bytes() == sparse.read_bytes()


@pytest.mark.parametrize("kind", ["sparse", "slim", "hub"])
def test_the_difference_that_is_told_is_that_of_the_file(run, kind, tmp_path, capsys):
    model, shape = load_network(one_run(run))
    images = torch.randn(4, *shape, generator=torch.Generator().manual_seed(0))
    by = {}
    for values in ("same", "bf16"):
        path = tmp_path / values
        assert main(["export", str(run), "--to", kind, "--out", str(path), "--values", values]) == 0
        told = re.search(r"file differ by (\S+) on 4 random images", capsys.readouterr().out)
        file = next(path.glob("*.safetensors")) if kind == "hub" else path
        fresh = copy.deepcopy(model)
        load_slim(load_sparse(file), fresh)
        by[values] = float(told[1])
        actual = float((fresh(images) - model(images)).detach().abs().max())
        assert by[values] == pytest.approx(actual, rel=0.1, abs=1e-6)
    assert by["same"] < 1e-5
    assert by["bf16"] > 1e-3


def test_slim_says_the_same_of_a_network_that_it_leaves_as_it_is(run, tmp_path, capsys):
    whole = shutil.copytree(run, tmp_path / run.name)
    network = whole / "model.sparse.safetensors"
    save_sparse({name: torch.randn(x.shape) for name, x in load_sparse(network).items()}, network)
    assert main(["export", str(whole), "--to", "slim"]) == 0
    out = capsys.readouterr().out
    for part in (
        "no channel is superfluous",
        "channels 410 -> 410",
        "one image takes",
        "outputs of this file",
    ):
        assert part in out


def test_a_dense_file_is_inspected_too(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["export", str(run), "--to", "dense", "--out", str(tmp_path / "dense")]) == 0
    assert main(["inspect", str(run)]) == 0
    sparse = capsys.readouterr().out
    assert main(["inspect", str(tmp_path / "dense")]) == 0
    dense = capsys.readouterr().out
    model, _ = load_network(one_run(run))
    rows = [[next(line for line in out.splitlines() if f" {name} " in line) for out in (sparse, dense)]
            for name in [*model.state_dict(), "total"]]  # fmt: skip
    cells = [[[cell.strip() for cell in line.split("│")] for line in pair] for pair in rows]
    for of_run, of_file in cells:
        assert of_run[1:4] + of_run[5:7] == of_file[1:4] + of_file[5:7]
        assert of_file[8] == "100.00 %"


def test_the_hub_s_extra_is_named_where_it_is_missing(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.delitem(sys.modules, "dirprune.integrations.hub")
    assert main(["export", str(run), "--to", "hub", "--out", str(tmp_path / "net")]) == 2
    error = capsys.readouterr().err
    assert "needs huggingface_hub: pip install 'directional-pruning[hub]'" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "net").exists()


def test_inspect_a_run_and_a_file(run, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["inspect", str(run)]) == 0
    of_run = capsys.readouterr().out
    assert main(["inspect", str(run / "model.sparse.safetensors")]) == 0
    assert of_run.endswith(capsys.readouterr().out)
    model, _ = load_network(one_run(run))
    zeros = sum(int((tensor == 0).sum()) for tensor in model.state_dict().values())
    total = next(line for line in of_run.splitlines() if "total" in line)
    assert f"{zeros:,}" in total
    for name, tensor in model.state_dict().items():
        row = next(line for line in of_run.splitlines() if f" {name} " in line)
        assert "x".join(map(str, tensor.shape)) in row


def test_names_are_whole_on_a_narrow_terminal(run, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    assert main(["inspect", str(run)]) == 0
    printed = capsys.readouterr().out
    model, _ = load_network(one_run(run))
    assert all(f" {name} " in printed for name in model.state_dict())


def test_bench_inference(run, tmp_path, capsys):
    arguments = ["--batches", "1", "--threads", "1", "--rounds", "2", "--programs", "torch", "sparse (ours)"]
    assert bench_inference([str(run), *arguments, "--json", str(tmp_path / "bench.json")]) == 0
    assert "fastest dense program" in capsys.readouterr().out
    report = json.loads((tmp_path / "bench.json").read_text())
    assert [row["name"] for row in report["timings"]] == ["torch", "sparse (ours)"]
    assert report["environment"]["command"].startswith(f"dirprune bench inference {run} --batches 1")
    for wrong, message in (("--rounds 0", "must be >= 1"), ("--programs tensorrt", "unknown program")):
        with pytest.raises(UsageError, match=message):
            bench_inference([str(run), *wrong.split()])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["export", "."], "--to"),
        (["export", ".", "--to", "sparse"], "holds no runs"),
        (["export", ".", "--to", "zip"], "invalid choice 'zip'"),
        (["inspect", "."], "holds no runs"),
        (["inspect", "nothing"], "found nothing by that name"),
        (["inspect"], "FILE|RUN"),
    ],
)
def test_bad_input_is_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_inspect_names_the_kinds_that_it_reads(tmp_path, capsys):
    torch.save({"w": torch.ones(2)}, tmp_path / "step-000001.pt")
    onnx.save(onnx.ModelProto(producer_name="a" * 9), tmp_path / "a.onnx")
    for name in ("step-000001.pt", "a.onnx"):
        assert main(["inspect", str(tmp_path / name)]) == 2
        error = capsys.readouterr().err
        assert f"{name}: not a safetensors file" in error
        assert "inspect reads sparse files, plain safetensors files (export --to dense), folders of" in error
        assert error.count("\n") == 1


def test_unfinished_and_several_runs(tmp_path, capsys):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    assert main(["inspect", str(tmp_path)]) == 2
    assert "holds 2 runs: name one of them, a, b" in capsys.readouterr().err
    assert main(["inspect", str(tmp_path / "a")]) == 2
    assert "has no finished network" in capsys.readouterr().err
    (tmp_path / "a" / "model.sparse.safetensors").touch()
    assert main(["export", str(tmp_path / "a"), "--to", "dense"]) == 2
    assert "does not say which network" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--to dense --values bf16", "--values and --compress are for sparse, slim and hub, not for dense"),
        ("--to onnx --compress", "not for onnx"),
        ("--to sparse --dense-weights", "--dense-weights is for onnx, not for sparse"),
        ("--to dense --out nowhere/file.safetensors", "there is no folder nowhere"),
        ("--to dense --out .", "--out . is a folder: name a file"),
    ],
)
def test_what_a_file_cannot_have_is_refused(run, words, message, capsys):
    assert main(["export", str(run), *words.split()]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_name_from_a_stranger_is_text(tmp_path, capsys):
    path = tmp_path / "file.safetensors"
    save_sparse({"w\x1b[2J\x07": torch.ones(2)}, path)
    assert main(["inspect", str(path)]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert r"w\x1b[2J\x07" in out


def test_onnx_with_zeros_stored_or_not(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / run.name)
    state = load_sparse(copy / "model.sparse.safetensors")
    state["fc1.weight"][70:] = 0  # of 300 rows 20 are left: worth storing without zeros
    save_sparse(state, copy / "model.sparse.safetensors")
    for more, sparse in (([], True), (["--dense-weights"], False)):
        assert main(["export", str(copy), "--to", "onnx", "--out", str(tmp_path / "file.onnx"), *more]) == 0
        assert bool(onnx.load(tmp_path / "file.onnx").graph.sparse_initializer) == sparse
