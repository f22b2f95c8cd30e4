"""`dirprune landscape connect|plane|project|norms|directional`: where the sparse network lies."""

import shlex
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from rich.console import Console

from dirprune import landscape as ls
from dirprune.cli.arguments import at_least_one, in_a_folder, parse
from dirprune.cli.bars import StageBars
from dirprune.cli.train import TrainOptions
from dirprune.cli.twins import Common, Pair, PairOptions, first_of, objective_of, open_run
from dirprune.errors import UsageError, unknown
from dirprune.export import save_sparse
from dirprune.train import describe_environment

Arguments = list[str]


@dataclass(frozen=True, kw_only=True)
class ConnectOptions(PairOptions):
    """Train a curve from gRDA to SGD and measure the loss along it."""

    settings: ls.CurveSettings = field(default_factory=ls.CurveSettings)
    bend_images: int | None = None
    """Train the bends on only the first so many training images; default: all, whatever --images says. Where
    they are few, the bends fit them, and the curve is low on these images alone."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(bend_images=self.bend_images)


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
    run_grda: Annotated[tyro.conf.Positional[Path | None], tyro.conf.arg(metavar="RUN_GRDA")] = None
    """Folder of its gRDA twin, to be measured beside it."""
    eigen: ls.EigenSettings = field(default_factory=ls.EigenSettings)
    settings: ls.OneShotSettings = field(default_factory=ls.OneShotSettings)
    save: Path | None = None
    """Write the pruned network, of the one sparsity or strength that is asked for, as a sparse file."""

    def __post_init__(self) -> None:
        super().__post_init__()
        in_a_folder(save=self.save)
        asked = len(self.settings.sparsities) + len(self.settings.strengths)
        if self.save and asked != 1:
            raise UsageError(f"--save needs one of --sparsities and --strengths; they name {asked} networks")


def landscape(arguments: Arguments) -> int:
    """Run the command; returns the exit code."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_usage(), end="")
        return 0 if arguments else 2
    name, *rest = arguments
    if name not in TOPICS:
        raise UsageError(unknown("topic", name, TOPICS))
    kind, run = TOPICS[name]
    options = parse(kind, rest, prog=f"dirprune landscape {name}", before=TrainOptions)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    command = shlex.join(["dirprune", "landscape", *arguments])
    with StageBars(Console()) as bars:
        for line in run(options, describe_environment(command), bars):
            bars.say(line)
    return 0


# -- topics --------------------------------------------------------------------------------------------


