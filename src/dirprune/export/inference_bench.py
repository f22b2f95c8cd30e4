"""How fast one network runs in several programs, side by side, and how far their outputs are apart.

All contenders of a table take turns in every round, so that whatever else the machine does meets all of them.
"""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dirprune.core.threads import check_threads
from dirprune.core.wording import counted
from dirprune.errors import DirpruneError, UsageError, unknown
from dirprune.export.contenders import CONTENDERS, DENSE, Run
from dirprune.export.graph import Shape
from dirprune.export.sparse_runtime import dense_outputs

_SHORTEST = 0.02  # seconds of one measurement: shorter calls are repeated
_LONGEST = 6.0  # seconds of one contender's measurements: long calls are timed in fewer rounds, but three
_SETTLE = 0.02  # seconds in which the threads of the contender before fall asleep
_OTHER = 0.5  # further apart are the outputs of another network; of a random one bf16's are 0.2 apart
_GAIN = 1.05  # less is within what two runs of the same program differ by


@dataclass(frozen=True)
class Timing:
    """One contender at one batch size and number of threads.

    Attributes:
        name: Of the contender.
        batch: Samples in a call.
        threads: Threads of the program.
        milliseconds: Median time of a call, over the rounds; None where it could not run.
        fastest: The least.
        per_second: Samples in a second at the median.
        difference: The greatest difference from dense torch, as a share of its greatest output; None where
            one of them is not finite.
        note: Why it could not run, or why its outputs are wrong.
    """

    name: str
    batch: int
    threads: int
    milliseconds: float | None = None
    fastest: float | None = None
    per_second: float | None = None
    difference: float | None = None
    note: str = ""


