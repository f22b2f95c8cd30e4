"""Runs as independent jobs: one that fails is recorded with its reason and does not lose the others."""

import datetime
import os
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from dirprune import errors
from dirprune.core.sparsity import SparsityReport
from dirprune.data import EncodedDataset, ImageDataset
from dirprune.errors import (
    DataError,
    DirpruneError,
    FailedRunsError,
    OtherRunError,
    RunFolderError,
    RunInUseError,
    UsageError,
    out_of_memory,
)
from dirprune.runs import RunFolder
from dirprune.train.accumulators import KeepAccumulators
from dirprune.train.callbacks import Callback, Run, figures
from dirprune.train.config import TrainConfig
from dirprune.train.duration import Duration
from dirprune.train.execution import Execution
from dirprune.train.memory import keep_freed_memory
from dirprune.train.ranks import first_process, known_to_all, lost_peer
from dirprune.train.snapshots import SnapshotSaver
from dirprune.train.tracking import Tracking
from dirprune.train.trainer import Trainer


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run, with all that a process needs to train it.

    Args:
        config: What to train.
        folder: Where everything is written.
        data_dir: Where the data set is read from; see :func:`dirprune.data.load_dataset`.
        threads: Threads on the CPU; None leaves them as they are.
        checkpoint_every: How often to save.
        command: The command line, for the record.
        snapshots: Epochs after which the weights are kept; 0: before the first.
        accumulators: Epochs after which the accumulators are kept; see :mod:`dirprune.train.accumulators`.
        execution: How the machine is used.
        trackers: Where the run is shown beside its folder; see :mod:`dirprune.train.tracking`.

    Example:
        >>> config = TrainConfig(recipe="mine", dataset="digits", model="lenet-300-100")
        >>> job = Job(config=config, folder=Path("runs/mine/sgd-seed0"))
        >>> Job.from_json(job.to_json()) == job
        True
    """

    config: TrainConfig
    folder: Path
    data_dir: str | None = None
    threads: int | None = None
    checkpoint_every: Duration = Duration(1, "ep")  # noqa: RUF009 - frozen
    command: str = ""
    snapshots: tuple[int, ...] = ()
    accumulators: tuple[int, ...] = ()
    execution: Execution = Execution()  # noqa: RUF009 - frozen
    trackers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", Path(self.folder))  # who has no type checker may give a str

    @property
    def name(self) -> str:
        """Name of the run: that of its folder."""
        return self.folder.name

    def to_json(self) -> dict[str, Any]:
        """Return what JSON can hold, for another process."""
        paths = {"folder": str(self.folder), "checkpoint_every": str(self.checkpoint_every)}
        return {**asdict(self), **paths}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Job":
        """Read what :meth:`to_json` returned."""
        return cls(
            **{
                **content,
                "config": TrainConfig.from_json(content["config"]),
                "folder": Path(content["folder"]),
                "checkpoint_every": Duration.parse(content["checkpoint_every"]),
                "snapshots": tuple(content["snapshots"]),
                "accumulators": tuple(content["accumulators"]),
                "execution": Execution(**content["execution"]),
                "trackers": tuple(content["trackers"]),
            }
        )


@dataclass(frozen=True)
class Outcome:
    """What became of a job.

    Attributes:
        name: Name of the run.
        status: ``"busy"``: another process is training it; ``"failed"``: it will be tried again.
        message: Why, in one line, unless it finished.
        error: What it failed with.
    """

    name: str
    status: Literal["finished", "diverged", "failed", "busy"]
    message: str = ""
    error: Exception | None = None

    def to_json(self) -> dict[str, Any]:
        """Return what JSON can hold, for another process."""
        error = self.error
        kind = None if error is None else type(error).__name__
        system = None
        if isinstance(error, OSError) and not isinstance(error, DirpruneError):
            # of libraries, it may have a message and no number
            numbered = error.errno is not None
            system = [error.errno, error.strerror, error.filename] if numbered else [str(error)]
        return {
            "name": self.name,
            "status": self.status,
            "message": self.message,
            "kind": kind,
            "system": system,
        }

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Outcome":
        """Read what :meth:`to_json` returned; errors of other libraries lose their type."""
        content = dict(content)
        kind, system = content.pop("kind"), content.pop("system")
        error: Exception | None = None
        if system is not None:
            error = OSError(*system)
        elif kind is not None:
            error = getattr(errors, kind, DirpruneError)(content["message"])
        return cls(**content, error=error)


def attempt(job: Job, dataset: ImageDataset | EncodedDataset, callbacks: Sequence[Callback] = ()) -> Outcome:
    """Train one run in this process; what goes wrong is recorded in its folder.

    Args:
        job: The run.
        dataset: Its data.
        callbacks: Told about its progress.

    Returns:
        What became of it.

    Raises:
        StopRequested: Ctrl-C or SIGTERM came.
        LostPeerError: Another process of the run has ended.
        Exception: It failed in this one of several processes, for which the others may wait.
    """
    keep_freed_memory()
    run = RunFolder(job.folder)
    try:
        with _settings_of_the_process(job.threads):
            result = Trainer(
                job.config,
                dataset,
                run,
                callbacks=[
                    _Record(),
                    SnapshotSaver(job.snapshots),
                    KeepAccumulators(job.accumulators),
                    Tracking(job.trackers),
                    *callbacks,
                ],
                checkpoint_every=job.checkpoint_every,
                command=job.command,
                execution=job.execution,
            ).run()
    except RunInUseError as error:
        return Outcome(job.name, "busy", str(error))
    except Exception as error:
        lost = lost_peer(error)
        if lost is not None:
            if first_process():
                record_failure(run, str(lost), traceback.format_exc())
            raise lost from error
        said = str(error) if isinstance(error, DirpruneError) else f"{type(error).__name__}: {error}"
        message = out_of_memory(error) or " ".join(said.split())
        if first_process() and not isinstance(error, OtherRunError):  # that one has not failed
            record_failure(run, message, traceback.format_exc())
        if not known_to_all(error):
            raise  # to go on to another run would leave the others waiting; this one's end ends them
        _forget_frames(error)
        return Outcome(job.name, "failed", message, error)
    return Outcome(job.name, result["status"], result.get("message", ""))


@contextmanager
def _settings_of_the_process(threads: int | None) -> Iterator[None]:
    """Use this many threads; in the end threads and torch's random numbers are the caller's again."""
    before = torch.get_num_threads()
    # Of every GPU by its number: asked for all of many, torch warns.
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        if threads is not None:
            torch.set_num_threads(threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def load_and_attempt(
    job: Job, load: Callable[[], ImageDataset | EncodedDataset], callbacks: Sequence[Callback]
) -> Outcome:
    """Train one run in a process that has its data still to load, whose lack is an outcome too.

    Args:
        job: The run.
        load: Loads its data.
        callbacks: Told about its progress.

    Returns:
        What became of it.

    Raises:
        StopRequested: Ctrl-C or SIGTERM came.
    """
    try:
        dataset = load()
    except (DirpruneError, OSError) as error:
        return Outcome(job.name, "failed", str(error), error)
    return attempt(job, dataset, callbacks)


def _forget_frames(error: BaseException | None) -> None:
    """Let go of what the frames of a traceback hold, which is the whole run; the log has its text."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


