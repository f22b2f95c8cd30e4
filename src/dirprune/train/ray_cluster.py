"""A set of runs on many machines, through ray: every run is a task that writes into the shared folder."""

import platform
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from dirprune.data import load_dataset
from dirprune.errors import FailedRunsError, UsageError, from_extra
from dirprune.runs import RunFolder
from dirprune.train.diagnosis import Diagnosis
from dirprune.train.display import ProgressDisplay
from dirprune.train.interruption import StopRequested, stop_requests
from dirprune.train.jobs import Job, Outcome, load_and_attempt, raise_if_hopeless, record_failure

_RETRIES = 5  # a worker, or its machine, may be lost so many times before a run counts as failed
_POLL_SECONDS = 1.0
_SECONDS_TO_SAVE = 120.0


def run_on_ray(jobs: Sequence[Job], address: str, display: ProgressDisplay) -> list[Outcome]:
    """Train runs on a ray cluster; one whose worker dies goes on elsewhere from its last checkpoint.

    Each takes ``threads`` CPUs (1 where none are set) and, where the cluster has any, one GPU. All machines
    need this package and the same folder for the runs and the data.

    Args:
        jobs: The runs.
        address: Of the cluster; ``"auto"`` to find it, ``"local"`` to start one on this machine.
        display: Told about progress, epoch by epoch, from the shared folder.

    Returns:
        What became of each, in their order.

    Raises:
        MissingPackageError: ray is not installed.
        UsageError: There is no such cluster, or the request cannot be met. A machine without the data, or
            whose disk fails, is a failure of its run alone.
        StopRequested: Ctrl-C or SIGTERM came; the runs were asked to save.
        OSError: A run's folder could not be read here.
    """
    with from_extra("ray", "`ray`"):
        import ray
    ours = not ray.is_initialized()
    if ours:
        try:
            ray.init(address=address, log_to_driver=False)
        except (ConnectionError, ValueError) as error:
            raise UsageError(f"no ray cluster at `ray` {address}: {error}") from error
    try:
        return _run(ray, [_shared(job) for job in jobs], display)
    finally:
        if ours:
            ray.shutdown()


def _run(ray: Any, jobs: Sequence[Job], display: ProgressDisplay) -> list[Outcome]:
    _check_cpus(ray, jobs)
    gpus = 1 if ray.cluster_resources().get("GPU") else 0
    train = ray.remote(max_retries=_RETRIES, num_gpus=gpus)(_train)
    tasks = {train.options(num_cpus=job.threads, name=job.name).remote(job.to_json()): job for job in jobs}
    watches = {job.name: _Watch(job, display) for job in jobs}
    outcomes: dict[str, Outcome] = {}
    with stop_requests() as stop:
        try:
            waiting = list(tasks)
            while waiting:
                ended, waiting = ray.wait(waiting, timeout=_POLL_SECONDS)
                for watch in watches.values():
                    watch.look()
                for task in ended:
                    outcome = _outcome(ray, task, tasks[task])
                    display.end(outcome)
                    raise_if_hopeless(outcome, other_machines=True)
                    outcomes[outcome.name] = outcome
                    del watches[outcome.name]
                if stop:
                    raise StopRequested
        finally:
            for task in waiting:
                ray.cancel(task)  # as Ctrl-C in the worker: the run is saved
            if waiting:
                ray.wait(waiting, num_returns=len(waiting), timeout=_SECONDS_TO_SAVE)
    return [outcomes[job.name] for job in jobs]


def _check_cpus(ray: Any, jobs: Sequence[Job]) -> None:
    """Refuse a run for which no machine has the CPUs: ray would wait for one for ever.

    A cluster without any CPU is taken for one that grows when it is asked.
    """
    most = max((node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]), default=0)
    wanted = max((job.threads or 1 for job in jobs), default=0)
    if 0 < most < wanted:
        raise UsageError(
            f"`threads` {wanted}: the largest machine of the ray cluster has {most:g} CPUs; ask for fewer"
        )


def _train(content: dict[str, Any]) -> dict[str, Any]:
    """Train one run in a worker of the cluster."""
    job = Job.from_json(content)
    load = partial(load_dataset, job.config.dataset, job.data_dir)
    outcome = load_and_attempt(job, load, [Diagnosis()])
    if outcome.status == "failed":
        outcome = replace(outcome, message=f"on {platform.node()}: {outcome.message}")
    return outcome.to_json()


def _outcome(ray: Any, task: Any, job: Job) -> Outcome:
    """Return what became of a task; a worker lost too often is a failed run."""
    try:
        return Outcome.from_json(ray.get(task))
    except ray.exceptions.RayError as error:
        message = " ".join(f"{type(error).__name__}: {error}".split())
        record_failure(RunFolder(job.folder), message)
        return Outcome(job.name, "failed", message, FailedRunsError(f"{job.name}: {message}"))


def _shared(job: Job) -> Job:
    """Make paths mean the same to a worker, and count its CPUs."""
    data = job.data_dir
    if data is not None and Path(data).expanduser().exists():
        data = str(Path(data).expanduser().resolve())
    return replace(job, folder=job.folder.resolve(), data_dir=data, threads=job.threads or 1)


class _Watch:
    """Follows a run by its folder."""

    def __init__(self, job: Job, display: ProgressDisplay) -> None:
        self._job = job
        self._display = display
        self._seen: int | None = None

    def look(self) -> None:
        """Show the epochs that were recorded since the last look."""
        records = RunFolder(self._job.folder).metrics()
        if not records:
            return
        epochs, name = self._job.config.epochs, self._job.name
        steps = round(records[-1]["step"] / len(records) * epochs)
        if self._seen is None:
            start = {"step": 0, "steps": steps, "epoch": 1, "epochs": epochs}
            self._display.show({"run": name, "kind": "start", **start})
            self._seen = 0
        for metrics in records[self._seen :]:
            self._display.show({"run": name, "kind": "epoch", "metrics": metrics})
        self._seen = len(records)
