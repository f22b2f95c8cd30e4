"""Several runs at once on this machine, each in a process of its own."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from threading import Thread

from dirprune.errors import FailedRunsError
from dirprune.runs import RunFolder
from dirprune.train.display import ProgressDisplay
from dirprune.train.interruption import StopRequested, stop_requests
from dirprune.train.jobs import Job, Outcome, raise_if_hopeless, record_failure

_POLL_SECONDS = 0.1
_SECONDS_TO_SAVE = 120.0  # a large checkpoint on a slow disk


def run_in_processes(
    jobs: Sequence[Job], at_once: int, devices: Sequence[str], display: ProgressDisplay
) -> list[Outcome]:
    """Train runs, several at once; a process that is killed is one failed run.

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
    waiting, running = deque(jobs), dict[int, _Child]()
    outcomes: dict[str, Outcome] = {}
    with stop_requests() as stop:
        try:
            while waiting or running:
                for slot in range(at_once):
                    if waiting and slot not in running:
                        device = devices[slot % len(devices)] if devices else None
                        running[slot] = _Child(waiting.popleft(), device, display)
                for slot, child in list(running.items()):
                    outcome = child.outcome()
                    if outcome is not None:
                        del running[slot]
                        display.end(outcome)
                        raise_if_hopeless(outcome)
                        outcomes[outcome.name] = outcome
                if stop:
                    raise StopRequested
                time.sleep(_POLL_SECONDS)
        finally:
            _end(list(running.values()))
    return [outcomes[job.name] for job in jobs]


class _Child:
    """A process that trains one run."""

    def __init__(self, job: Job, device: str | None, display: ProgressDisplay) -> None:
        self._job = job
        self._display = display
        self._outcome: Outcome | None = None
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - what is printed before the run has its log
        environment = os.environ if device is None else {**os.environ, "CUDA_VISIBLE_DEVICES": device}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "dirprune.train.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment,
            start_new_session=True,  # Ctrl-C in the terminal is for the parent, which then asks each to stop
        )
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(job.to_json()).encode() + b"\n")
        self.process.stdin.flush()  # and stays open: see the worker
        self._listener = Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if not line.endswith(b"\n"):
                return  # killed in the middle of it
            event = json.loads(line)
            if event["kind"] == "outcome":
                self._outcome = Outcome.from_json(event["outcome"])
            else:
                self._display.show(event)

    def outcome(self) -> Outcome | None:
        """Return what became of the run, or None while it is at work."""
        code = self.process.poll()
        if code is None:
            return None
        self._listener.join()
        self.close()
        return self._outcome or self._lost(code)

    def close(self) -> None:
        """Let go of the pipes."""
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()

    def _lost(self, code: int) -> Outcome:
        """Record that the process ended without a word."""
        if code < 0:
            message = f"its process was killed by {signal.Signals(-code).name}"
            if code == -signal.SIGKILL:
                message += ", perhaps for want of memory: fewer --jobs take less"
        else:
            self._errors.seek(0)
            lines = self._errors.read().decode(errors="replace").strip().splitlines()
            message = f"its process ended with code {code}: {lines[-1] if lines else 'nothing was said'}"
        record_failure(RunFolder(self._job.folder), message)
        return Outcome(self._job.name, "failed", message, FailedRunsError(f"{self._job.name}: {message}"))


def _end(children: Sequence[_Child]) -> None:
    """Ask processes to save and stop; kill those that do not, and all on a second Ctrl-C."""
    for child in children:
        child.process.terminate()
    deadline = time.monotonic() + _SECONDS_TO_SAVE
    try:
        while time.monotonic() < deadline and any(child.process.poll() is None for child in children):
            time.sleep(_POLL_SECONDS)
    finally:
        for child in children:
            child.process.kill()
            child.process.wait()
            child.close()
