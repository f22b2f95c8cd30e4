"""What a set of runs shows while it is at work."""

import datetime
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from dirprune.core.sparsity import SparsityReport
from dirprune.train.callbacks import Callback, Position, Run, figures
from dirprune.train.jobs import Outcome

Event = dict[str, Any]

_LINES_PER_RUN, _LINES = 20, 60
_SECONDS_BETWEEN_STEPS = 0.25
_SECONDS_OF_SPEED = 300.0  # the rate that the time left is reckoned from


class Relay(Callback):
    """Tells what happens in a run as events that JSON can hold, so that another process can show them.

    Args:
        send: Takes each event.
    """

    def __init__(self, send: Callable[[Event], None]) -> None:
        self._send = send
        self._name = ""
        self._sent = 0.0

    def on_start(self, run: Run) -> None:
        """Tell where the run starts or goes on."""
        self._name, position = run.folder.path.name, run.position
        self._send(
            {
                "run": self._name,
                "kind": "start",
                "step": position.step,
                "steps": position.total_steps,
                "epoch": position.epoch,
                "epochs": position.epochs,
            }
        )

    def on_step(self, position: Position) -> None:
        """Tell the step, a few times a second."""
        if time.monotonic() >= self._sent + _SECONDS_BETWEEN_STEPS:
            self._sent = time.monotonic()
            self._send({"run": self._name, "kind": "step", "step": position.step})

    def on_epoch(self, metrics: dict[str, Any], sparsity: SparsityReport) -> None:  # noqa: ARG002
        """Tell what was measured."""
        self._send({"run": self._name, "kind": "epoch", "metrics": metrics})

    def say(self, line: str) -> None:
        """Tell a line for people."""
        self._send({"run": self._name, "kind": "line", "line": line})


@dataclass
class _Bar:
    task: TaskID
    steps: int
    epochs: int


class ProgressDisplay:
    """Bars with the time left on a terminal; in a log, some lines for each run.

    One bar for each run at work, and one for the whole set where it has several runs. Use as a context
    manager around all of them.

    Args:
        console: Where to show it.
        runs: Number of runs to come.
    """

    def __init__(self, console: Console, runs: int) -> None:
        self._console = console
        self._runs = runs
        self._ended = 0
        self._left_to_others = 0
        self._lock = threading.Lock()
        self._bars: dict[str, _Bar] = {}
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=console,
            disable=not console.is_terminal,
            speed_estimate_period=_SECONDS_OF_SPEED,
        )
        self._whole = self._progress.add_task("all runs", total=runs, figures="", visible=runs > 1)

    def __enter__(self) -> "ProgressDisplay":
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def show(self, event: Event) -> None:
        """Show an event of a :class:`Relay`; several threads may call it."""
        name = event["run"]
        with self._lock:
            if event["kind"] == "start":
                self._start(name, event)
            elif event["kind"] == "step":
                self._move(name, event["step"])
            elif event["kind"] == "line":
                self._say(event["line"])
            else:
                self._epoch(name, event["metrics"])

    def end(self, outcome: Outcome) -> None:
        """Take the bar of a run away, and say what became of the run."""
        with self._lock:
            self._ended += 1
            bar = self._bars.pop(outcome.name, None)
            if bar is not None:
                self._progress.remove_task(bar.task)
            self._advance()
        if outcome.status == "busy":
            self._left_to_others += 1
            self._say(f"{outcome.name}: left to another process ({outcome.message})")
        elif outcome.status != "finished":
            self._say(f"{outcome.name}: {outcome.status}: {outcome.message}")
        if bar is not None and self._runs > 1:
            left = self._progress.tasks[0].time_remaining
            about = f", about {datetime.timedelta(seconds=round(left))} left" if left else ""
            others = f", {self._left_to_others} left to another process" if self._left_to_others else ""
            over = self._ended - self._left_to_others
            self._say(f"{over} of {self._runs} runs are over{others}{about}")

    def _start(self, name: str, event: Event) -> None:
        old = self._bars.pop(name, None)
        if old is not None:  # tried again after its machine was lost
            self._progress.remove_task(old.task)
        place = f"[{self._ended + len(self._bars) + 1}/{self._runs}] {name}"
        task = self._progress.add_task(place, total=event["steps"], completed=event["step"], figures="")
        self._bars[name] = _Bar(task, event["steps"], event["epochs"])
        if event["step"]:
            self._say(f"{name}: goes on at epoch {event['epoch']}, step {event['step']}")

    def _move(self, name: str, step: int) -> None:
        self._progress.update(self._bars[name].task, completed=step)
        self._advance()

    def _epoch(self, name: str, metrics: dict[str, Any]) -> None:
        text, bar = figures(metrics), self._bars[name]
        self._progress.update(bar.task, figures=text)
        self._move(name, metrics["step"])
        lines = min(_LINES_PER_RUN, max(1, _LINES // self._runs))
        epoch = metrics["epoch"]
        if not self._console.is_terminal and (
            epoch % math.ceil(bar.epochs / lines) == 0 or epoch == bar.epochs
        ):
            self._say(f"{name}: epoch {epoch}/{bar.epochs}  {text}")

    def _advance(self) -> None:
        """Move the bar of the whole set: runs that are over, and parts of those at work."""
        steps = {task.id: task.completed for task in self._progress.tasks}
        parts = sum(steps[bar.task] / bar.steps for bar in self._bars.values())
        self._progress.update(self._whole, completed=self._ended + parts)

    def _say(self, line: str) -> None:
        self._console.print(line, soft_wrap=True, highlight=False, markup=False)
