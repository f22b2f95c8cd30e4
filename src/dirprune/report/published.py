"""What others published for ResNet50 on ImageNet, as data and as a figure with every budget stated."""

import json
from dataclasses import dataclass
from importlib import resources

from matplotlib.figure import Figure

_MARKERS = "osD^v<>PXp*d"
_GREY = "#8a8a8a"
_FLOOR = 57.0
"""Accuracy in % below which a point is told in words, so that the curves above can be told apart."""


@dataclass(frozen=True)
class PublishedCurve:
    """Accuracies of one method at several sparsities, from one source.

    Attributes:
        method: Name, with the variant.
        family: Curves of one family share a colour.
        needs_target: Whether the final sparsity has to be given in advance.
        epochs: Length of training; None where the source does not say.
        budget: The same and what else differs, in words.
        dense: Top-1 accuracy of the source's own dense network, in %; None where it was not at hand.
        source: Authors, year, title, arXiv number.
        points: Pairs (sparsity, top-1 accuracy), both in %, by sparsity.
    """

    method: str
    family: str
    needs_target: bool
    epochs: int | None
    budget: str
    dense: float | None
    source: str
    points: tuple[tuple[float, float], ...]


def published_curves() -> tuple[PublishedCurve, ...]:
    """Read the published numbers that come with the package.

    Example:
        >>> {curve.method: curve.points[0] for curve in published_curves()}["ST-3"]
        (80.0, 76.95)
    """
    text = resources.files("dirprune.report").joinpath("published.json").read_text(encoding="utf-8")
    curves = []
    for entry in json.loads(text)["curves"]:
        points = tuple((float(sparsity), float(top1)) for sparsity, top1 in entry.pop("points"))
        curves.append(PublishedCurve(**entry, points=points))
    return tuple(curves)


def draw_published() -> Figure:
    """Draw accuracy against sparsity, as figure 4 of the gRDA paper, with today's methods beside it.

    gRDA is in front; methods that need no target have full lines, the others broken ones. The legend states
    what each was given, and its source's dense accuracy: the curves are no race on equal terms.

    Returns:
        A figure, to be saved in any format.

    Example:
        >>> [text.get_text() for text in draw_published().axes[0].get_legend().get_texts()][0]
        'gRDA, one drop: about 150 epochs, rate dropped after 140, no momentum, no weight decay, best epoch'
    """
    from matplotlib import colormaps

    curves = published_curves()
    families = [f for f in dict.fromkeys(curve.family for curve in curves) if f != "gRDA"]
    colours = {family: colormaps["Dark2"](i) for i, family in enumerate(families)}
    figure = Figure((9.5, 8.0), layout="constrained")
    axes = figure.add_subplot()
    for marker, curve in zip(_MARKERS, curves, strict=True):
        ours = curve.family == "gRDA"
        axes.plot(
            *zip(*curve.points, strict=True),
            label=f"{curve.method}: {curve.budget}"
            + ("" if curve.dense is None else f"; dense {curve.dense:g} %"),
            color="black" if ours else colours[curve.family],
            ls="-" if not curve.needs_target else "--",
            lw=2.2 if ours else 1.2,
            marker=marker,
            ms=6 if ours else 5,
            zorder=3 if ours else 2,
        )
    axes.set_xlabel("sparsity in % (full lines: no target is given in advance)")
    axes.set_ylabel("top-1 accuracy in %")
    axes.set_title("ResNet50 on ImageNet, as published; budgets differ")
    axes.set_ylim(bottom=_FLOOR)
    box = {"facecolor": axes.get_facecolor(), "edgecolor": "none", "pad": 2}
    for curve in curves:
        for x, y in curve.points:
            if y < _FLOOR:
                said = f"{curve.method}: {y:g} % at {x:g} %, below this figure"
                axes.annotate(
                    said, (x, _FLOOR), (0, 5), textcoords="offset points", ha="right", fontsize=8, bbox=box
                )
    axes.grid(color=_GREY, alpha=0.25)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.09), fontsize=8, frameon=False)
    return figure
