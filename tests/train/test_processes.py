"""Runs in processes of their own: real ones once, and shell scripts in their place for what can go wrong."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from dirprune.data import load_dataset
from dirprune.errors import UsageError
from dirprune.runs import RunFolder
from dirprune.train import (
    Execution,
    Experiment,
    Outcome,
    ProgressDisplay,
    StopRequested,
    TrainConfig,
    engines,
    processes,
    run_jobs,
)

CONFIG = TrainConfig(
    recipe="test", dataset="digits", model="lenet-300-100", c=5e-3, mu=0.6, batch_size=64, epochs=2
)
DONE = Outcome("grda-c0.005-mu0.6-seed0", "finished")
REFUSED = Outcome("sgd-seed0", "failed", "no network", UsageError("no network"))


def display(runs=2):
    return ProgressDisplay(Console(file=Path(os.devnull).open("w")), runs)


def jobs_of(folder, threads=1):
    return Experiment(config=CONFIG, threads=threads).jobs(folder)


@pytest.fixture
def in_place_of_python(tmp_path, monkeypatch):
    """Let a shell script stand in for the worker."""

    def install(script):
        path = tmp_path / "worker"
        path.write_text(f"#!/bin/sh\nread job\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(path))

    return install


def say(outcome):
    return tell({"kind": "outcome", "outcome": outcome.to_json()})


def tell(event):
    return f"printf '\\036%s\\n' '{json.dumps(event)}'"


FIRST = 'case "$job" in *\'"method": "sgd"\'*)'  # the SGD run; the other one follows after ;; *)


def test_same_bits_as_in_one_process_and_nothing_is_done_twice(tmp_path, monkeypatch):
    digits = load_dataset("digits")
    alone, together = (jobs_of(tmp_path / name) for name in ("alone", "together"))
    run_jobs(alone, digits, display(), at_once=1)
    outcomes = run_jobs(together, digits, display(), at_once=2)
    assert [outcome.status for outcome in outcomes] == ["finished", "finished"]
    for one, other in zip(alone, together, strict=True):
        for name in ("model.sparse.safetensors", "metrics.jsonl"):
            assert (one.folder / name).read_bytes() == (other.folder / name).read_bytes()
        assert "epoch 2/2" in RunFolder(other.folder).log.read_text()

    monkeypatch.setattr(subprocess, "Popen", None)
    assert run_jobs(together, digits, display(), at_once=2) == outcomes


def test_a_process_trains_one_run_after_the_other_and_each_has_its_log(tmp_path):
    """Two processes for six runs; the last run is what it would be alone."""
    jobs = Experiment(config=replace(CONFIG, epochs=1), threads=1, seeds=3).jobs(tmp_path / "together")
    outcomes = run_jobs(jobs, load_dataset("digits"), display(6), at_once=2)
    assert [outcome.status for outcome in outcomes] == ["finished"] * 6
    logs = [RunFolder(job.folder).log.read_text() for job in jobs]
    assert len({log.split("process ")[1].split(",")[0] for log in logs}) == 2
    assert all(log.count("starts") == log.count("finished") == 1 for log in logs)
    last = replace(jobs[-1], folder=tmp_path / "alone" / jobs[-1].name)
    run_jobs([last], load_dataset("digits"), display(1), at_once=1)
    for name in ("model.sparse.safetensors", "metrics.jsonl"):
        assert (last.folder / name).read_bytes() == (jobs[-1].folder / name).read_bytes()


def test_another_process_takes_the_place_of_one_that_was_killed(tmp_path, in_place_of_python):
    in_place_of_python(f"{FIRST} kill -9 $$;; *) {say(DONE)}; read end;; esac")
    killed, finished = processes.run_in_processes(jobs_of(tmp_path), 1, [], display())
    assert (killed.status, finished.status) == ("failed", "finished")


def test_a_killed_process_is_one_failed_run(tmp_path, in_place_of_python):
    jobs = jobs_of(tmp_path)
    jobs[0].folder.mkdir()
    (jobs[0].folder / "config.json").touch()
    in_place_of_python(f"{FIRST} printf '\\036{{'; kill -9 $$;; *) {say(DONE)};; esac")
    killed, finished = processes.run_in_processes(jobs, 2, [], display())
    assert (killed.status, finished.status) == ("failed", "finished")
    assert killed.message.startswith("its process was killed by SIGKILL, perhaps for want of memory")
    assert RunFolder(jobs[0].folder).failure()["message"] == killed.message


def test_a_process_that_ends_without_a_word_gives_its_last_line(tmp_path, in_place_of_python):
    in_place_of_python("echo some trouble >&2; exit 3")
    outcome, _ = processes.run_in_processes(jobs_of(tmp_path), 1, [], display())
    assert outcome.message == "its process ended with code 3: some trouble"


def test_a_wrong_request_stops_the_others_and_is_raised(tmp_path, in_place_of_python):
    ready, stopped = tmp_path / "ready", tmp_path / "stopped"
    in_place_of_python(
        f"{FIRST} until [ -e {ready} ]; do sleep 0.05; done; {say(REFUSED)};;"
        f" *) trap 'touch {stopped}; exit 130' TERM; touch {ready};"
        " for i in $(seq 200); do sleep 0.05; done;; esac"
    )
    with pytest.raises(UsageError, match="no network"):
        processes.run_in_processes(jobs_of(tmp_path), 2, [], display())
    assert stopped.exists()


def test_a_stop_while_the_processes_end_is_not_lost(tmp_path, in_place_of_python, monkeypatch):
    """All runs are over, but a comparison would begin its next round."""
    in_place_of_python("exit 3")
    end = processes._end
    monkeypatch.setattr(
        processes, "_end", lambda workers: (os.kill(os.getpid(), signal.SIGTERM), end(workers))
    )
    with pytest.raises(StopRequested):
        processes.run_in_processes(jobs_of(tmp_path), 2, [], display())


def test_a_display_that_fails_ends_the_set(tmp_path, in_place_of_python):
    """As when the terminal is gone; nobody would read what the processes say, and they would wait."""
    event = {"kind": "epoch", "run": "sgd-seed0", "metrics": {}}
    in_place_of_python(f"{tell(event)}; {say(DONE)}; read end")

    class Gone(ProgressDisplay):
        def show(self, _):
            raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(OSError, match="Input/output error"):
        processes.run_in_processes(jobs_of(tmp_path), 2, [], Gone(Console(quiet=True), 2))


def test_what_libraries_print_on_import_is_no_event(tmp_path, in_place_of_python):
    """Nor is it the end of the set: nobody would read on, and all would wait for ever."""
    in_place_of_python(f"echo hello; echo '{{}}'; printf 'no end of line'; {say(DONE)}; read end")
    outcomes = processes.run_in_processes(jobs_of(tmp_path)[1:], 1, [], display())
    assert outcomes == [DONE]


def test_an_event_that_cannot_be_read_ends_the_set(tmp_path, in_place_of_python):
    in_place_of_python("printf '\\036nonsense\\n'; read end")
    with pytest.raises(ValueError, match="Expecting value"):
        processes.run_in_processes(jobs_of(tmp_path), 2, [], display())


def test_each_process_sees_one_device(tmp_path, in_place_of_python):
    in_place_of_python(f'echo "$CUDA_VISIBLE_DEVICES" >> {tmp_path}/devices; sleep 0.5; exit 1')
    processes.run_in_processes(jobs_of(tmp_path), 2, ["3", "GPU-5"], display())
    assert sorted((tmp_path / "devices").read_text().split()) == ["3", "GPU-5"]


def test_a_process_that_does_not_stop_is_killed(tmp_path, in_place_of_python, monkeypatch):
    monkeypatch.setattr(processes, "_SECONDS_TO_SAVE", 0.3)
    in_place_of_python(
        f"trap '' TERM; echo $$ >> {tmp_path}/pids; kill -INT $PPID; for i in $(seq 200); do sleep 0.05; done"
    )
    started = time.monotonic()
    with pytest.raises(StopRequested):
        processes.run_in_processes(jobs_of(tmp_path), 1, [], display())
    assert time.monotonic() - started < 8  # left alone, it would last for 10 seconds at least
    pid = int((tmp_path / "pids").read_text())
    assert not Path(f"/proc/{pid}").exists()


def wait_for(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert condition()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_all_runs_are_saved_when_the_command_is_stopped_or_killed(number, tmp_path):
    command = ["train", "digits", "--seeds", "1", "--epochs", "5000", "--jobs", "2", "--out", str(tmp_path)]
    process = subprocess.Popen(
        [sys.executable, "-m", "dirprune", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    folder = tmp_path / "digits-epochs5000"
    runs = [folder / "sgd-seed0", folder / "grda-c0.01-mu0.6-seed0"]
    try:
        wait_for(lambda: all((run / "metrics.jsonl").is_file() for run in runs))
        process.send_signal(number)
        _, error = process.communicate(timeout=60)
    finally:
        process.kill()
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert error.startswith("dirprune: stopped")
    pids = [int((run / "log.txt").read_text().split("process ")[1].split(",")[0]) for run in runs]
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
    for run in runs:
        saved = RunFolder(run)
        assert saved.failure() is None
        assert saved.newest_checkpoint().state["recorded_epochs"] == len(saved.metrics())


def test_snapshots_of_a_divided_model_are_refused_before_anything_is_trained(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    divided = Experiment(config=CONFIG).jobs(tmp_path, execution=Execution(parallel="fsdp2"), snapshots=(1,))
    with pytest.raises(UsageError, match="`snapshots` need `parallel` ddp"):
        run_jobs(divided, load_dataset("digits"), display())
    assert list(tmp_path.iterdir()) == []


def test_how_many_fit(monkeypatch):
    monkeypatch.setattr(engines, "usable_cores", lambda: 8)
    monkeypatch.setattr(engines, "_cuda_devices", list)
    assert [engines.fitting(threads) for threads in (None, 1, 3, 16)] == [1, 8, 2, 1]
    monkeypatch.setattr(engines, "_cuda_devices", lambda: ["0", "1"])
    assert engines.fitting(None) == 2


@pytest.mark.parametrize(("workers", "each"), [(None, 4), (5, 5), (0, 0)])
def test_runs_that_would_each_take_all_cores_share_them(tmp_path, monkeypatch, workers, each):
    monkeypatch.setattr(engines, "usable_cores", lambda: 8)
    monkeypatch.setattr(Execution, "decoders", lambda self: 8 if self.workers is None else self.workers)
    monkeypatch.setattr(engines, "_cuda_devices", list)
    seen = []

    def record(jobs, at_once, devices, shown):
        seen.extend((job.threads, job.execution.decoders(), at_once) for job in jobs)
        return []

    monkeypatch.setattr(engines, "run_in_processes", record)
    experiment = Experiment(config=replace(CONFIG, epochs=1), seeds=3)
    jobs = experiment.jobs(tmp_path, execution=Execution(workers=workers))
    with pytest.raises(KeyError):
        run_jobs(jobs, load_dataset("digits"), display(), at_once=2)
    assert seen == [(4, each, 2)] * 6


@pytest.mark.parametrize(("visible", "names"), [(None, ["0", "1"]), ("2,GPU-7", ["2", "GPU-7"]), ("", [])])
def test_devices_by_the_names_that_a_child_needs(visible, names, monkeypatch):
    monkeypatch.setattr(engines.torch.cuda, "device_count", lambda: 0 if visible == "" else 2)
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert engines._cuda_devices() == names
