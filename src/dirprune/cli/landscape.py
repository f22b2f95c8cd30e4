"""`dirprune landscape connect|plane|project|norms|directional`: where the sparse network lies."""

import shlex
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any

import torch
import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as TimeLeft
from torch import Tensor, nn

from dirprune import landscape as ls
from dirprune.cli.arguments import parse
from dirprune.data import Split, load_dataset
from dirprune.errors import UsageError, unknown
from dirprune.runs import RunFolder
from dirprune.train import describe_environment
from dirprune.train.reopen import EvaluationData, TrainedRun, reopen, run_config

Arguments = list[str]


@dataclass(frozen=True, kw_only=True)
class Common:
    """What all of these commands take."""

    data_dir: str | None = None
    """Folder with the data set as parquet, or a hub name; default: from the hub."""
    out: Path | None = None
    """Where the result is written; default: the folder "landscape" in the last run named."""
    images: int | None = None
    """Use only the first so many training images, and test images; default: all."""
    batch: int = 500
    """Images at a time; less needs less memory."""
    threads: int | None = None
    """Threads on the CPU; default: all cores."""

    def __post_init__(self) -> None:
        for name, value in (("images", self.images), ("batch", self.batch), ("threads", self.threads)):
            if value is not None and value < 1:
                raise UsageError(f"--{name} must be 1 or more; it is {value}")


@dataclass(frozen=True, kw_only=True)
class PairOptions(Common):
    """Two runs that started from the same weights and saw the same batches."""

    run_sgd: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN_SGD")]
    """Folder of the SGD run."""
    run_grda: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN_GRDA")]
    """Folder of its gRDA twin."""


@dataclass(frozen=True, kw_only=True)
class ConnectOptions(PairOptions):
    """Train a curve from gRDA to SGD and measure the loss along it."""

    settings: ls.CurveSettings = field(default_factory=ls.CurveSettings)


@dataclass(frozen=True, kw_only=True)
class PlaneOptions(PairOptions):
    """Measure the loss on the plane through both networks and the bend that `connect` has trained."""

    settings: ls.PlaneSettings = field(default_factory=ls.PlaneSettings)


@dataclass(frozen=True, kw_only=True)
class ProjectOptions(PairOptions):
    """Project gRDA minus SGD on the sharpest directions, at every epoch that both runs have kept."""

    settings: ls.EigenSettings = field(default_factory=ls.EigenSettings)
    epochs: tuple[int, ...] = ()
    """Only these of the epochs that were kept; default: all but epoch 0, where both are equal."""


@dataclass(frozen=True, kw_only=True)
class NormsOptions(PairOptions):
    """Norms of the weights at every epoch that both runs have kept."""


@dataclass(frozen=True, kw_only=True)
class DirectionalOptions(Common):
    """Prune a trained network in one shot, directionally and by magnitude."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Folder of the run, one of SGD as a rule."""
    eigen: ls.EigenSettings = field(default_factory=ls.EigenSettings)
    settings: ls.OneShotSettings = field(default_factory=ls.OneShotSettings)


