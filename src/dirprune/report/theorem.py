# ruff: noqa: RUF001 - letters and signs of formulas
"""The section of the page on the theorem: gRDA beside the directional pruning of its SGD twin."""

import math
from pathlib import Path

from dirprune.landscape import Theorem
from dirprune.report import wording
from dirprune.report.landscape_figures import Line, draw_lines
from dirprune.report.sections import Figure, Section, Table, evidence_of

_NO_LEGEND = "_"
_DASH = (4.0, 1.6)
_HEAD = ("γ, t", "λ", "loss SGD", "loss gRDA", "zeros gRDA, %", "zeros v, %", "overlap", "soft", "signs",
         "distance", "soft", "in time", "correlation", "in time")  # fmt: skip


def theorem_section(folder: Path) -> Section:
    """Show the check of the theorem that lies in a folder."""
    result = Theorem.load(folder)
    assert result is not None
    rates = dict.fromkeys(row.rate for row in result.rows)
    charts = (
        ("distance", "Distance from directional pruning", "|w(gRDA) − v| / |w(gRDA) − w(SGD)|",
         "0 where the theorem holds exactly, 1 where v is no closer than w(SGD) itself. Dashed: with the "
         "scores that a finite time leads to where the loss is a quadratic."),
        ("overlap", "Overlap of the zeros", "zeros of both / of either",
         "1 where the same weights are zero."),
        ("correlation", "Effective scores and s", "correlation",
         "Between (|w(SGD)| − sign(w(SGD)) w(gRDA)) / λ and the direction scores s, over the weights that "
         "gRDA keeps. Dashed: with the scores of a finite time."),
    )  # fmt: skip
    figures = []
    for name, title, unit, meaning in charts:
        lines = []
        for index, rate in enumerate(rates):
            rows = [row for row in result.rows if row.rate == rate and math.isfinite(getattr(row, name))]
            x, colour = [row.time for row in rows], 1 + index % 6
            lines.append(Line(f"γ = {rate:g}", x, [getattr(row, name) for row in rows], colour, marker="o"))
            if name != "overlap":
                finite = [getattr(row, f"{name}_finite") for row in rows]
                lines.append(Line(_NO_LEGEND, x, finite, colour, _DASH))
        svg = draw_lines(
            lines,
            name=f"{folder.name}-{name}",
            xlabel="t = nγ",
            ylabel=unit,
            logarithmic_x=True,
            from_zero=all(y >= 0 for line in lines for y in line.y),
        )
        figures.append(
            Figure(title, meaning, f"{title} over time, one line for each learning rate. {meaning}", svg)
        )
    cells = tuple(
        (
            f"{r.rate:g}, {r.time:g}",
            f"{r.strength:.3g}",
            wording.loss(r.loss_sgd),
            wording.loss(r.loss_grda),
            f"{100 * r.zeros_grda:.1f}",
            f"{100 * r.zeros_directional:.1f}",
            f"{r.overlap:.3f}",
            f"{r.overlap_plain:.3f}",
            f"{r.signs:.3f}",
            f"{r.distance:.3f}",
            f"{r.distance_plain:.3f}",
            f"{r.distance_finite:.3f}",
            f"{r.correlation:.3f}",
            f"{r.correlation_finite:.3f}",
        )
        for r in result.rows
    )
    table = Table(
        "gRDA beside the directional pruning v of its SGD twin",
        "λ is gRDA’s threshold, c γ^½ t^μ. An eigenvalue counts as zero below 1/t. “Soft” is the column "
        "before it for the soft threshold of w(SGD), which knows no directions; “in time” is it with the "
        "scores of a finite time, which spare a direction by degrees, not by that cut. Signs: fraction "
        "that agrees where neither is zero.",
        _HEAD,
        cells,
    )
    smallest = min(rates)
    last = [row for row in result.rows if row.rate == smallest][-1]
    return Section(
        f"The theorem, checked: {folder.name}",
        "For small learning rates γ and large t = nγ, gRDA is to approach the directional pruning of SGD’s "
        f"weights. At the smallest γ = {smallest:g} and t = {last.time:g} the distance is "
        f"{last.distance:.2f}, against {last.distance_plain:.2f} for a soft threshold without directions.",
        tuple(figures),
        (table,),
        evidence_of(folder, result),
    )
