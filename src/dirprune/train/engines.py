"""Where a set of runs is trained: in this process, in several, or on many machines."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import chain

import torch

from dirprune.core.threads import usable_cores
from dirprune.data import EncodedDataset, ImageDataset
from dirprune.errors import RunFolderError, UsageError
from dirprune.runs import RunFolder
from dirprune.train.diagnosis import Diagnosis
from dirprune.train.display import ProgressDisplay, Relay
from dirprune.train.jobs import Job, Outcome, run_here
from dirprune.train.processes import run_in_processes
from dirprune.train.ranks import processes


def run_jobs(
    jobs: Sequence[Job],
    dataset: ImageDataset | EncodedDataset,
    display: ProgressDisplay,
    *,
    at_once: int | None = None,
    ray: str | None = None,
) -> list[Outcome]:
    """Train every run that is not over yet; one that fails does not lose the others.

    Args:
        jobs: The runs, all of one data set.
        dataset: That data set, as other processes will read it again (from the cache).
        display: Told about progress.
        at_once: How many; None for as many as :func:`fitting` says. With one, or with one run left, they are
            trained in this process.
        ray: ``"local"``, ``"auto"`` or an address: let a ray cluster train them, as many as it holds.

    Returns:
        What became of each, in their order.

    Raises:
        StopRequested: Ctrl-C or SIGTERM came; the same call goes on from there.
        UsageError: The request cannot be met.
        OSError: Something could not be written.
    """
    if at_once is not None and at_once < 1:
        raise UsageError(f"`at_once` must be >= 1, got {at_once}")
    if processes() > 1:
        if ray is not None or (at_once or 1) > 1:
            raise UsageError(
                "under torchrun all processes train one run at a time: leave out `at_once` and `ray`"
            )
        if any(job.execution.parallel == "fsdp2" and (job.snapshots or job.accumulators) for job in jobs):
            raise UsageError("snapshots are of a whole model in one process: `snapshots` need `parallel` ddp")
        return _one_after_the_other(jobs, dataset, display)
    if ray is not None and at_once is not None:
        raise UsageError(
            "`ray`: the cluster's CPUs and GPUs say how many runs fit at once; leave out `at_once`"
        )
    done, left = dict[str, Outcome](), list[Job]()
    for job in jobs:
        outcome = _done(job, dataset.digest)
        if outcome is None:
            left.append(job)
        else:
            done[job.name] = outcome
            display.end(outcome)
    threads = {job.threads for job in jobs}
    count = min(at_once or fitting(max(filter(None, threads), default=None)), len(left))
    if ray is not None and left:
        from dirprune.train.ray_cluster import run_on_ray

        ended = run_on_ray(left, ray, display)
    elif count > 1:
        ended = run_in_processes([_sharing(job, count) for job in left], count, _cuda_devices(), display)
    else:
        ended = _one_after_the_other(left, dataset, display)
    outcomes = {outcome.name: outcome for outcome in chain(done.values(), ended)}
    return [outcomes[job.name] for job in jobs]


def _one_after_the_other(
    jobs: Sequence[Job], dataset: ImageDataset | EncodedDataset, display: ProgressDisplay
) -> list[Outcome]:
    """Train runs in this process."""
    relay = Relay(display.show)
    return run_here(jobs, dataset, [relay, Diagnosis(relay.say)], display.end)


def fitting(threads: int | None) -> int:
    """Return how many runs fit this machine at once: one for each CUDA device, or as the threads allow.

    Args:
        threads: Threads of each run; None where a run takes all cores.
    """
    devices = len(_cuda_devices())
    return devices or (max(1, usable_cores() // threads) if threads else 1)


def _done(job: Job, digest: str) -> Outcome | None:
    """Return the outcome of a run that is over; None for one to do, or to be refused by its own process."""
    run = RunFolder(job.folder)
    asked = json.loads(json.dumps({**asdict(job.config), "data": digest}))
    try:
        result = run.over()
        if result is None or run.config() != asked:
            return None
    except RunFolderError:
        return None
    return Outcome(job.name, result["status"], result.get("message", ""))


def _sharing(job: Job, count: int) -> Job:
    """Divide the cores among runs that would each take all, and the processes that decode their images."""
    execution = replace(job.execution, workers=max(1, job.execution.decoders() // count))
    return replace(
        job,
        threads=job.threads or share_of_cores(count),
        execution=job.execution if job.execution.workers is not None else execution,
    )


def share_of_cores(count: int) -> int:
    """Return the threads of each of some runs at once that would each take all cores."""
    return max(1, usable_cores() // count)


def _cuda_devices() -> list[str]:
    """Return a value of CUDA_VISIBLE_DEVICES for each device that this process sees."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    named = [name for name in (visible or "").split(",") if name]
    return [named[i] if visible else str(i) for i in range(torch.cuda.device_count())]
