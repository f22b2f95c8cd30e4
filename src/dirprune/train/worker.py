"""The process that trains one run for :mod:`dirprune.train.processes`.

It reads its job as a line of JSON from standard input, and writes events and the outcome as such lines to
standard output. Standard input stays open as long as the parent lives; when it closes, the run is saved and
stopped.
"""

import json
import os
import signal
import sys
import threading
from typing import Any

from dirprune.data import load_dataset
from dirprune.errors import DirpruneError
from dirprune.train.callbacks import Callback, Run
from dirprune.train.diagnosis import Diagnosis
from dirprune.train.display import Relay
from dirprune.train.interruption import StopRequested
from dirprune.train.jobs import Job, Outcome, attempt


class _OwnLog(Callback):
    """Lets everything that libraries print go to the run's log, once the folder is ours."""

    def on_start(self, run: Run) -> None:
        with run.folder.log.open("ab") as log:
            os.dup2(log.fileno(), 2)


def main() -> int:
    """Train the run; returns the exit code."""
    events = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)  # what libraries print must not get among the events

    def send(content: dict[str, Any]) -> None:
        events.write(json.dumps(content) + "\n")

    job = Job.from_json(json.loads(sys.stdin.buffer.readline()))
    threading.Thread(target=_stop_with_the_parent, daemon=True).start()
    try:
        dataset = load_dataset(job.config.dataset, job.data_dir)
    except (DirpruneError, OSError) as error:
        outcome = Outcome(job.name, "failed", str(error), error)
    else:
        try:
            relay = Relay(send)
            outcome = attempt(job, dataset, [_OwnLog(), relay, Diagnosis(relay.say)])
        except StopRequested:
            return 130
    send({"kind": "outcome", "outcome": outcome.to_json()})
    return 0


def _stop_with_the_parent() -> None:
    """Ask for a stop when the parent is gone, however it went."""
    while os.read(0, 1):  # not through sys.stdin, whose lock the interpreter takes when it ends
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
