"""Lines and contours of the landscape, as SVG that takes its colours from the page."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator
from matplotlib.transforms import Affine2D, Transform

from dirprune.report.figures import INCHES, INK, LINE_WIDTH, PAPER, RULE, placeholder, power_of_ten, to_svg
from dirprune.report.landscape_labels import Box, free_place

_PLANE_BORDERS = (0.6, 0.5)  # inches left of and below the plane
_LEVELS = 11
_HIGHEST = 0.75  # opacity of the highest ground
_CLIPPED = 0.9  # quantile of the grid above which all is drawn as one
_VALLEY = 3  # colour of the ground
_BESIDE = (6, 5)  # points from a point to its name
_LETTER_WIDTH = 6.2  # points, of a name; bold sans-serif of 9 points
_VALUE_WIDTH = 4.5  # points, of a letter of a contour's value
_HALO = "stroke: var(--paper); stroke-width: 3; stroke-linejoin: round; paint-order: stroke"

Grid = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


@dataclass(frozen=True)
class Line:
    """A curve: its name in the legend, points, colour number, dash pattern in points, mark at the points."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    colour: int
    dash: tuple[float, ...] = ()
    marker: str = ""


@dataclass(frozen=True)
class Ground:
    """Values on a grid, row by row upwards, with named points and a path on it."""

    x: Sequence[float]
    y: Sequence[float]
    values: Sequence[float]
    points: Sequence[tuple[str, float, float]]
    path: Sequence[tuple[float, float]]


def draw_lines(
    lines: Sequence[Line],
    *,
    name: str,
    xlabel: str,
    ylabel: str,
    logarithmic: bool = False,
    logarithmic_x: bool = False,
    from_zero: bool = False,
) -> str:
    """Draw curves over one axis.

    Args:
        lines: At least one, with finite values.
        name: Of the figure; different figures of a page have different names.
        xlabel: Quantity and unit.
        ylabel: Quantity and unit.
        logarithmic: Whether the y axis is; values that are not positive are left out then.
        logarithmic_x: Whether the x axis is.
        from_zero: Whether the y axis starts at zero.

    Returns:
        The SVG.
    """
    with style.context(["default", {"svg.fonttype": "none", "svg.hashsalt": name}]):
        figure = Figure(INCHES)
        axes = figure.add_axes((0.15, 0.16, 0.83, 0.8))
        for line in lines:
            axes.plot(
                line.x,
                line.y,
                color=placeholder(line.colour),
                ls=(0, line.dash) if line.dash else "-",
                lw=LINE_WIDTH,
                marker=line.marker,
                ms=3.5,
                label=line.label,
            )
        _dress(axes, xlabel, ylabel)
        axes.grid(axis="y", color=RULE, linewidth=0.6)
        if logarithmic_x:
            axes.set_xscale("log")
            axes.xaxis.set_minor_locator(NullLocator())
            ticks = sorted({x for line in lines for x in line.x})
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        if logarithmic:
            _logarithmic(axes, [y for line in lines for y in line.y if y > 0])
        elif from_zero:
            axes.set_ylim(bottom=0)
        if lines:
            axes.legend(
                facecolor=PAPER,  # no rule runs through a name
                edgecolor="none",
                framealpha=1,
                labelcolor=INK,
                fontsize=8,
                handlelength=2.6,
                borderaxespad=0.2,
            )
        return to_svg(figure)


def draw_ground(ground: Ground, *, name: str, unit: str) -> str:
    """Draw contours of a loss or an error on a plane, with points and a path.

    The lines are at equal ratios of the value; the stronger the colour, the higher.

    Args:
        ground: The values.
        name: Of the figure.
        unit: What the axes measure.

    Returns:
        The SVG.
    """
    with style.context(["default", {"svg.fonttype": "none", "svg.hashsalt": name}]):
        figure, axes = _plane_axes(ground)
        values = np.asarray(ground.values, dtype=np.float64).reshape(len(ground.y), len(ground.x))
        axes.set_xlim(ground.x[0], ground.x[-1])
        axes.set_ylim(ground.y[0], ground.y[-1])
        if levels := contour_levels(values):
            _contours(axes, ground, values, levels)
        _dress(axes, f"{unit} from gRDA towards the bend", f"{unit} across")
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.yaxis.set_major_locator(MaxNLocator(6))
        if ground.path:
            px, py = zip(*ground.path, strict=True)
            axes.plot(px, py, color=placeholder(1), lw=2)
        for label, x, y in ground.points:
            axes.plot([x], [y], marker="o", ms=5, color=placeholder(1), ls="none")
            axes.annotate(
                label, (x, y), _BESIDE, textcoords="offset points", fontsize=9, color=INK, fontweight="bold"
            )
        return _with_halo(to_svg(figure), [label for label, _, _ in ground.points])


