"""Several runs at once on this machine: processes that train one run after the other."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from threading import Thread

from dirprune.errors import FailedRunsError
from dirprune.runs import RunFolder
from dirprune.train.display import ProgressDisplay
from dirprune.train.interruption import StopRequested, stop_requests
from dirprune.train.jobs import Job, Outcome, raise_if_hopeless, record_failure

EVENT = b"\x1e"
"""Stands before each event of a worker, as in RFC 7464; in JSON it cannot occur."""

_POLL_SECONDS = 0.1
_SECONDS_TO_SAVE = 120.0  # a large checkpoint on a slow disk


def run_in_processes(
    jobs: Sequence[Job], at_once: int, devices: Sequence[str], display: ProgressDisplay
) -> list[Outcome]:
    """Train runs, several at once; a process that is killed is one failed run, and another takes its place.

    Args:
        jobs: The runs; their data sets are best in the cache already.
        at_once: How many.
        devices: Values of CUDA_VISIBLE_DEVICES that the processes take turns in; empty without CUDA.
        display: Told about progress.

    Returns:
        What became of each, in their order.

    Raises:
        StopRequested: Ctrl-C or SIGTERM came; every run has been saved.
        UsageError: The request cannot be met.
        OSError: Something could not be written.
    """
    waiting, workers = deque(jobs), dict[int, _Worker]()
    outcomes: dict[str, Outcome] = {}
    with stop_requests() as stop:
        try:
            while len(outcomes) < len(jobs):
                for slot in range(at_once):
                    if waiting and (slot not in workers or not workers[slot].busy):
                        if slot in workers and not workers[slot].alive:
                            workers.pop(slot).close()
                        if slot not in workers:
                            device = devices[slot % len(devices)] if devices else None
                            workers[slot] = _Worker(device, display)
                        workers[slot].give(waiting.popleft())
                for worker in workers.values():
                    outcome = worker.outcome()
                    if outcome is not None:
                        display.end(outcome)
                        raise_if_hopeless(outcome)
                        outcomes[outcome.name] = outcome
                if stop:
                    raise StopRequested
                time.sleep(_POLL_SECONDS)
        finally:
            _end(list(workers.values()))
        if stop:  # while they ended: all runs are over, but the caller may have more to do
            raise StopRequested
    return [outcomes[job.name] for job in jobs]


class _Worker:
    """A process that trains one run at a time; data and libraries are loaded once."""

    def __init__(self, device: str | None, display: ProgressDisplay) -> None:
        self._job: Job | None = None
        self._display = display
        self._outcome: Outcome | None = None
        self._broken: BaseException | None = None
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - what is printed between runs has no log
        environment = os.environ if device is None else {**os.environ, "CUDA_VISIBLE_DEVICES": device}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "dirprune.train.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment,
            start_new_session=True,  # Ctrl-C in the terminal is for the parent, which then asks each to stop
        )
        self._listener = Thread(target=self._listen, daemon=True)
        self._listener.start()

    def give(self, job: Job) -> None:
        """Let it train a run; it must not be busy."""
        self._job = job
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # it has just died: the outcome will say so
            self.process.stdin.write(json.dumps(job.to_json()).encode() + b"\n")
            self.process.stdin.flush()  # and stays open: see the worker

    def _listen(self) -> None:
        assert self.process.stdout is not None
        try:
            for line in self.process.stdout:
                _, mark, content = line.rpartition(EVENT)
                if not mark or not content.endswith(b"\n"):
                    continue  # a library said it on import, or a kill cut it short
                event = json.loads(content)
                if event["kind"] == "outcome":
                    self._outcome = Outcome.from_json(event["outcome"])
                else:
                    self._display.show(event)
        except BaseException as error:  # rich exits where the pipe it prints to is closed
            self._broken = error

    @property
    def busy(self) -> bool:
        """Whether it has a run whose outcome is not known."""
        return self._job is not None

    @property
    def alive(self) -> bool:
        """Whether the process can train another run."""
        return self.process.poll() is None

    def outcome(self) -> Outcome | None:
        """Return what became of its run, once; None while it is at work, or has none.

        Raises:
            BaseException: What reading or the display failed with: nobody reads on, and the process would
                wait for ever.
        """
        if self._broken is not None:
            raise self._broken
        if self._job is None:
            return None
        code = self.process.poll()
        if code is not None:
            self._listener.join()
        if self._outcome is None and code is None:
            return None
        outcome = self._outcome or self._lost(self._job, code or 0)
        self._job = self._outcome = None
        return outcome

    def close(self) -> None:
        """Let go of the pipes and of what was printed."""
        for file in (self.process.stdin, self.process.stdout, self._errors):
            if file is not None:
                with suppress(BrokenPipeError):
                    file.close()

    def _lost(self, job: Job, code: int) -> Outcome:
        """Record that the process exited without reporting an error."""
        if code < 0:
            message = f"its process was killed by {signal.Signals(-code).name}"
            if code == -signal.SIGKILL:
                message += ", perhaps for want of memory: a lower `at_once` takes less"
        else:
            self._errors.seek(0)
            lines = self._errors.read().decode(errors="replace").strip().splitlines()
            message = f"its process ended with code {code}: {lines[-1] if lines else 'nothing was said'}"
        record_failure(RunFolder(job.folder), message)
        return Outcome(job.name, "failed", message, FailedRunsError(f"{job.name}: {message}"))


def _end(workers: Sequence[_Worker]) -> None:
    """Ask processes to save and stop; kill those that do not, and all on a second Ctrl-C."""
    for worker in workers:
        worker.process.terminate()
    deadline = time.monotonic() + _SECONDS_TO_SAVE
    try:
        while time.monotonic() < deadline and any(worker.process.poll() is None for worker in workers):
            time.sleep(_POLL_SECONDS)
    finally:
        for worker in workers:
            worker.process.kill()
            worker.process.wait()
            worker.close()
