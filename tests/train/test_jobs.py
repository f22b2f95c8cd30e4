"""Sets of runs: one that fails is recorded, does not lose the others, and is tried again."""

import errno
import gc
import json
import weakref
from dataclasses import replace
from pathlib import Path

import filelock
import pytest
import torch
from rich.console import Console

from dirprune.errors import (
    DataError,
    FailedRunsError,
    MissingFileError,
    MissingPackageError,
    RunFolderError,
    UsageError,
)
from dirprune.runs import RunFolder
from dirprune.train import (
    Callback,
    Duration,
    Experiment,
    Job,
    Outcome,
    ProgressDisplay,
    TrainConfig,
    raise_failures,
    run_experiment,
    run_jobs,
    trainer,
)
from dirprune.train.jobs import attempt

CONFIG = TrainConfig(
    recipe="test", dataset="digits", model="lenet-300-100", c=5e-3, mu=0.6, batch_size=256, epochs=1
)


class Seen(Callback):
    """Notes the threads of a run."""

    def __init__(self, seen):
        self.seen = seen

    def on_step(self, _):
        self.seen.append(torch.get_num_threads())


class Fail(Callback):
    """Raises once a run of that name has started."""

    def __init__(self, name, error):
        self.name = name
        self.error = error

    def on_start(self, run):
        self.running = run.config.run_name

    def on_step(self, _):
        if self.running == self.name:
            raise self.error


def test_several_values_make_a_run_each_beside_one_sgd_run_for_a_seed():
    experiment = Experiment(config=CONFIG, c=(1e-3, 5e-3), mu=(0.51, 0.6, 0.6), seeds=2)
    names = [run.run_name for run in experiment.runs()]
    assert names == [
        f"{name}-seed{seed}"
        for seed in (0, 1)
        for name in (
            *("sgd", "grda-c0.001-mu0.51", "grda-c0.001-mu0.6"),
            *("grda-c0.005-mu0.51", "grda-c0.005-mu0.6"),
        )
    ]


def test_values_that_differ_late_are_runs_of_different_names():
    names = [run.run_name for run in Experiment(config=CONFIG, c=(1.23456e-3, 1.234561e-3)).runs()]
    assert names == ["sgd-seed0", "grda-c0.00123456-mu0.6-seed0", "grda-c0.001234561-mu0.6-seed0"]


def test_without_values_those_of_the_configuration_are_run():
    experiment = Experiment(config=CONFIG)
    assert (experiment.c, experiment.mu) == ((5e-3,), (0.6,))
    assert experiment.runs() == [CONFIG.with_method("sgd"), CONFIG]


def test_a_value_out_of_range_is_found_at_once():
    with pytest.raises(UsageError, match=r"`mu` must be in \(0, 1\], got 0\.0"):
        Experiment(config=CONFIG, mu=(0.6, 0.0))


def test_no_memory_is_said_as_what_to_do_and_so_from_another_process_too(digits, tmp_path):
    error = MemoryError()
    job = Job(config=CONFIG, folder=tmp_path / CONFIG.run_name)
    outcome = attempt(job, digits, [Fail(CONFIG.run_name, error)])
    assert outcome.error is error
    assert Outcome.from_json(json.loads(json.dumps(outcome.to_json()))).message.startswith(
        "out of memory: lower"
    )
    assert RunFolder(job.folder).failure()["message"].startswith("out of memory: lower `batch_size`")


def test_a_job_goes_through_json():
    config = replace(CONFIG, mean=(0.1,), std=(0.2,), schedule="StepLR", schedule_args=("step_size=2",))
    job = Job(config=config, folder=Path("a/b"), data_dir="x", threads=2, checkpoint_every=Duration(3, "it"))
    assert Job.from_json(json.loads(json.dumps(job.to_json()))) == job


@pytest.mark.parametrize(
    ("error", "same"),
    [
        (OSError(errno.ENOSPC, "full", "a/b"), OSError),
        (OSError("cannot identify image file"), OSError),
        (DataError("no data"), DataError),
        (MissingFileError("no file"), MissingFileError),
        (MissingPackageError("no package"), MissingPackageError),
        (ZeroDivisionError("x"), Exception),
    ],
)
def test_an_outcome_goes_through_json(error, same):
    outcome = Outcome("grda", "failed", str(error), error)
    again = Outcome.from_json(json.loads(json.dumps(outcome.to_json())))
    assert (again.name, again.status, again.message) == ("grda", "failed", str(error))
    assert isinstance(again.error, same)
    assert str(again.error) == str(error)


def test_a_failed_run_is_recorded_does_not_lose_the_others_and_is_tried_again(digits, tmp_path):
    experiment = Experiment(config=CONFIG, seeds=2)
    with pytest.raises(RuntimeError, match="no kernel"):
        run_experiment(experiment, digits, tmp_path, callbacks=[Fail("sgd-seed0", RuntimeError("no kernel"))])
    runs = [RunFolder(tmp_path / config.run_name) for config in experiment.runs()]
    assert [run.result() is not None for run in runs] == [False, True, True, True]
    assert runs[0].failure()["message"] == "RuntimeError: no kernel"
    assert "Traceback" in runs[0].log.read_text()

    assert run_experiment(experiment, digits, tmp_path) == runs
    assert runs[0].result()["status"] == "finished"
    assert [run.failure() for run in runs] == [None] * 4
    assert "epoch 1/1" in runs[0].log.read_text()


