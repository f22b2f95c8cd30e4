"""The run folder: what is written comes back, and a kill between any two writes loses nothing."""

import errno
import json
import os
import time

import filelock
import pytest
import torch

from dirprune.errors import RunFolderError
from dirprune.runs import RunFolder, find_runs


@pytest.fixture
def folder(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    run.prepare({"lr": 0.1, "mean": (0.5,)})
    return run


def record(epoch):
    return {"epoch": epoch}, {"epoch": epoch, "seconds": 0.5}


def test_same_configuration_is_accepted_and_another_is_refused(folder):
    folder.prepare({"lr": 0.1, "mean": (0.5,)})
    with pytest.raises(RunFolderError, match=r"holds a run with lr=0\.1, not 0\.2"):
        folder.prepare({"lr": 0.2, "mean": (0.5,)})


@pytest.mark.parametrize("has", ["result", "checkpoint"])
def test_a_run_without_its_configuration_is_not_given_another(folder, has):
    if has == "result":
        folder.write_result({"status": "finished"})
    else:
        folder.save_checkpoint(1, {})
    (folder.path / "config.json").write_text("{")
    with pytest.raises(RunFolderError, match=r"config\.json is not valid JSON .*: restore it, or delete"):
        folder.prepare({"lr": 0.2})
    (folder.path / "config.json").unlink()
    with pytest.raises(RunFolderError, match=r"has a run but no config\.json, .*: restore it, or"):
        folder.prepare({"lr": 0.2})
    assert not (folder.path / "config.json").exists()


def test_prepare_removes_what_a_kill_left(folder):
    (folder.path / "checkpoints").mkdir()
    left, old, young = (
        folder.path / name / ".dirprune-0123.tmp" for name in ("checkpoints", "landscape", ".")
    )
    old.parent.mkdir()
    for path in (left, old, young):
        path.touch()
    os.utime(old, (time.time() - 7200,) * 2)
    folder.prepare({"lr": 0.1, "mean": (0.5,)})
    assert [path.exists() for path in (left, old, young)] == [False, False, True]  # exports write there too


def test_checkpoint_round_trip_keeps_the_last_two(folder):
    for step in (1, 2, 3):
        folder.save_checkpoint(step, {"weights": torch.full((2,), float(step))})
    assert sorted(p.name for p in (folder.path / "checkpoints").iterdir()) == [
        "step-00000002.pt",
        "step-00000003.pt",
    ]
    newest = folder.newest_checkpoint()
    assert newest.step == 3
    assert newest.state["weights"].tolist() == [3.0, 3.0]


def test_damaged_checkpoint_falls_back_to_the_one_before(folder):
    for step in (1, 2):
        folder.save_checkpoint(step, {"weights": torch.zeros(2)})
    newest = folder.path / "checkpoints" / "step-00000002.pt"
    newest.write_bytes(newest.read_bytes()[:100])
    with pytest.warns(UserWarning, match="trying the one before"):
        assert folder.newest_checkpoint().step == 1
    (folder.path / "checkpoints" / "step-00000001.pt").write_bytes(b"")
    with pytest.warns(UserWarning, match="cannot read"), pytest.raises(RunFolderError, match="no checkpoint"):
        folder.newest_checkpoint()


@pytest.fixture
def two_checkpoints(folder):
    """Some 160 kB each, as the smallest networks have; the path of the newest."""
    for step in (1, 2):
        weights = torch.randn(100, 300, generator=torch.Generator().manual_seed(step))
        folder.save_checkpoint(step, {"weights": weights, "bias": weights[0].clone()})
    return folder.path / "checkpoints" / "step-00000002.pt"


@pytest.mark.parametrize("part", [0, 0.02, 0.1, 0.25, 0.4, 0.5, 0.75, 0.99, 0.9999])
def test_a_checkpoint_cut_anywhere_falls_back(folder, two_checkpoints, part):
    content = two_checkpoints.read_bytes()
    two_checkpoints.write_bytes(content[: int(part * len(content))])
    with pytest.warns(UserWarning, match="trying the one before"):
        assert folder.newest_checkpoint().step == 1


@pytest.mark.parametrize("part", [0.001, 0.1, 0.5, 0.9])
def test_a_flipped_bit_in_a_checkpoint_falls_back(folder, two_checkpoints, part):
    content = bytearray(two_checkpoints.read_bytes())
    content[int(part * len(content))] ^= 1
    two_checkpoints.write_bytes(content)
    with pytest.warns(UserWarning, match="trying the one before"):
        assert folder.newest_checkpoint().step == 1


@pytest.mark.parametrize("state", [[1, 2], {}, {"model": {}}, {"recorded_epochs": "1"}], ids=str)
def test_what_is_no_checkpoint_of_ours_falls_back(folder, two_checkpoints, state):
    torch.save(state, two_checkpoints)
    with pytest.warns(UserWarning, match="trying the one before"):
        assert folder.newest_checkpoint().step == 1


@pytest.mark.parametrize(
    "error",
    [OSError(errno.EIO, "the disk"), PermissionError(errno.EACCES, "not yours"), MemoryError()],
    ids=repr,
)
def test_what_the_machine_fails_at_is_no_damage(folder, two_checkpoints, monkeypatch, error):
    def fail(*_, **__):
        raise error

    assert two_checkpoints.is_file()
    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(type(error)):
        folder.newest_checkpoint()


class Payload:
    def __reduce__(self):
        return print, ("code from the checkpoint ran",)


def test_checkpoint_never_runs_code(folder, capsys):
    (folder.path / "checkpoints").mkdir()
    torch.save({"weights": Payload()}, folder.path / "checkpoints" / "step-00000001.pt")
    with pytest.warns(UserWarning, match="UnpicklingError"), pytest.raises(RunFolderError):
        folder.newest_checkpoint()
    assert capsys.readouterr().out == ""


def test_rewind_forgets_epochs_recorded_after_the_checkpoint(folder):
    folder.append_epoch(*record(1))
    folder.save_checkpoint(10, {})
    folder.append_epoch(*record(2))
    with (folder.path / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 3, "lo')  # a kill in the middle of a line
    assert [r["epoch"] for r in folder.metrics()] == [1, 2]
    folder.rewind(folder.newest_checkpoint())
    assert [r["epoch"] for r in folder.metrics()] == [1]
    assert [r["epoch"] for r in folder.timing()] == [1]
    folder.rewind(None)
    assert folder.metrics() == []


def test_a_damaged_checkpoint_after_the_one_gone_on_from_is_not_kept(folder):
    for step in (1, 3):
        folder.save_checkpoint(step, {})
    (folder.path / "checkpoints" / "step-00000003.pt").write_bytes(b"")
    with pytest.warns(UserWarning, match="trying the one before"):
        folder.rewind(folder.newest_checkpoint())
    folder.save_checkpoint(2, {})
    kept = sorted(path.name for path in (folder.path / "checkpoints").iterdir())
    assert kept == ["step-00000001.pt", "step-00000002.pt"]


def test_second_writer_is_refused(folder):
    with folder.locked(), pytest.raises(RunFolderError, match="another process"), folder.locked():
        pass


def test_another_time_out_is_no_busy_folder(folder):
    with pytest.raises(filelock.Timeout), folder.locked():
        raise filelock.Timeout("a lock of the cache")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", "{", "not valid JSON"),
        ("config.json", "[" * 100_000, "not valid JSON"),
        ("config.json", "[1]", "must hold a JSON object"),
        ("result.json", "nonsense", "not valid JSON"),
        ("result.json", "{}", "result.json: status must be .* but is missing: restore or delete it"),
        ("result.json", '{"status": ["finished"]}', "result.json: status must be .* not \\['finished'\\]"),
        ("metrics.jsonl", "nonsense\n", "not valid JSON lines"),
        ("metrics.jsonl", "[" * 100_000 + "\n", "not valid JSON lines"),
        ("metrics.jsonl", "\xff\n", "not valid JSON lines"),
    ],
)
def test_damaged_files_are_named(folder, name, content, message):
    (folder.path / name).write_bytes(content.encode("latin-1"))
    with pytest.raises(RunFolderError, match=message):
        {"config.json": folder.config, "result.json": folder.result, "metrics.jsonl": folder.metrics}[name]()


def test_find_runs(folder, tmp_path):
    assert find_runs(tmp_path) == [folder]
    assert find_runs(folder.path) == [folder]
    with pytest.raises(RunFolderError, match="does not exist"):
        find_runs(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunFolderError, match="holds no runs"):
        find_runs(tmp_path / "empty")


def test_files_are_plain_json(folder):
    folder.write_environment({"cores": 2})
    folder.write_result({"status": "finished"})
    assert json.loads((folder.path / "environment.json").read_text()) == folder.environment() == {"cores": 2}
    assert folder.result() == {"status": "finished"}


def test_a_failure_is_kept_until_it_is_cleared(folder):
    assert folder.failure() is None
    folder.write_failure("out of memory")
    assert folder.failure()["message"] == "out of memory"
    folder.clear_failure()
    folder.clear_failure()
    assert folder.failure() is None
