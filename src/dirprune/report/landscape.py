# ruff: noqa: RUF001 - letters and signs of formulas
"""The sections of the page on the landscape: what `dirprune landscape` has left beside the runs."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dirprune.landscape import (
    Connection,
    Norms,
    NormSeries,
    OneShot,
    Plane,
    ProjectionSeries,
    Result,
    Values,
    barrier,
)
from dirprune.report import wording
from dirprune.report.landscape_figures import Ground, Line, draw_ground, draw_lines
from dirprune.report.sections import Figure, Section, Table, evidence_of, named_if_damaged
from dirprune.report.theorem import theorem_section
from dirprune.runs import find_runs

_TEST = (4.0, 1.6)
_CHANCE = (1.5, 1.5)
_IN_PLANE = 1e-3  # of the plane's extent; rounding leaves a curve that is in the plane far below it


def landscape_sections(folder: Path) -> list[Section]:
    """Read what has been found out about the landscape of an experiment.

    Args:
        folder: A run folder, or a folder of run folders, which hold results in `landscape/`; checks of the
            theorem are in `landscape/NAME/` of the experiment itself.

    Returns:
        One section for each run with results, one for each check of the theorem.

    Raises:
        RunFolderError: A result is damaged.
    """
    sections = [
        section
        for run in find_runs(folder)
        if (section := run_section(run.path.name, run.path / "landscape"))
    ]
    for path in sorted(folder.glob("landscape/*/theorem.json")):
        with named_if_damaged(path):
            sections.append(theorem_section(path.parent))
    return sections


def run_section(name: str, folder: Path) -> Section | None:
    """Show the results that lie in one folder.

    Args:
        name: Of the run.
        folder: What `dirprune landscape` wrote to.

    Returns:
        The section; None if there are no results.

    Raises:
        RunFolderError: A result is damaged.
    """
    figures: list[Figure] = []
    tables: list[Table] = []
    evidence: dict[str, str] = {}
    for kind, draw in _FIGURES:
        with named_if_damaged(folder / f"{kind.kind}.json"):
            result = kind.load(folder)
            if result is None:
                continue
            figures += draw(name, result)
            if isinstance(result, NormSeries):
                tables.append(_norm_table(result))
            evidence |= evidence_of(folder, result)
    if not evidence:
        return None
    return Section(
        f"The landscape of the loss: {name}",
        "Does the sparse network lie in the valley of its dense twin? Loss is mean cross-entropy in nats, of "
        "networks in evaluation mode, on images without augmentation.",
        tuple(figures),
        tuple(tables),
        evidence,
    )


# -- figures -------------------------------------------------------------------------------------------


def _connection_figures(name: str, result: Connection) -> list[Figure]:
    figures = []
    for what, unit, scale in (("loss", "loss, nats", 1.0), ("error", "error, %", 100.0)):
        lines = [
            Line(f"{path}, {split}", result.t, [scale * y for y in values], colour, dash)
            for path, measured, colour in (("curve", result.curve, 1), ("straight line", result.line, 0))
            for split, dash in (("train", ()), ("test", _TEST))
            if (values := _pick(measured, f"{split}_{what}"))
        ]
        if not lines:
            continue
        logarithmic = what == "loss" and all(y > 0 for line in lines for y in line.y)
        svg = draw_lines(
            lines,
            name=f"{name}-connect-{what}",
            xlabel="t: gRDA at 0, SGD at 1",
            ylabel=unit,
            logarithmic=logarithmic,
        )
        caption = (
            _barrier_words(result, what, scale)
            + _trained_on(result)
            + ("" if result.converged else _UNSETTLED)
        )
        title = f"{what.capitalize()} from gRDA to SGD"
        figures.append(Figure(title, caption, f"{title}, along a trained curve and straight. {caption}", svg))
    return figures


def _trained_on(result: Connection) -> str:
    """Say on how many images the curve was trained, and on how many it is measured."""
    trained_on, measured = result.request.get("trained_on"), result.request["data"]["train"]["samples"]
    if not isinstance(trained_on, dict) or "samples" not in trained_on:
        return f" Curve trained and measured on the same {measured:,} training images."
    samples = trained_on["samples"]
    return f" Curve trained on {samples:,} training images, measured on {measured:,} of them."


_UNSETTLED = " The curve's loss had not settled when its training ended."


def _barrier_words(result: Connection, what: str, scale: float) -> str:
    unit = "nats" if what == "loss" else "points"
    parts, ends = [], []
    for split in ("train", "test"):
        heights = [
            barrier(result.t, values)
            for measured in (result.curve, result.line)
            if (values := _pick(measured, f"{split}_{what}"))
        ]
        if heights:
            split_name = "training" if split == "train" else "test"
            curve, line = (_number(scale * each.height) for each in heights)
            parts.append(f"{split_name} {curve} on the curve, {line} on the straight line")
            curve, line = (
                f"{_number(scale * each.above_first)} and {_number(scale * each.above_last)}"
                for each in heights
            )
            ends.append(f"{split_name} {curve} on the curve, {line} on the straight line")
    return (
        f"Barrier, the greatest value above the higher end, in {unit}: {'; '.join(parts)}. "
        f"Above gRDA and above SGD: {'; '.join(ends)}."
    )


def _number(value: float) -> str:
    return f"{value:.3g}" if math.isfinite(value) else "not finite"


def _loss(value: float) -> str:
    return wording.loss(value) if math.isfinite(value) else "not finite"


def _plane_figures(name: str, result: Plane) -> list[Figure]:
    figures = []
    labels = ("gRDA", "bend", "SGD")
    for split, words in (("train", "training"), ("test", "test")):
        values, at = _pick(result.grid, f"{split}_loss"), _pick(result.at_points, f"{split}_loss")
        if not values:
            continue
        points = [(label, x, y) for label, (x, y) in zip(labels, result.points, strict=True)]
        svg = draw_ground(
            Ground(result.x, result.y, values, points, result.path),
            name=f"{name}-plane-{split}",
            unit="distance",
        )
        ends = ", ".join(f"{label} {_loss(y)}" for label, y in zip(labels, at, strict=True))
        title = f"{words.capitalize()} loss on the plane through both networks and the bend"
        caption = (
            f"In nats, contours at equal ratios, stronger colour is higher; the highest tenth is one shade. "
            f"{_drawn(result)} At the points: {ends}.{_measured_on(result, split)}"
        )
        figures.append(Figure(title, caption, f"{title}. {caption}", svg))
    return figures


def _drawn(result: Plane) -> str:
    """Say whether the line on the plane is the curve, or only its projection."""
    line = "The line is the trained curve"
    if result.outside is None:
        return f"{line}, projected onto the plane."
    if result.outside <= _IN_PLANE * max(result.x[-1] - result.x[0], result.y[-1] - result.y[0]):
        return f"{line}."
    return f"{line}, projected: it lies up to {_number(result.outside)} away from the plane."


def _measured_on(result: Result, split: str) -> str:
    """Say on how many images, where the record has it."""
    samples = result.request.get("data", {}).get(split, {}).get("samples")
    words = {"train": "training", "test": "test"}[split]
    return "" if samples is None else f" Measured on {samples:,} {words} images."


def _projection_figures(name: str, result: ProjectionSeries) -> list[Figure]:
    known = [(step.epoch, step.fraction) for step in result.steps if step.fraction is not None]
    if not known:
        return []
    epochs, fractions = zip(*known, strict=True)
    k = result.request["k"]
    svg = draw_lines(
        [
            Line("gRDA − SGD", epochs, [100 * f for f in fractions], 1, marker="o"),
            Line("a random direction", epochs, [100 * result.by_chance] * len(epochs), 0, _CHANCE),
        ],
        name=f"{name}-project",
        xlabel="epoch",
        ylabel="length within the subspace, %",
        from_zero=True,
    )
    last = result.steps[-1]
    caption = (
        f"|UᵀΔ| / |Δ| for Δ = w(gRDA) − w(SGD), U the top {k} Hessian eigenvectors of the training loss at "
        f"w(SGD). At the last epoch {100 * fractions[-1]:.2g} %, |Δ| = {last.distance:.3g}, sparsity "
        f"{wording.percent(last.sparsity, 1)} %, eigenvalues {last.values[0]:.3g} to {last.values[-1]:.3g}."
        f"{_measured_on(result, 'train')}"
    )
    title = "How much of the difference lies in the sharpest directions"
    return [Figure(title, caption, f"{title}. {caption}", svg)]


def _norm_figures(name: str, result: NormSeries) -> list[Figure]:
    def line(label: str, norms: Sequence[Norms], colour: int) -> Line:
        return Line(label, result.epochs, [n.ratio for n in norms], colour, marker="o")

    svg = draw_lines(
        [line("gRDA", result.grda, 1), line("SGD", result.sgd, 0)],
        name=f"{name}-norms",
        xlabel="epoch",
        ylabel="|w|₂ / |w|₁",
        logarithmic=True,
    )
    dense, sparse = result.sgd[-1], result.grda[-1]
    caption = (
        f"The ratio grows as the weights get sparse. At the last epoch: SGD {dense.ratio:.3g} "
        f"(|w|₁ {dense.l1:.4g}, |w|₂ {dense.l2:.4g}), gRDA {sparse.ratio:.3g} "
        f"(|w|₁ {sparse.l1:.4g}, |w|₂ {sparse.l2:.4g}, {sparse.l0:,} weights that are not zero)."
    )
    return [Figure("Norm ratio", caption, f"Norm ratio for each epoch. {caption}", svg)]


def _norm_table(result: NormSeries) -> Table:
    rows = (
        (f"{epoch}", *(word for norms in pair for word in _norm_words(norms)))
        for epoch, *pair in zip(result.epochs, result.sgd, result.grda, strict=True)
    )
    names = ("|w|₀", "|w|₁", "|w|₂", "|w|₂ / |w|₁")
    head = ("epoch", *(f"{run} {norm}" for run in ("SGD", "gRDA") for norm in names))
    return Table(
        "Norms of the weights", "|w|₀ is the number of weights that are not zero.", head, tuple(rows)
    )


def _norm_words(norms: Norms) -> tuple[str, ...]:
    return f"{norms.l0:,}", f"{norms.l1:.4g}", f"{norms.l2:.4g}", f"{norms.ratio:.3g}"


def _oneshot_figures(name: str, result: OneShot) -> list[Figure]:
    x = [100 * sparsity for sparsity in result.sparsities]
    order = sorted(range(len(x)), key=x.__getitem__)
    ways = (
        ("directional", result.directional, 1),
        ("soft threshold", result.soft, 2),
        ("magnitude", result.magnitude, 0),
    )
    k = result.request["k"]
    figures = []
    for split, words in (("train", "Training"), ("test", "Test")):
        before = _pick(result.dense, f"{split}_loss")
        if not before:
            continue
        lines = []
        for label, values, colour in ways:
            losses = _pick(values, f"{split}_loss")
            lines.append(Line(label, [x[i] for i in order], [losses[i] for i in order], colour, marker="o"))
        lines.append(Line("before", [min(x), max(x)], before * 2, 3, _CHANCE))
        twin = _pick(result.twin.measured, f"{split}_loss") if result.twin else ()
        if result.twin and twin:
            lines.append(Line("gRDA", [100 * result.twin.sparsity], twin, 4, marker="D"))
        svg = draw_lines(
            lines,
            name=f"{name}-directional-{split}",
            xlabel="sparsity, %",
            ylabel="loss, nats",
            logarithmic=True,
        )
        caption = (
            f"Definition 1.1 in one shot, no retraining: scores from the top {k} Hessian eigenvectors (mean "
            f"score {result.mean_score:.3f}). The soft threshold is the same without directions; magnitude "
            f"pruning keeps what it leaves at its value. Before: {_loss(before[0])}."
        )
        if result.twin and twin:
            zeros = wording.percent(result.twin.sparsity, 1)
            caption += f" gRDA, trained to {zeros} % sparsity: {_loss(twin[0])}."
        caption += _measured_on(result, split)
        title = f"{words} loss after one-shot pruning"
        figures.append(Figure(title, caption, f"{title}. {caption}", svg))
    return figures


def _pick(values: Values, name: str) -> tuple[float, ...]:
    """Return one of the four lists of numbers."""
    picked: tuple[float, ...] = getattr(values, name)
    return picked


_FIGURES: tuple[tuple[type[Result], Callable[[str, Any], list[Figure]]], ...] = (
    (Connection, _connection_figures),
    (Plane, _plane_figures),
    (ProjectionSeries, _projection_figures),
    (NormSeries, _norm_figures),
    (OneShot, _oneshot_figures),
)