def measure_inference(
    model: nn.Module,
    input_shape: Shape,
    *,
    batches: Sequence[int] = (1, 64),
    threads: Sequence[int] = (1, 2),
    rounds: int = 15,
    contenders: Sequence[str] | None = None,
    during: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> list[Timing]:
    """Time a network in every program that is installed.

    Args:
        model: The module, in evaluation mode.
        input_shape: Of one sample, such as (3, 32, 32).
        batches: Batch sizes.
        threads: Numbers of threads.
        rounds: How often each contender is timed; calls of seconds in fewer rounds, but three.
        contenders: Names from `dirprune.export.contenders.CONTENDERS`; default: all.
        during: Makes a context in which each single measurement runs.

    Returns:
        A timing for each contender, batch size and number of threads; one that cannot run says why.

    Raises:
        UsageError: As in `check_request`.

    Example:
        >>> rows = measure_inference(nn.Linear(8, 2), (8,), batches=[1], threads=[1], rounds=2,
        ...                          contenders=["torch", "sparse (ours)"])
        >>> [(row.name, row.difference < 1e-5) for row in rows]
        [('torch', True), ('sparse (ours)', True)]
    """
    names = list(CONTENDERS) if contenders is None else list(contenders)
    check_request(batches, threads, rounds, names)
    rows: list[Timing] = []
    before = torch.get_num_threads()
    try:
        for number in threads:
            torch.set_num_threads(number)
            for batch in batches:
                x = torch.randn(batch, *input_shape, generator=torch.Generator().manual_seed(batch))
                rows += _table(model, x, number, rounds, names, during)
    finally:
        torch.set_num_threads(before)
    return rows


def check_request(batches: Sequence[int], threads: Sequence[int], rounds: int, names: Sequence[str]) -> None:
    """Refuse what cannot be measured, before a network is loaded for it.

    Args:
        batches: Batch sizes.
        threads: Numbers of threads.
        rounds: How often each contender is timed.
        names: Of contenders.

    Raises:
        UsageError: A number is below 1, there is none, there are too many threads, or a name is unknown.

    Example:
        >>> check_request([1], [1], 0, [])
        Traceback (most recent call last):
        dirprune.errors.UsageError: `rounds` must be >= 1, got 0
    """
    for what, numbers in (("batches", batches), ("threads", threads), ("rounds", [rounds])):
        if not numbers or min(numbers) < 1:
            raise UsageError(f"`{what}` must be >= 1, got {' '.join(map(str, numbers)) or 'nothing'}")
    for name in names:
        if name not in CONTENDERS:
            raise UsageError(unknown("program", name, CONTENDERS))
    check_threads(*threads)


def verdicts(rows: Sequence[Timing]) -> list[str]:
    """One sentence for each batch size and number of threads: what gains over the fastest dense program.

    Args:
        rows: From `measure_inference`; those with a note do not count.

    Returns:
        The sentences, in the order of the rows.

    Example:
        >>> verdicts([Timing("torch", 1, 1, 4.0), Timing("sparse (ours)", 1, 1, 1.0)])
        ['batch 1, 1 thread: sparse (ours) is 4.00 x as fast as the fastest dense program, torch (4.00 ms)']
    """
    sentences = []
    for batch, threads in dict.fromkeys((row.batch, row.threads) for row in rows):
        timed = {
            row.name: row.milliseconds
            for row in rows
            if (row.batch, row.threads) == (batch, threads) and row.milliseconds is not None and not row.note
        }
        dense = {name: ms for name, ms in timed.items() if name in DENSE}
        if not dense:
            continue
        fastest = min(dense, key=dense.__getitem__)
        head = f"batch {batch}, {counted(threads, 'thread')}"
        gains = {name: dense[fastest] / ms for name, ms in timed.items() if name not in DENSE}
        others = [
            row.name for row in rows if (row.batch, row.threads) == (batch, threads) and row.name not in DENSE
        ]
        better = sorted((name for name, gain in gains.items() if gain > _GAIN), key=lambda name: -gains[name])
        if better:
            what = ", ".join(f"{name} is {gains[name]:.2f} x as fast" for name in better)
            sentences.append(
                f"{head}: {what} as the fastest dense program, {fastest} ({dense[fastest]:.2f} ms)"
            )
        elif others and not gains:
            sentences.append(f"{head}: no sparse program could run: {', '.join(others)}")
        else:
            sentences.append(
                f"{head}: nothing gains over the fastest dense program, {fastest} ({dense[fastest]:.2f} ms)"
            )
    return sentences


def as_json(rows: Sequence[Timing]) -> dict[str, Any]:
    """Rows and verdicts for a file."""
    return {"timings": [asdict(row) for row in rows], "verdicts": verdicts(rows)}


def _table(
    model: nn.Module,
    x: Tensor,
    threads: int,
    rounds: int,
    names: list[str],
    during: Callable[[], AbstractContextManager[Any]],
) -> list[Timing]:
    """One batch size and number of threads: build, compare, then take turns."""
    expected = dense_outputs(model, x)
    scale = max(float(expected.abs().max()), torch.finfo(torch.float32).tiny)
    runs: dict[str, Run] = {}
    repeats: dict[str, int] = {}
    turns: dict[str, int] = {}
    rows: dict[str, Timing] = {}
    for name in names:
        row = {"name": name, "batch": len(x), "threads": threads}
        try:
            run = CONTENDERS[name](model, x, threads)
            apart = float((run(x).detach().float() - expected).abs().max()) / scale
        except _EXCUSES as error:
            lines = str(error).strip().splitlines()
            rows[name] = Timing(**row, note=f"{type(error).__name__}: {lines[0] if lines else ''}"[:200])  # type: ignore[arg-type]
            continue
        with during():
            once = _seconds(run, x, 1)
            if once < _LONGEST / rounds:
                once = min(once, _seconds(run, x, 2))
        repeats[name], turns[name] = max(1, int(_SHORTEST / once)), min(rounds, max(3, int(_LONGEST / once)))
        difference = apart if math.isfinite(apart) else None
        wrong = "outputs are not finite" if difference is None else f"outputs differ by {apart:.2g}"
        note = "" if apart <= _OTHER else wrong
        runs[name], rows[name] = run, Timing(**row, difference=difference, note=note)  # type: ignore[arg-type]
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds):
        for name, run in runs.items():
            if turn >= turns[name]:
                continue
            time.sleep(_SETTLE)
            with during():
                if turns[name] == rounds:  # short: bring its weights into the caches, its threads to work
                    _seconds(run, x, repeats[name])
                seconds[name].append(_seconds(run, x, repeats[name]))
    for name, times in seconds.items():
        median = statistics.median(times)
        filled = {"milliseconds": 1e3 * median, "fastest": 1e3 * min(times), "per_second": len(x) / median}
        rows[name] = Timing(**(asdict(rows[name]) | filled))
    return list(rows.values())


def _seconds(run: Run, x: Tensor, calls: int) -> float:
    """The time of one call, the mean of several; never 0."""
    start = time.perf_counter()
    for _ in range(calls):
        run(x)
    return max(time.perf_counter() - start, 1e-7) / calls


# a program that is not installed, does not know an operation or a setting, or finds no compiler
_EXCUSES = (ImportError, DirpruneError, RuntimeError, NotImplementedError, TypeError, ValueError, OSError)
