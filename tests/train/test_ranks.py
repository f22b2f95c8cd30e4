"""Two processes train one run: equal to one, FSDP2 equal to DDP, killed and resumed, failing alike."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dirprune.data import load_dataset
from dirprune.export import load_sparse
from dirprune.runs import RunFolder
from dirprune.train import Duration, Execution, Trainer, first_process
from dirprune.train.ranks import lost_peer
from tests.image_folder import make_image_folder
from tests.train.ranks_script import CONFIG, NO_WORKERS, RESNET, RUNS

LIMIT = 300  # seconds, after which a hang is a failure


def torchrun(*arguments, restarts=0, check=True):
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
        f"--max-restarts={restarts}", "--monitor-interval=0.1", *map(str, arguments),
    ]  # fmt: skip
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        # Else processes that are started again look for the dead ones, whose addresses are still on record.
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
    }
    ended = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=LIMIT, check=False
    )
    if check:
        assert ended.returncode == 0, ended.stderr
    return ended


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return make_image_folder(tmp_path_factory.mktemp("images") / "whole", train=25, val=13)


@pytest.fixture(scope="module")
def dataset(images):
    return load_dataset("imagenet", images)


@pytest.fixture(scope="module")
def two(images, tmp_path_factory):
    """Folder with what two processes made."""
    broken = make_image_folder(images.parent / "damaged", train=25, val=13)
    victim = sorted((broken / "train" / "n05").iterdir())[0]
    victim.write_bytes(victim.read_bytes()[:600])
    out = tmp_path_factory.mktemp("two")
    (out / "file").touch()
    torchrun(Path(__file__).with_name("ranks_script.py"), "main", images, out)
    return out


@pytest.fixture
def one(dataset, tmp_path):
    """Trains in this process alone, without accumulation unless told otherwise."""

    def train(config, execution=NO_WORKERS):
        folder = RunFolder(tmp_path / "one")
        Trainer(config, dataset, folder, execution=execution).run()
        return folder

    return train


def assert_same_run(a, b, *, rtol=1e-4, atol=2e-6):
    """Same order of the data to the bit; weights, zeros and measurements up to float32's rounding."""
    for x, y in zip(a.metrics(), b.metrics(), strict=True):
        assert (x["data_order"], x["step"], x["lr"]) == (y["data_order"], y["step"], y["lr"])
        assert x["threshold"] == pytest.approx(y["threshold"], rel=1e-12)
        for where in ("train", "test"):
            assert x[f"{where}_loss"] == pytest.approx(y[f"{where}_loss"], rel=1e-5)
            assert x[f"{where}_accuracy"] == pytest.approx(y[f"{where}_accuracy"], abs=1e-9)
        assert x["test_top5"] == pytest.approx(y["test_top5"], abs=1e-9)
        assert x["sparsity"] == pytest.approx(y["sparsity"], abs=1e-3)
    weights, others = load_sparse(a.sparse_file), load_sparse(b.sparse_file)
    assert list(weights) == list(others)
    for name, tensor in weights.items():
        torch.testing.assert_close(
            tensor, others[name], rtol=rtol, atol=atol, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("name", ["ddp", "fsdp2", "accumulation", "fsdp2-accumulation", "momentum"])
def test_two_processes_equal_one(two, one, name):
    """The last batch has one image for two processes; c is such that zeros appear."""
    alone, together = one(RUNS[name][0]), RunFolder(two / name)
    assert_same_run(alone, together)
    result = together.result()
    assert alone.result()["sparsity"] > 0.02
    assert result["parameters"] == alone.result()["parameters"]
    assert sum(layer["zeros"] for layer in result["layers"]) == result["zeros"]
    state = load_sparse(together.sparse_file)
    assert result["zeros"] == sum((tensor == 0).sum().item() for tensor in state.values())
    assert together.environment()["processes"] == 2


def test_accumulation_equals_the_whole_batch_in_one_process(dataset, one, tmp_path):
    folder = RunFolder(tmp_path / "parts")
    Trainer(CONFIG, dataset, folder, execution=Execution(accumulation=5, workers=0)).run()
    assert_same_run(one(CONFIG), folder)


def test_fsdp2_equals_ddp_with_batchnorm_and_dropout(two):
    """Dropout is drawn in each process, so that only the two ways of dividing are equal."""
    ddp, fsdp2 = (RunFolder(two / f"norm-{parallel}") for parallel in ("ddp", "fsdp2"))
    assert_same_run(ddp, fsdp2)
    assert ddp.result()["initial_weights"] == fsdp2.result()["initial_weights"]
    assert ddp.result()["parameters"] == fsdp2.result()["parameters"]


@pytest.mark.usefixtures("one_thread")
def test_resnet50_equals_one_process_that_takes_the_same_parts(two, one):
    """To the bit: the parts are the same, a sum of two is the same either way round, and halves are exact.

    BatchNorm sees each process's part, and in one process the parts of an accumulation. In the last stage
    such a part has so few pixels that rounding of any other kind would grow to a different gradient, so that
    no tolerance would tell it from a mistake.
    """
    alone = one(RESNET, Execution(accumulation=2, workers=0))
    ddp, fsdp2 = (RunFolder(two / f"resnet50-{parallel}") for parallel in ("ddp", "fsdp2"))
    for together in (ddp, fsdp2):
        assert alone.result()["initial_weights"] == together.result()["initial_weights"]
        assert_same_run(alone, together, rtol=0, atol=0)


def test_resnet50_end_to_end(two):
    result = RunFolder(two / "resnet50-fsdp2").result()
    assert result["status"] == "finished"
    assert len(result["layers"]) == 161
    assert result["parameters"] == 25_557_032 - 988 * 2049  # twelve classes instead of a thousand
    assert 0 < result["sparsity"] < 1
    assert result["test_top5"] >= result["test_accuracy"]


def test_best_is_the_best_epoch(two):
    folder = RunFolder(two / "ddp")
    best = max(folder.metrics(), key=lambda record: record["test_accuracy"])
    assert folder.result()["best"] == {
        key: best[key] for key in ("epoch", "test_accuracy", "test_top5", "sparsity")
    }


def test_what_fails_in_one_process_ends_all_with_one_line(two):
    said = [json.loads((two / f"said{rank}.json").read_text()) for rank in range(2)]
    assert [rank["stopped"] for rank in said] == ["stopped and resumed"] * 2
    resumed, whole = RunFolder(two / "stopped"), RunFolder(two / "ddp")
    assert resumed.sparse_file.read_bytes() == whole.sparse_file.read_bytes()
    assert (two / "stopped" / "metrics.jsonl").read_bytes() == (two / "ddp" / "metrics.jsonl").read_bytes()

    errors = sorted(rank["damaged"] for rank in said)
    assert errors[0].startswith("DataError: ")
    assert "n05/0005.JPEG: the image is damaged" in errors[0]
    assert errors[1].startswith("PeerError: process ")
    assert "n05/0005.JPEG: the image is damaged" in errors[1]

    assert said[0]["unwritable"].startswith(("NotADirectoryError", "FileExistsError"))
    assert said[1]["unwritable"].startswith("PeerError: process 0 failed: ")
    assert said[0]["taken"].startswith("OtherRunError: ")
    assert "epochs=2" in said[1]["taken"]
    assert said[0]["busy"].startswith("RunInUseError: ")
    assert said[1]["busy"] == said[0]["busy"]
    assert [rank["scaler"] for rank in said] == ["scale 2.0, 2.0 steps"] * 2
    assert said[0]["diverged"] == said[1]["diverged"]
    assert "'status': 'diverged'" in said[0]["diverged"]
    assert list(two.rglob("*.tmp")) == []


def test_killed_processes_are_started_again_and_end_with_the_same_bits(two, images, dataset, tmp_path):
    """Kill -9 of each process in turn, under FSDP2, with BatchNorm and dropout."""
    torchrun(Path(__file__).with_name("ranks_script.py"), "killed", images, tmp_path, restarts=3)
    killed, whole = RunFolder(tmp_path / "killed"), RunFolder(two / "norm-fsdp2")
    assert len(killed.environment()["resumed"]) == 2
    assert killed.sparse_file.read_bytes() == whole.sparse_file.read_bytes()
    assert (killed.path / "metrics.jsonl").read_bytes() == (whole.path / "metrics.jsonl").read_bytes()


def test_what_fails_in_one_process_within_a_step_ends_all(images, tmp_path):
    """The others wait for that process, which must not go on to the next run."""
    ended = torchrun(Path(__file__).with_name("ranks_script.py"), "lonely", images, tmp_path, check=False)
    assert ended.returncode == 1
    assert "RuntimeError: a kernel fails in one process" in ended.stderr
    assert not (tmp_path / "next").exists()


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (RuntimeError("[gloo/transport/tcp/pair.cc:545] Read error [::1]:1: Connection reset by peer"), True),
        (torch.distributed.DistNetworkError("the client socket has timed out"), True),
        (RuntimeError("a kernel fails"), False),
        (OSError("Broken pipe"), False),
    ],
)
def test_the_end_of_another_process_is_no_internal_error(error, lost, monkeypatch):
    assert lost_peer(error) is None
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert ("the same command goes on" in str(lost_peer(error))) == lost


