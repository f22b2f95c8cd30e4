"""A set of runs on a ray cluster of two workers, one of which is lost in the middle."""

import errno
import json
import os
import platform
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from dirprune.data import load_dataset
from dirprune.errors import DataError, MissingPackageError, UsageError
from dirprune.runs import RunFolder
from dirprune.train import Experiment, Job, Outcome, ProgressDisplay, TrainConfig, run_jobs
from dirprune.train.duration import Duration
from dirprune.train.jobs import raise_failures
from dirprune.train.ray_cluster import _check_cpus, _run, _train

CONFIG = TrainConfig(
    recipe="test", dataset="digits", model="lenet-300-100", c=5e-3, mu=0.6, batch_size=4, epochs=8
)


def display(runs):
    return ProgressDisplay(Console(file=Path(os.devnull).open("w")), runs)


@pytest.fixture
def cluster(monkeypatch):
    """A head without CPUs and two workers with one each."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    monkeypatch.setenv("RAY_health_check_period_ms", "500")
    monkeypatch.setenv("RAY_health_check_failure_threshold", "2")
    import ray
    from ray.cluster_utils import Cluster

    small = {"object_store_memory": 80 * 2**20}
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **small}
    )
    workers = [cluster.add_node(num_cpus=1, **small) for _ in range(2)]
    yield cluster, workers
    ray.shutdown()
    cluster.shutdown()


def test_a_lost_worker_loses_nothing(cluster, tmp_path):
    """The same bits as in one process, although a worker was killed in the middle of its run."""
    cluster, workers = cluster
    experiment = Experiment(config=CONFIG, mu=(0.51, 0.6), threads=1)
    jobs = experiment.jobs(tmp_path / "ray", checkpoint_every=Duration(1, "ep"))
    lost = []

    def lose_a_worker():
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not lost:
            begun = [job.name for job in jobs if len(RunFolder(job.folder).metrics()) >= 2]
            if len(begun) == 2:
                cluster.remove_node(workers[1], allow_graceful=False)
                lost.append(begun)
            time.sleep(0.1)

    killer = threading.Thread(target=lose_a_worker)
    killer.start()
    outcomes = run_jobs(jobs, load_dataset("digits"), display(3), ray=cluster.address)
    killer.join()
    assert lost
    assert [outcome.status for outcome in outcomes] == ["finished"] * 3

    alone = experiment.jobs(tmp_path / "alone", checkpoint_every=Duration(8, "ep"))
    run_jobs(alone, load_dataset("digits"), display(3), at_once=1)
    for one, other in zip(jobs, alone, strict=True):
        for name in ("model.sparse.safetensors", "metrics.jsonl"):
            assert (one.folder / name).read_bytes() == (other.folder / name).read_bytes()
    resumed = [len(RunFolder(job.folder).environment().get("resumed", [])) for job in jobs]
    assert max(resumed) >= 1


def test_a_machine_without_the_data_says_so_in_one_line(tmp_path):
    config = replace(CONFIG, dataset="fashion_mnist")
    job = Job(config=config, folder=tmp_path / "run", data_dir=str(tmp_path / "nowhere"))
    outcome = Outcome.from_json(_train(job.to_json()))
    assert (outcome.name, outcome.status) == ("run", "failed")
    assert isinstance(outcome.error, DataError)
    assert outcome.message.startswith(f"on {platform.node()}: ")
    assert outcome.message.endswith("nowhere' does not exist; give a folder or a hub name owner/name")


class StubRay:
    """As ray looks to `_run`: a task is over as soon as it is waited for, one after the other."""

    exceptions = SimpleNamespace(RayError=ConnectionError)

    def __init__(self, errors):
        self._errors = errors
        self.cancelled = []

    def nodes(self):
        return []

    def cluster_resources(self):
        return {}

    def remote(self, **_):
        def start(content):
            job = Job.from_json(content)
            error = self._errors.get(job.name)
            status, message = ("failed", f"on there: {error}") if error else ("finished", "")
            return json.dumps(Outcome(job.name, status, message, error).to_json())

        return lambda _: SimpleNamespace(options=lambda **_: SimpleNamespace(remote=start))

    def wait(self, tasks, **_):
        return tasks[:1], tasks[1:]

    def get(self, task):
        return json.loads(task)

    def cancel(self, task):
        self.cancelled.append(self.get(task)["name"])


@pytest.fixture
def two_jobs(tmp_path):
    return [Job(config=CONFIG, folder=tmp_path / name) for name in ("bad", "good")]


@pytest.mark.parametrize(
    "error",
    [DataError("no data here"), OSError(errno.ENOSPC, "No space left on device"), PermissionError(13, "no")],
    ids=lambda error: type(error).__name__,
)
def test_a_machine_that_lacks_data_or_disk_fails_its_own_run_alone(error, two_jobs, capsys):
    ray = StubRay({"bad": error})
    bad, good = _run(ray, two_jobs, ProgressDisplay(Console(width=200), 2))
    assert (bad.status, good.status) == ("failed", "finished")
    assert isinstance(bad.error, type(error))
    assert ray.cancelled == []
    assert capsys.readouterr().out == f"bad: failed: on there: {error}\n"
    with pytest.raises(type(error)):
        raise_failures([bad, good])


def test_a_wrong_request_ends_the_set(two_jobs):
    ray = StubRay({"bad": UsageError("`sparsity` must be in [0, 1)")})
    with pytest.raises(UsageError, match="`sparsity` must be"):
        _run(ray, two_jobs, display(2))
    assert ray.cancelled == ["good"]


def test_more_threads_than_any_machine_has_are_refused_before_anything_starts(tmp_path):
    def cluster(*cpus):
        nodes = [{"Alive": True, "Resources": {"CPU": count} if count else {}} for count in cpus]
        return SimpleNamespace(nodes=lambda: [*nodes, {"Alive": False, "Resources": {"CPU": 64.0}}])

    jobs = [Job(config=CONFIG, folder=tmp_path / str(threads), threads=threads) for threads in (1, 3)]
    with pytest.raises(UsageError, match="`threads` 3: the largest machine of the ray cluster has 2 CPUs"):
        _check_cpus(cluster(0, 1.0, 2.0), jobs)
    _check_cpus(cluster(0, 4.0), jobs)
    _check_cpus(cluster(0), jobs)  # it may grow


def test_without_ray_one_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    jobs = Experiment(config=replace(CONFIG, epochs=1)).jobs(tmp_path)
    with pytest.raises(MissingPackageError, match=r"pip install 'directional-pruning\[ray\]'"):
        run_jobs(jobs, load_dataset("digits"), display(2), ray="local")