def record_failure(run: RunFolder, message: str, details: str = "") -> None:
    """Write into a run's folder why it failed, if it came so far as to have one."""
    if not (run.path / "config.json").is_file():
        return
    try:
        with run.locked():
            run.write_failure(message)
            _log(run, f"failed: {message}\n{details}".rstrip())
    except RunInUseError:  # another process trains it, which has not failed
        return
    except OSError as error:  # perhaps the very disk that failed the run, which the caller still says
        warnings.warn(f"{run.path}: the failure could not be recorded ({error})", stacklevel=2)


def run_here(
    jobs: Sequence[Job],
    dataset: ImageDataset | EncodedDataset,
    callbacks: Sequence[Callback],
    ended: Callable[[Outcome], None] | None = None,
) -> list[Outcome]:
    """Train runs one after the other in this process.

    Args:
        jobs: The runs.
        dataset: The data of all.
        callbacks: Told about the progress of each.
        ended: Told what became of each.

    Raises:
        StopRequested: Ctrl-C or SIGTERM came.
        UsageError: The request cannot be met.
        OSError: Something could not be written.
    """
    outcomes = []
    for job in jobs:
        outcomes.append(attempt(job, dataset, callbacks))
        if ended is not None:
            ended(outcomes[-1])
        raise_if_hopeless(outcomes[-1])
    return outcomes


def raise_if_hopeless(outcome: Outcome, *, other_machines: bool = False) -> None:
    """Raise what the other runs of the set would meet too: a wrong request, or a disk that fails.

    Args:
        outcome: Of one run.
        other_machines: The other runs may be on other machines, with disks and data of their own.
    """
    error = outcome.error
    wrong_request = isinstance(error, UsageError) and not isinstance(error, RunFolderError)
    if other_machines and isinstance(error, (DataError, OSError)):
        return
    if error is not None and (wrong_request or isinstance(error, OSError)):
        raise error


def raise_failures(outcomes: Sequence[Outcome]) -> None:
    """Raise if runs failed.

    Raises:
        FailedRunsError: More than one did; a single one raises what it failed with.
    """
    failed = [outcome for outcome in outcomes if outcome.error is not None]
    if len(failed) == 1 and failed[0].error is not None:
        raise failed[0].error
    if failed:
        reasons = "; ".join(f"{outcome.name}: {outcome.message}" for outcome in failed)
        raise FailedRunsError(
            f"{len(failed)} of {len(outcomes)} runs failed, the same command tries them again: {reasons}"
        )


class _Record(Callback):
    """Keeps the run's own log, and forgets the failure of an earlier attempt."""

    def on_start(self, run: Run) -> None:
        self._run = run
        run.folder.clear_failure()
        where = f" from epoch {run.position.epoch}, step {run.position.step}" if run.position.step else ""
        _log(run.folder, f"starts{where}, process {os.getpid()}, {torch.get_num_threads()} threads")

    def on_epoch(self, metrics: dict[str, Any], sparsity: SparsityReport) -> None:  # noqa: ARG002
        _log(self._run.folder, f"epoch {metrics['epoch']}/{self._run.position.epochs}  {figures(metrics)}")

    def on_end(self, result: dict[str, Any]) -> None:
        _log(self._run.folder, " ".join([result["status"], result.get("message", "")]).rstrip())


def _log(run: RunFolder, text: str) -> None:
    """Append to a run's log, with the time."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    with run.log.open("a", encoding="utf-8", errors="backslashreplace") as file:
        file.write(f"{now} {text}\n")