def landscape(arguments: Arguments) -> int:
    """Run the command; returns the exit code."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_usage(), end="")
        return 0 if arguments else 2
    name, *rest = arguments
    if name not in TOPICS:
        raise UsageError(unknown("topic", name, TOPICS))
    kind, run = TOPICS[name]
    options = parse(kind, rest, prog=f"dirprune landscape {name}")
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    command = shlex.join(["dirprune", "landscape", *arguments])
    with _Bars(Console()) as bars:
        for line in run(options, describe_environment(command), bars):
            bars.say(line)
    return 0


# -- topics --------------------------------------------------------------------------------------------


def _connect(options: ConnectOptions, environment: dict[str, Any], bars: "_Bars") -> list[str]:
    pair = _Pair(options, bars)
    first, last = pair.grda.model.state_dict(), pair.sgd.model.state_dict()
    result = ls.keep(
        ls.Connection,
        pair.out,
        ls.connection_request(pair.objective, first, last, options.settings),
        environment,
        lambda store: ls.connect(
            pair.objective,
            first,
            last,
            options.settings,
            batches=pair.grda.shuffled,
            store=store,
            progress=bars,
        ),
    )
    lines = [_written(pair.out, result)]
    if not result.converged:
        lines.append("note: the loss of the curve was still changing; more --epochs may lower it")
    for name, values in (("trained curve", result.curve), ("straight line", result.line)):
        for split, losses in (("training", values.train_loss), ("test", values.test_loss)):
            if losses:
                b = ls.barrier(result.t, losses)
                lines.append(
                    f"{name}, {split} loss: gRDA {losses[0]:.4g}, greatest {max(losses):.4g} at "
                    f"t = {b.at:.2f}, SGD {losses[-1]:.4g}; barrier {b.height:.4g}"
                )
    return lines


def _plane(options: PlaneOptions, environment: dict[str, Any], bars: "_Bars") -> list[str]:
    pair = _Pair(options, bars)
    connection = ls.Connection.load(pair.out)
    if connection is None:
        raise UsageError(f"{pair.out} has no connect.json: run `dirprune landscape connect` first")
    states = [run.model.state_dict() for run in (pair.grda, pair.sgd)]
    for name, state in zip(("first", "last"), states, strict=True):
        if connection.request[name] != pair.objective.digest(state):
            raise UsageError(f"{pair.out / 'connect.json'} connects other networks than these two")
    ends = pair.objective.vector(states[0]), pair.objective.vector(states[1])
    curve = connection.request["curve"]
    path = torch.stack([ls.point_on_curve(curve, ends, connection.bends, t) for t in connection.t])
    points = ends[0], connection.bends[len(connection.bends) // 2], ends[1]
    result = ls.keep(
        ls.Plane,
        pair.out,
        ls.plane_request(pair.objective, points, options.settings, path),
        environment,
        lambda store: ls.measure_plane(
            pair.objective, points, options.settings, path=path, store=store, progress=bars
        ),
    )
    losses = zip(("gRDA", "bend", "SGD"), result.at_points.train_loss, strict=True)
    return [_written(pair.out, result), *(f"training loss at {name}: {loss:.4g}" for name, loss in losses)]


def _project(options: ProjectOptions, environment: dict[str, Any], bars: "_Bars") -> list[str]:
    pair = _Pair(options, bars)
    epochs = tuple(epoch for epoch in pair.epochs() if epoch > 0)
    if options.epochs:
        missing = sorted(set(options.epochs) - set(epochs))
        if missing:
            raise UsageError(f"no snapshot of both runs at epoch {missing[0]}; there are: {epochs}")
        epochs = tuple(sorted(options.epochs))
    result = ls.keep(
        ls.ProjectionSeries,
        pair.out,
        ls.projection_request(pair.objective, epochs, options.settings),
        environment,
        lambda store: ls.project(
            pair.objective, epochs, pair.load, options.settings, store=store, progress=bars
        ),
    )
    return [
        _written(pair.out, result),
        f"a random direction: {result.by_chance:.4g}",
        *(
            f"epoch {s.epoch}: fraction {s.fraction:.4g}, distance {s.distance:.4g}, eigenvalues "
            f"{s.values[0]:.3g} to {s.values[-1]:.3g}, {s.products} Hessian products"
            for s in result.steps
            if s.fraction is not None
        ),
    ]


def _norms(options: NormsOptions, environment: dict[str, Any], bars: "_Bars") -> list[str]:
    pair = _Pair(options, bars)
    epochs = pair.epochs()
    if not epochs:
        raise UsageError("no epoch has a snapshot of both runs: train both with --snapshots")
    result = ls.norm_series(pair.objective, epochs, pair.load, progress=bars)
    result.save(pair.out, environment)
    rows = zip(result.epochs, result.sgd, result.grda, strict=True)
    return [
        _written(pair.out, result),
        *(f"epoch {e}: |w|2/|w|1 SGD {sgd.ratio:.4g}, gRDA {grda.ratio:.4g}" for e, sgd, grda in rows),
    ]


def _directional(options: DirectionalOptions, environment: dict[str, Any], bars: "_Bars") -> list[str]:
    run = _open(options.run, options)
    objective = _objective(run, options)
    out = options.out or options.run / "landscape"
    state = run.model.state_dict()
    pairs = ls.keep(
        ls.Eigenpairs,
        out,
        ls.eigen_request(objective, state, options.eigen),
        environment,
        lambda _: ls.top_eigenpairs(objective, state, options.eigen, progress=bars),
    )
    result = ls.keep(
        ls.OneShot,
        out,
        ls.oneshot_request(objective, state, options.settings, options.eigen),
        environment,
        lambda store: ls.prune_in_one_shot(
            objective, state, pairs, options.settings, store=store, progress=bars
        ),
    )
    rows = zip(
        result.sparsities,
        result.strengths,
        result.directional.train_loss,
        result.soft.train_loss,
        result.magnitude.train_loss,
        strict=True,
    )
    return [
        _written(out, result),
        f"training loss before {result.dense.train_loss[0]:.4g}; mean score {result.mean_score:.4f}",
        *(
            f"sparsity {100 * sparsity:.1f} %: directional {d:.4g} (lambda {strength:.3g}), "
            f"soft threshold {s:.4g}, magnitude {m:.4g}"
            for sparsity, strength, d, s, m in rows
        ),
    ]


Topic = tuple[type[Any], Callable[[Any, dict[str, Any], "_Bars"], list[str]]]
TOPICS: dict[str, Topic] = {
    "connect": (ConnectOptions, _connect),
    "plane": (PlaneOptions, _plane),
    "project": (ProjectOptions, _project),
    "norms": (NormsOptions, _norms),
    "directional": (DirectionalOptions, _directional),
}

# -- runs ----------------------------------------------------------------------------------------------


class _Pair:
    """An SGD run and its gRDA twin."""

    def __init__(self, options: PairOptions, bars: "_Bars") -> None:
        sgd, grda = (run_config(RunFolder(path)) for path in (options.run_sgd, options.run_grda))
        pruning = {key: getattr(grda, key) for key in ("method", "c", "mu", "penalty", "prune")}
        held = {**asdict(sgd), **pruning}
        differing = [key for key, value in asdict(grda).items() if held[key] != value]
        if differing:
            raise UsageError(f"the two runs are no twins: they differ in {', '.join(differing)}")
        self.sgd = _open(options.run_sgd, options)
        self.grda = _open(options.run_grda, options)
        starts = [(run.folder.result() or {}).get("initial_weights") for run in (self.sgd, self.grda)]
        if starts[0] != starts[1]:
            bars.say(f"note: the runs started from different weights ({starts[0]} and {starts[1]})")
        self.objective = _objective(self.grda, options)
        self.out = options.out or options.run_grda / "landscape"

    def epochs(self) -> tuple[int, ...]:
        """Epochs of which both runs have kept the weights."""
        return tuple(sorted(set(self.sgd.folder.snapshots()) & set(self.grda.folder.snapshots())))

    def load(self, epoch: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Read both networks after an epoch."""
        return self.sgd.snapshot(epoch), self.grda.snapshot(epoch)