def _connect(options: ConnectOptions, environment: dict[str, Any], bars: StageBars) -> list[str]:
    pair = Pair(options, options.run_sgd, options.run_grda, bars)
    first, last = pair.grda.model.state_dict(), pair.sgd.model.state_dict()
    run = replace(pair.grda, training=first_of(pair.grda.training, options.bend_images))
    trained_on = run.training_data()
    result = ls.keep(
        ls.Connection,
        pair.out,
        ls.connection_request(pair.objective, first, last, options.settings, trained_on),
        environment,
        lambda store: ls.connect(
            pair.objective,
            first,
            last,
            options.settings,
            batches=run.shuffled,
            trained_on=trained_on,
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
                    f"t = {b.at:.2f}, SGD {losses[-1]:.4g}; barrier {b.height:.4g} "
                    f"(above gRDA {b.above_first:.4g}, above SGD {b.above_last:.4g})"
                )
    return lines


def _plane(options: PlaneOptions, environment: dict[str, Any], bars: StageBars) -> list[str]:
    pair = Pair(options, options.run_sgd, options.run_grda, bars)
    held = next((at for at in (pair.out, pair.beside_run) if (at / "connect.json").is_file()), pair.out)
    connection = ls.Connection.load(held)
    if connection is None:
        raise UsageError(f"{pair.out} has no connect.json: run `dirprune landscape connect` first")
    states = [run.model.state_dict() for run in (pair.grda, pair.sgd)]
    for name, state in zip(("first", "last"), states, strict=True):
        if connection.request[name] != pair.objective.digest(state):
            raise UsageError(f"{held / 'connect.json'} connects other networks than these two")
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


def _project(options: ProjectOptions, environment: dict[str, Any], bars: StageBars) -> list[str]:
    pair = Pair(options, options.run_sgd, options.run_grda, bars)
    epochs = tuple(epoch for epoch in pair.epochs() if epoch > 0)
    if options.epochs:
        missing = sorted(set(options.epochs) - set(epochs))
        if missing:
            raise UsageError(f"no snapshot of both runs at epoch {missing[0]}; there are: {epochs}")
        epochs = tuple(sorted(options.epochs))
    result = ls.keep(
        ls.ProjectionSeries,
        pair.out,
        ls.projection_request(pair.objective, epochs, pair.load, options.settings),
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


def _norms(options: NormsOptions, environment: dict[str, Any], bars: StageBars) -> list[str]:
    pair = Pair(options, options.run_sgd, options.run_grda, bars)
    epochs = pair.epochs()
    if not epochs:
        raise UsageError("no epoch has a snapshot of both runs: train both with --snapshots from the start")
    result = ls.norm_series(pair.objective, epochs, pair.load, progress=bars)
    result.save(pair.out, environment)
    rows = zip(result.epochs, result.sgd, result.grda, strict=True)
    return [
        _written(pair.out, result),
        *(f"epoch {e}: SGD {_norm_words(sgd)}; gRDA {_norm_words(grda)}" for e, sgd, grda in rows),
    ]


def _norm_words(norms: ls.Norms) -> str:
    named = f"|w|0 {norms.l0}, |w|1 {norms.l1:.4g}, |w|2 {norms.l2:.4g}"
    return f"{named}, |w|2/|w|1 {norms.ratio:.4g}"


def _directional(options: DirectionalOptions, environment: dict[str, Any], bars: StageBars) -> list[str]:
    twin = None
    if options.run_grda is None:
        run = open_run(options.run, options)
        objective, out = objective_of(run, options), options.out or options.run / "landscape"
    else:
        pair = Pair(options, options.run, options.run_grda, bars)
        run, objective, out, twin = pair.sgd, pair.objective, pair.out, pair.grda.model.state_dict()
    state = run.model.state_dict()
    pairs = ls.keep(
        ls.Eigenpairs,
        out,
        ls.eigen_request(objective, state, options.eigen),
        environment,
        lambda store: ls.top_eigenpairs(objective, state, options.eigen, store=store, progress=bars),
    )
    result = ls.keep(
        ls.OneShot,
        out,
        ls.oneshot_request(objective, state, options.settings, options.eigen, twin),
        environment,
        lambda store: ls.prune_in_one_shot(
            objective, state, pairs, options.settings, twin=twin, store=store, progress=bars
        ),
    )
    more = []
    if result.twin:
        loss, zeros = result.twin.measured.train_loss[0], 100 * result.twin.sparsity
        more.append(f"sparsity {zeros:.1f} %: gRDA itself {loss:.4g}")
    if options.save:
        pruned, _ = ls.directional_prune(
            state, pairs.vectors, strength=result.strengths[0], names=tuple(objective.shapes)
        )
        written = save_sparse({**pruned, **objective.with_statistics(pruned)}, options.save)
        more.append(f"pruned network: {written.path}")
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
        *more,
    ]


Topic = tuple[type[Any], Callable[[Any, dict[str, Any], StageBars], list[str]]]
TOPICS: dict[str, Topic] = {
    "connect": (ConnectOptions, _connect),
    "plane": (PlaneOptions, _plane),
    "project": (ProjectOptions, _project),
    "norms": (NormsOptions, _norms),
    "directional": (DirectionalOptions, _directional),
}

# -- what the user sees --------------------------------------------------------------------------------


def _written(folder: Path, result: ls.Result) -> str:
    return f"result: {folder / (result.kind + '.json')}"


def _usage() -> str:
    lines = "".join(
        f"  dirprune landscape {name:12} {(kind.__doc__ or '').splitlines()[0]}\n"
        for name, (kind, _) in TOPICS.items()
    )
    return (
        "usage: dirprune landscape TOPIC RUN_SGD RUN_GRDA [OPTIONS]   (directional: one RUN is enough)\n\n"
        f"{lines}\n"
        "  dirprune landscape TOPIC --help  the options of a topic\n"
        "  Work that is stopped goes on with the same command; what is done is not done again.\n"
    )
