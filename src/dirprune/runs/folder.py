"""One run, one folder.

::

    config.json               what was asked: every setting that the result depends on
    network.json              which network: the arguments of ``create_model``, and the number of classes
    environment.json          where it ran: versions, machine, threads, command, date
    metrics.jsonl             a line for each epoch; equal for equal configurations, interrupted or not
    timing.jsonl              a line for each epoch: seconds
    warnings.jsonl            a line for each warning: epoch, kind, where, message
    tracking.json             trackers that show the run: its identity there, and the last epoch that each has
    checkpoints/              step-00000123.pt, the newest is the one to resume from
    snapshots/                epoch-000005.safetensors, the weights after chosen epochs as sparse files
    accumulators/             gRDA's sums beside the weights, of runs that a prediction is made from
    model.sparse.safetensors  the finished network as a sparse file
    result.json               how it ended; its presence says that the run is over
    failure.json              why the last attempt failed, until another one begins
    log.txt                   what was said while it ran; traceback of a failure
"""

import datetime
import errno
import json
import os
import re
import time
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import torch

from dirprune.core.atomic import atomic_write, write_json, write_json_lines
from dirprune.core.names import SPARSE_FILE
from dirprune.errors import OtherRunError, RunFolderError, RunInUseError, out_of_memory

# What `dirprune export` and others must not write over: the run would then tell of another network.
_OWN_FILES = {
    "config.json",
    "network.json",
    "environment.json",
    "metrics.jsonl",
    "timing.jsonl",
    "warnings.jsonl",
    "tracking.json",
    SPARSE_FILE,
    "result.json",
    "failure.json",
    "log.txt",
}
_OWN_FOLDERS = {"checkpoints", "snapshots", "accumulators"}
_KEPT_CHECKPOINTS = 2
_SECONDS_OF_A_WRITE = 3600.0  # a temporary file so old was left by a kill
_RESTORE_CONFIG = "restore it, or delete that folder to start anew"
_CHECKPOINT_NAME = re.compile(r"step-(\d{8,})\.pt")
_SNAPSHOT_NAME = re.compile(r"epoch-(\d{6,})\.safetensors")

