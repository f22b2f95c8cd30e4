"""The process that trains runs, one after the other, for :mod:`dirprune.train.processes`.

It reads each job as a line of JSON from standard input, and writes events and the outcome as such lines,
each after a mark, to standard output. Standard input stays open as long as there may be another job; when it
closes during a run, the parent is gone, and the run is saved and stopped.
"""

import json
import os
import queue
import signal
import sys
import threading
from contextlib import suppress
from functools import partial
from typing import Any

from dirprune.data import EncodedDataset, ImageDataset, load_dataset
from dirprune.train.callbacks import Callback, Run
from dirprune.train.diagnosis import Diagnosis
from dirprune.train.display import Relay
from dirprune.train.interruption import StopRequested
from dirprune.train.jobs import Job, load_and_attempt
from dirprune.train.processes import EVENT


class _OwnLog(Callback):
    """Lets everything that libraries print go to the run's log, once the folder is ours."""

    def on_start(self, run: Run) -> None:
        with run.folder.log.open("ab") as log:
            os.dup2(log.fileno(), 2)


class _Jobs:
    """Reads jobs as they come, and asks for a stop when the parent goes away during a run."""

    def __init__(self) -> None:
        self._lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._busy = True  # until it is known that there is nothing to do
        threading.Thread(target=self._listen, daemon=True).start()

    def next(self) -> Job | None:
        """Wait for another job; None at the end."""
        line = self._lines.get()
        return None if line is None else Job.from_json(json.loads(line))

    def done(self) -> None:
        """Note that the run is over; call it before the parent is told, which may then close the input."""
        with self._lock:
            self._busy = False

    def _listen(self) -> None:
        held = b""
        while data := os.read(0, 1 << 16):  # not through sys.stdin, whose lock is taken when Python ends
            *lines, held = (held + data).split(b"\n")
            for line in lines:
                with self._lock:
                    self._busy = True
                self._lines.put(line)
        with self._lock:
            if self._busy:
                os.kill(os.getpid(), signal.SIGTERM)
        self._lines.put(None)


def main() -> int:
    """Train runs until there are no more; returns the exit code."""
    events = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)  # what libraries print must not get among the events
    errors = os.dup(2)

    def send(content: dict[str, Any]) -> None:
        with suppress(BrokenPipeError):  # the parent is gone, for which the run stops but does not fail
            events.write(EVENT.decode() + json.dumps(content) + "\n")

    jobs, data = _Jobs(), _Data()
    while (job := jobs.next()) is not None:
        relay = Relay(send)
        try:
            callbacks = [_OwnLog(), relay, Diagnosis(relay.say)]
            outcome = load_and_attempt(job, partial(data.of, job), callbacks)
        except StopRequested:
            return 130
        os.dup2(errors, 2)  # the log is that run's alone
        jobs.done()
        send({"kind": "outcome", "outcome": outcome.to_json()})
    return 0


class _Data:
    """Loads a data set, and keeps it for the next run."""

    def __init__(self) -> None:
        self._key: tuple[str, str | None] | None = None
        self._dataset: ImageDataset | EncodedDataset

    def of(self, job: Job) -> ImageDataset | EncodedDataset:
        """Return the data set of a job."""
        key = (job.config.dataset, job.data_dir)
        if key != self._key:
            self._dataset = load_dataset(*key)
            self._key = key
        return self._dataset


if __name__ == "__main__":
    sys.exit(main())