def _open(path: Path, options: Common) -> TrainedRun:
    folder = RunFolder(path)
    run = reopen(folder, load_dataset(run_config(folder).dataset, options.data_dir))
    training, measured = (
        Split(split.images[: options.images], split.labels[: options.images])
        for split in (run.training, run.measured)
    )
    return replace(run, training=training, measured=measured)


def _objective(run: TrainedRun, options: Common) -> ls.Objective:
    train, test = (
        EvaluationData(split, run.augmentation, options.batch) for split in (run.training, run.measured)
    )
    return ls.Objective(run.model, nn.CrossEntropyLoss(), train, test)


# -- what the user sees --------------------------------------------------------------------------------


class _Bars:
    """A bar for each stage, with the time left where the end is known; lines in between."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._tasks: dict[str, TaskID] = {}
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeLeft(),
            console=console,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> "_Bars":
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def __call__(self, stage: str, done: int, total: int | None) -> None:
        """Move the bar of a stage."""
        if stage not in self._tasks:
            self._tasks[stage] = self._progress.add_task(stage, total=total)
        self._progress.update(self._tasks[stage], completed=done, total=total)

    def say(self, line: str) -> None:
        """Print a line above the bars."""
        self._console.print(line, soft_wrap=True, highlight=False, markup=False)


def _written(folder: Path, result: ls.Result) -> str:
    return f"result: {folder / (result.kind + '.json')}"


def _usage() -> str:
    lines = "".join(
        f"  dirprune landscape {name:12} {(kind.__doc__ or '').splitlines()[0]}\n"
        for name, (kind, _) in TOPICS.items()
    )
    return (
        f"usage: dirprune landscape TOPIC RUN_SGD RUN_GRDA [OPTIONS]\n\n{lines}\n"
        "  dirprune landscape TOPIC --help  the options of a topic\n"
        "  Work that is stopped goes on with the same command; what is done is not done again.\n"
    )