Json = dict[str, Any]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read: the global step it was taken at, and what was saved."""

    step: int
    state: Json


@dataclass(frozen=True, init=False)
class RunFolder:
    """Reads and writes the files of one run.

    Args:
        path: The folder. :meth:`locked` makes it; the readers expect it to exist.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     run = RunFolder(folder)
        ...     with run.locked():
        ...         run.prepare({"method": "sgd", "seed": 0})
        ...     run.config()["method"], run.result()  # which is None until the run is over
        ('sgd', None)
    """

    path: Path

    def __init__(self, path: str | os.PathLike[str]) -> None:
        object.__setattr__(self, "path", Path(path))

    @property
    def sparse_file(self) -> Path:
        """Where the finished network lies."""
        return self.path / SPARSE_FILE

    @property
    def log(self) -> Path:
        """Where the run's own log lies."""
        return self.path / "log.txt"

    # -- reading ---------------------------------------------------------------------------------------

    def config(self) -> Json:
        """Return the resolved configuration."""
        return self._read_json("config.json")

    def network(self) -> Json | None:
        """Return the arguments of ``create_model`` that build the network; None where they were not noted."""
        return self._read_json("network.json") if (self.path / "network.json").is_file() else None

    def environment(self) -> Json:
        """Return where and how the run was made."""
        return self._read_json("environment.json")

    def result(self) -> Json | None:
        """Return how the run ended, by its ``status`` at least, or None while it is not over."""
        path = self.path / "result.json"
        if not path.is_file():
            return None
        result = self._read_json(path.name)
        if result.get("status") not in ("finished", "diverged"):
            found = f"not {result['status']!r:.40}" if "status" in result else "but is missing"
            raise RunFolderError(
                f'{path}: status must be "finished" or "diverged", {found}: restore or delete it'
            )
        return result

    def over(self) -> Json | None:
        """Return the result, or None while there is something to do.

        A finished run that has lost its network makes it again from its last checkpoint, if it has one.
        """
        result = self.result()
        finished = result is not None and result["status"] == "finished"
        lost = finished and not self.sparse_file.is_file() and bool(self._checkpoint_files())
        return None if lost else result

    def failure(self) -> Json | None:
        """Return why the last attempt failed (``message``, ``date``), or None if it did not."""
        return self._read_json("failure.json") if (self.path / "failure.json").is_file() else None

    def metrics(self) -> list[Json]:
        """Return a record for each finished epoch."""
        return self._read_lines("metrics.jsonl")

    def timing(self) -> list[Json]:
        """Return the seconds of each finished epoch."""
        return self._read_lines("timing.jsonl")

    def warnings(self) -> list[Json]:
        """Return what was amiss: a record for each warning."""
        return self._read_lines("warnings.jsonl")

    def trackers(self) -> Json:
        """Return for each tracker by name the run's ``identity`` there and the last ``epoch`` that it has."""
        return self._read_json("tracking.json") if (self.path / "tracking.json").is_file() else {}

    def newest_checkpoint(self) -> Checkpoint | None:
        """Read the newest checkpoint that is whole, without running any code that it might hold.

        Returns:
            The checkpoint, or None if none has been saved.

        Raises:
            RunFolderError: There are checkpoints, and none can be read.
            OSError: The disk cannot be read, or the file may not be.
        """
        saved = self._checkpoint_files()
        for step in sorted(saved, reverse=True):
            try:
                return Checkpoint(step, _read_checkpoint(saved[step]))
            except Exception as error:
                if not _of_the_file(error):
                    raise
                then = "" if step == min(saved) else "; trying the one before"
                warnings.warn(f"cannot read {saved[step]} ({type(error).__name__}){then}", stacklevel=2)
        if saved:
            raise RunFolderError(
                f"no checkpoint in {self.path} can be read: delete that folder to start anew"
            )
        return None

    def snapshots(self) -> dict[int, Path]:
        """Return the sparse files of the weights after chosen epochs, by epoch; 0 is before the first."""
        paths = (self.path / "snapshots").glob("epoch-*.safetensors")
        names = ((_SNAPSHOT_NAME.fullmatch(path.name), path) for path in paths)
        return dict(sorted((int(match[1]), path) for match, path in names if match))

    def snapshot_path(self, epoch: int) -> Path:
        """Return where the weights after an epoch belong."""
        return self.path / "snapshots" / f"epoch-{epoch:06d}.safetensors"

    # -- writing ---------------------------------------------------------------------------------------

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder against a second process that would train into it.

        Raises:
            RunInUseError: Another process holds it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with ExitStack() as held:
            try:
                held.enter_context(filelock.FileLock(self.path / ".lock", timeout=0))
            except filelock.Timeout:
                raise RunInUseError(
                    f"{self.path} is written by another process: wait for it, or choose another `folder`"
                ) from None
            yield

    def prepare(self, config: Mapping[str, Any], *, defaults: Mapping[str, Any] | None = None) -> None:
        """Write the configuration, or check that the folder already holds the very same.

        Call it with the folder locked.

        Args:
            config: The configuration.
            defaults: Values of settings that a folder written by an earlier version does not have.

        Raises:
            OtherRunError: It holds another configuration.
            RunFolderError: It has lost its own.
        """
        for left in self.path.rglob(".dirprune-*.tmp"):
            ours = left.parent.name == "checkpoints"  # elsewhere other processes write too
            with suppress(FileNotFoundError):  # one of those has just been renamed
                if ours or time.time() - left.stat().st_mtime > _SECONDS_OF_A_WRITE:
                    left.unlink()
        wanted = json.loads(json.dumps(config))
        if not (self.path / "config.json").is_file():
            if (self.path / "result.json").is_file() or self._checkpoint_files():
                raise RunFolderError(
                    f"{self.path} has a run but no config.json, which says what it is: {_RESTORE_CONFIG}"
                )
            self.write_config(wanted)
            return
        held = {**json.loads(json.dumps(defaults or {})), **self.config()}
        for key in wanted | held:
            if wanted.get(key) != held.get(key):
                raise OtherRunError(
                    f"{self.path} holds a run with {key}={held.get(key)!r}, not {wanted.get(key)!r}: "
                    "choose another `folder`, or delete that folder"
                )

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write what :meth:`config` returns, and with that declare the folder a run."""
        write_json(self.path / "config.json", config)

    def write_network(self, arguments: Mapping[str, Any]) -> None:
        """Write what :meth:`network` returns."""
        write_json(self.path / "network.json", arguments)

    def write_environment(self, environment: Mapping[str, Any]) -> None:
        """Write where and how the run is made."""
        write_json(self.path / "environment.json", environment)

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Write how the run ended, and with that declare it over."""
        write_json(self.path / "result.json", result)

    def write_failure(self, message: str) -> None:
        """Write why an attempt failed; the run is not over, and can be tried again."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        write_json(self.path / "failure.json", {"message": message, "date": now})

    def clear_failure(self) -> None:
        """Forget why the last attempt failed, for another one has begun."""
        (self.path / "failure.json").unlink(missing_ok=True)

    def append_epoch(self, metrics: Mapping[str, Any], timing: Mapping[str, Any]) -> None:
        """Append an epoch's records; they count once a later checkpoint has been saved."""
        for name, record in (("metrics.jsonl", metrics), ("timing.jsonl", timing)):
            with (self.path / name).open("a") as file:
                file.write(json.dumps(record, allow_nan=False) + "\n")
                file.flush()
                os.fsync(file.fileno())

    def write_metrics(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Write the records of all epochs at once, of a run that was trained elsewhere."""
        write_json_lines(self.path / "metrics.jsonl", records)

    def append_warning(self, warning: Mapping[str, Any]) -> None:
        """Append a warning; the file is small, and is never left with half a line."""
        write_json_lines(self.path / "warnings.jsonl", [*self.warnings(), warning])

    def write_trackers(self, trackers: Mapping[str, Any]) -> None:
        """Write what :meth:`trackers` returns."""
        write_json(self.path / "tracking.json", trackers)

    def save_checkpoint(self, step: int, state: Mapping[str, Any]) -> None:
        """Save atomically; the one before is kept until this one is whole on the disk."""
        folder = self.path / "checkpoints"
        folder.mkdir(exist_ok=True)
        epochs = len(self.metrics())
        with atomic_write(folder / f"step-{step:08d}.pt") as file:
            try:
                torch.save({**state, "recorded_epochs": epochs}, file)
            except RuntimeError as error:
                if isinstance(error.__context__, OSError):  # torch hides that the disk is full
                    raise error.__context__ from None
                raise
        saved = self._checkpoint_files()
        for old in sorted(saved)[:-_KEPT_CHECKPOINTS]:
            saved[old].unlink()

    def drop_checkpoints(self) -> None:
        """Delete the checkpoints of a run that is over: its sparse file and its records stay."""
        if self.result() is not None:
            for path in self._checkpoint_files().values():
                path.unlink()

    def rewind(self, checkpoint: Checkpoint | None) -> None:
        """Forget what was recorded after the checkpoint, for it will be made again."""
        step = checkpoint.step if checkpoint else 0
        epochs = checkpoint.state["recorded_epochs"] if checkpoint else 0
        for name in ("metrics.jsonl", "timing.jsonl"):
            path = self.path / name
            if epochs or path.is_file():
                kept = (path.read_bytes() if path.is_file() else b"").splitlines(keepends=True)[:epochs]
                if len(kept) < epochs:
                    raise RunFolderError(
                        f"{path} has {len(kept)} lines, its checkpoint was saved after {epochs} epochs: "
                        f"restore the file, or delete {self.path} to start anew"
                    )
                with atomic_write(path) as file:
                    file.write(b"".join(kept))
        for saved, path in self._checkpoint_files().items():
            if saved > step:  # damaged; it would count among those that are kept
                path.unlink()

    # -- files -----------------------------------------------------------------------------------------

    def _checkpoint_files(self) -> dict[int, Path]:
        folder = self.path / "checkpoints"
        names = ((_CHECKPOINT_NAME.fullmatch(path.name), path) for path in folder.glob("step-*.pt"))
        return {int(match[1]): path for match, path in names if match}

    def _read_json(self, name: str) -> Json:
        path = self.path / name
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise RunFolderError(f"{self.path} is not a run folder: it has no {name}") from None
        except (ValueError, RecursionError) as error:
            advice = _RESTORE_CONFIG if name == "config.json" else "restore or delete it"
            raise RunFolderError(f"{path} is not valid JSON ({error}): {advice}") from None
        if not isinstance(content, dict):
            raise RunFolderError(f"{path} must hold a JSON object, not {type(content).__name__}")
        return content

    def _read_lines(self, name: str) -> list[Json]:
        """Read a file of JSON lines; a last line that a kill cut short is not a record yet."""
        path = self.path / name
        if not path.is_file():
            return []
        try:
            whole, _, _ = path.read_text(encoding="utf-8").rpartition("\n")
            return [json.loads(line) for line in whole.splitlines()]
        except (ValueError, RecursionError) as error:
            raise RunFolderError(f"{path} is not valid JSON lines ({error}): restore or delete it") from None


def _read_checkpoint(path: Path) -> Json:
    """Read a checkpoint whose checksums hold: torch looks at none of them."""
    with zipfile.ZipFile(path) as archive:
        if (damaged := archive.testzip()) is not None:
            raise zipfile.BadZipFile(f"{damaged} has another checksum")
    state = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(state, dict) or not isinstance(state.get("recorded_epochs"), int):
        raise TypeError("not a checkpoint of a run")
    return state


def _of_the_file(error: Exception) -> bool:
    """Whether the content of a file raised that, which may be anything, and not the machine.

    EINVAL is what reading from before the beginning raises, where a cut file seems to have its directory.
    """
    machine = isinstance(error, OSError) and error.errno != errno.EINVAL
    return not machine and out_of_memory(error) is None


def is_of_a_run(path: str | os.PathLike[str]) -> bool:
    """Whether a file is one that a run is made of, which nothing else may overwrite.

    Args:
        path: Of the file, which need not exist.

    Returns:
        Whether it lies in a run's folder under one of the names that runs use.
    """
    path = Path(path)
    if path.parent.name in _OWN_FOLDERS:
        return _is_run(path.parent.parent)
    return path.name in _OWN_FILES and _is_run(path.parent)


def _is_run(folder: Path) -> bool:
    """Whether a folder is a run's; one of transformers has a config.json and a model.safetensors too."""
    return all((folder / name).is_file() for name in ("config.json", "environment.json"))


def find_runs(folder: str | os.PathLike[str]) -> list[RunFolder]:
    """Return the runs in a folder, by name: the folder itself if it is one, else those directly in it.

    Args:
        folder: Of a run, or of an experiment.

    Returns:
        The runs, unread.

    Raises:
        RunFolderError: There is no such folder, or no run in it.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("sgd-seed0", "grda-c0.01-mu0.6-seed0"):
        ...         run = RunFolder(Path(folder) / name)
        ...         with run.locked():
        ...             run.prepare({"seed": 0})
        ...     [run.path.name for run in find_runs(folder)]
        ['grda-c0.01-mu0.6-seed0', 'sgd-seed0']
    """
    folder = Path(folder)
    if (folder / "config.json").is_file():
        return [RunFolder(folder)]
    runs = [RunFolder(path.parent) for path in sorted(folder.glob("*/config.json"))]
    if not runs:
        found = "is a file" if folder.exists() else "does not exist"
        what = "holds no runs" if folder.is_dir() else found
        raise RunFolderError(f"{folder} {what}: give a folder that `dirprune train` wrote")
    return runs