def test_a_set_leaves_threads_and_random_numbers_as_they_were(digits, tmp_path):
    before, state = torch.get_num_threads(), torch.get_rng_state()
    other = before + 1
    outcome = attempt(Job(config=CONFIG, folder=tmp_path / "run", threads=other), digits, [Seen(seen := [])])
    assert (outcome.status, seen[0]) == ("finished", other)
    assert torch.get_num_threads() == before
    assert torch.equal(torch.get_rng_state(), state)


def test_a_failed_run_keeps_no_memory(digits, tmp_path):
    """The other runs of the set may need it."""
    seen = []

    class Full(Callback):
        def on_start(self, run):
            seen.append(weakref.ref(run.model))

        def on_step(self, _):
            try:
                int("a cause")
            except ValueError as error:
                raise RuntimeError("out of memory") from error

    (job, *_) = Experiment(config=CONFIG).jobs(tmp_path)
    outcome = attempt(job, digits, [Full()])
    gc.collect()
    assert str(outcome.error) == "out of memory"
    assert seen[0]() is None


def test_a_run_that_another_process_trains_has_not_failed(digits, tmp_path, monkeypatch):
    """Of two that begin at once the second may be short of memory before it comes to the lock."""
    (job, *_) = Experiment(config=CONFIG).jobs(tmp_path)
    run = RunFolder(job.folder)
    attempt(job, digits, [Fail("sgd-seed0", RuntimeError("stopped"))])
    run.clear_failure()

    def full(*_):
        raise RuntimeError("no memory")

    monkeypatch.setattr(trainer, "place_model", full)
    with filelock.FileLock(job.folder / ".lock"):
        assert attempt(job, digits).status == "failed"
        assert run.failure() is None
    attempt(job, digits)
    assert run.failure()["message"] == "RuntimeError: no memory"


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left"), UsageError("no such network")])
def test_what_every_run_would_meet_ends_the_set(error, digits, tmp_path):
    with pytest.raises(type(error)):
        run_experiment(Experiment(config=CONFIG), digits, tmp_path, callbacks=[Fail("sgd-seed0", error)])
    assert [path.name for path in tmp_path.iterdir()] == ["sgd-seed0"]


def test_a_damaged_run_does_not_end_the_set(digits, tmp_path):
    (tmp_path / "sgd-seed0").mkdir()
    (tmp_path / "sgd-seed0" / "config.json").write_text("[")
    with pytest.raises(RunFolderError, match="not valid JSON"):
        run_experiment(Experiment(config=CONFIG), digits, tmp_path)
    assert (tmp_path / "grda-c0.005-mu0.6-seed0" / "result.json").is_file()


def test_nor_does_a_damaged_result_end_it(digits, tmp_path):
    jobs = Experiment(config=CONFIG, threads=1).jobs(tmp_path)
    run_jobs(jobs[:1], digits, ProgressDisplay(Console(quiet=True), 1))
    (jobs[0].folder / "result.json").write_text("{")
    with ProgressDisplay(Console(quiet=True), 2) as display:
        damaged, trained = run_jobs(jobs, digits, display, at_once=1)
    assert (damaged.status, trained.status) == ("failed", "finished")
    assert "result.json is not valid JSON" in damaged.message


def test_a_failure_is_not_written_into_the_folder_of_another_run(digits, tmp_path):
    (job,) = Experiment(config=CONFIG, methods=("sgd",)).jobs(tmp_path)
    other = RunFolder(job.folder)
    other.path.mkdir(parents=True)
    other.write_config({"lr": 0.2})
    outcome = attempt(job, digits)
    assert outcome.status == "failed"
    assert "holds a run with" in outcome.message
    assert other.failure() is None
    assert not (other.path / "log.txt").exists()


def test_a_run_of_another_process_is_left_to_it(digits, tmp_path):
    (tmp_path / "sgd-seed0").mkdir()
    with filelock.FileLock(tmp_path / "sgd-seed0" / ".lock"):
        runs = run_experiment(Experiment(config=CONFIG), digits, tmp_path)
    assert [run.result() is not None for run in runs] == [False, True]
    assert runs[0].failure() is None


def test_failures_are_one_error():
    good = Outcome("a", "finished")
    raise_failures([good, Outcome("b", "busy", "at work"), Outcome("c", "diverged", "NaN")])
    with pytest.raises(DataError):
        raise_failures([good, Outcome("b", "failed", "gone", DataError("gone"))])
    with pytest.raises(FailedRunsError, match=r"2 of 3 runs failed, .*: b: gone; c: lost"):
        raise_failures(
            [good, *(Outcome(n, "failed", m, DataError(m)) for n, m in (("b", "gone"), ("c", "lost")))]
        )