def test_the_rank_of_another_launcher_does_not_silence_a_single_process(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert first_process()
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert not first_process()


def test_a_run_of_two_processes_goes_on_in_one(two, dataset, one, tmp_path):
    """And the other way round would read the same file: checkpoints are whole whoever writes them."""
    checkpoints = sorted((two / "momentum" / "checkpoints").iterdir())
    states = [torch.load(path, weights_only=True) for path in checkpoints]
    assert [state["position"] for state in states] == [[2, 0, 4], [3, 0, 8]]
    config = RUNS["momentum"][0]
    half = RunFolder(tmp_path / "half")
    Trainer(config, dataset, half, execution=NO_WORKERS, checkpoint_every=Duration(1, "ep")).run()
    mine = [torch.load(path, weights_only=True) for path in sorted((half.path / "checkpoints").iterdir())]
    for a, b in zip(states, mine, strict=True):
        assert a.keys() == b.keys()
        for key, tensor in b["model"].items():
            torch.testing.assert_close(a["model"][key], tensor, rtol=1e-4, atol=2e-6)
        for index, held in b["optimizer"]["state"].items():
            assert held.keys() == a["optimizer"]["state"][index].keys()
            for key, tensor in held.items():
                torch.testing.assert_close(a["optimizer"]["state"][index][key], tensor, rtol=1e-4, atol=2e-6)
    # The second half alone, in one process, from what two processes saved after the first.
    (half.path / "result.json").unlink()
    for path in (half.path / "checkpoints").iterdir():
        path.unlink()
    (half.path / "checkpoints" / checkpoints[0].name).write_bytes(checkpoints[0].read_bytes())
    Trainer(config, dataset, half, execution=NO_WORKERS).run()
    assert_same_run(RunFolder(two / "momentum"), half)


def test_command_line(two):
    """Process 0 alone prints, reports, talks to the tracker, and chooses how all compute."""
    said = [json.loads((two / f"said{rank}.json").read_text()) for rank in range(2)]
    assert [rank["code"] for rank in said] == [0, 0]
    assert said[0]["printed"].count("report: ") == 1
    assert said[1]["printed"] == ""
    assert len(list((two / "command").rglob("report.html"))) == 1
    assert len(list((two / "command").rglob("result.json"))) == 2
    assert len(list((two / "command").glob("*/*/tensorboard/events*"))) == 2
    assert len(list((two / "command").glob("*/compute.json"))) == 1