def _contours(axes: Axes, ground: Ground, values: Grid, levels: list[float]) -> None:
    """Shade the ground and draw lines on it, every second one with its value where there is room."""
    values = np.clip(np.nan_to_num(values, nan=np.inf), levels[0], levels[-1])
    colour = placeholder(_VALLEY)
    rgb = tuple(int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    shades = [(*rgb, _HIGHEST * i / (len(levels) - 2)) for i in range(len(levels) - 1)]
    axes.contourf(ground.x, ground.y, values, levels=levels, colors=shades, antialiased=False)
    lines = axes.contour(ground.x, ground.y, values, levels=levels[1:-1], colors=[INK], linewidths=0.5)
    points = axes.transData + Affine2D().scale(72 / axes.figure.dpi)
    frame = axes.viewLim.transformed(points).extents
    taken, places = _taken(ground, points), []
    for path, level in list(zip(lines.get_paths(), levels[1:-1], strict=True))[::2]:
        courses = path.transformed(points).to_polygons(closed_only=False)
        place = free_place(courses, _VALUE_WIDTH * len(_value(level)) / 2, taken, frame)
        if place is not None:
            taken.append(place)
            places.append(points.inverted().transform(((place[0] + place[2]) / 2, (place[1] + place[3]) / 2)))
    axes.clabel(lines, levels[1:-1:2], fmt=_value, fontsize=7, inline=True, manual=places)


def _value(level: float) -> str:
    return f"{level:.2g}"


def _taken(ground: Ground, points: Transform) -> list[Box]:
    """Return the boxes of the points, their names, and the path."""
    boxes: list[Box] = []
    for label, x, y in ground.points:
        x, y = points.transform((x, y))
        right, up = _BESIDE
        boxes.append((x - 4, y - 4, x + 4, y + 4))
        boxes.append((x + right, y + up - 2, x + right + _LETTER_WIDTH * len(label), y + up + 8))
    return boxes + [(x, y, x, y) for x, y in (points.transform(place) for place in ground.path)]


def _with_halo(svg: str, names: Sequence[str]) -> str:
    """Put the colour of the page behind the names, where they run over a line."""
    for name in names:
        svg = re.sub(rf'(<text style="[^"]*)("[^>]*>{re.escape(name)}</text>)', rf"\1; {_HALO}\2", svg)
    return svg


def _plane_axes(ground: Ground) -> tuple[Figure, Axes]:
    """Make a figure in whose axes a unit is as long upwards as it is sideways."""
    (left, below), width = _PLANE_BORDERS, INCHES[0]
    inside = width - left - 0.05
    height = inside * (ground.y[-1] - ground.y[0]) / (ground.x[-1] - ground.x[0])
    figure = Figure((width, height + below + 0.05))
    total = height + below + 0.05
    return figure, figure.add_axes((left / width, below / total, inside / width, height / total))


def contour_levels(values: Grid) -> list[float]:
    """Return values at equal ratios from the lowest to about the highest that matters, of finite ones.

    Example:
        >>> [round(level, 2) for level in contour_levels(np.array([1.0, 4.0, 16.0]))][::5]
        [1.0, 3.28, 10.73]
    """
    known = values[np.isfinite(values)]
    if not len(known):
        return []
    low = max(float(known.min()), 1e-12)
    high = max(float(np.quantile(known, _CLIPPED)), low * 1.1)
    return [float(level) for level in np.geomspace(low, high, _LEVELS + 1)]


def _dress(axes: Axes, xlabel: str, ylabel: str) -> None:
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(RULE)
    axes.tick_params(colors=INK, length=0, pad=4, labelsize=9)
    axes.set_axisbelow(True)
    axes.set_xlabel(xlabel, color=INK, fontsize=9, loc="right", labelpad=2)
    axes.set_ylabel(ylabel, color=INK, fontsize=9, loc="top", labelpad=3)


def _logarithmic(axes: Axes, values: Sequence[float]) -> None:
    axes.set_yscale("log", nonpositive="mask")
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_minor_formatter(NullFormatter())
    if not values:
        return
    low, high = min(values), max(values)
    axes.set_ylim(low / 1.3, high * 1.3)
    if math.log10(high / low) < 1.5:
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=12))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    else:
        axes.yaxis.set_major_locator(LogLocator(numticks=8))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: power_of_ten(value)))
