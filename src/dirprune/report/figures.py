"""Curves over epochs, as SVG that takes its colours from the page it stands in."""

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from dirprune.report.reading import Floats, Run
from dirprune.report.summary import VariantSummary

COLOURS = 7  # --series-0 (SGD) to --series-6 in report.css
_DASHES: tuple[tuple[float, ...], ...] = ((), (6, 2), (5, 2, 1, 2), (1.5, 1.5), (9, 2, 3, 2))
_SGD_DASH = (3.2, 1.6)
INK, RULE, PAPER = "#010101", "#020202", "#040404"  # stand for the variables --quiet, --rule and --paper
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
INCHES = (4.5, 2.75)
LINE_WIDTH = 1.5
_CLIPPED_QUANTILE = 0.05  # the first steep epochs must not flatten all that follows


@dataclass(frozen=True)
class Style:
    """How a variant looks in every figure: the number of its colour, and its dash pattern in points."""

    colour: int
    dash: tuple[float, ...]

    @property
    def dasharray(self) -> str:
        """The pattern in the words of SVG."""
        return " ".join(f"{length * LINE_WIDTH:g}" for length in self.dash) or "none"


@dataclass(frozen=True)
class Band:
    """Mean, lowest and highest of a few runs, epoch by epoch."""

    epochs: Floats
    mean: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True)
class Curves:
    """A drawn figure, the last mean value of each variant (None without one), and where the axis starts.

    `floor` is None unless values were left below the axis.
    """

    svg: str
    ends: tuple[float | None, ...]
    floor: float | None


def styles(summaries: Sequence[VariantSummary]) -> list[Style]:
    """Give each variant a colour and a dash pattern that tells it apart in grey as well."""
    dense_first = bool(summaries) and summaries[0].method == "sgd"
    vivid = [Style(1 + i % (COLOURS - 1), _DASHES[i % len(_DASHES)]) for i in range(len(summaries))]
    return [Style(0, _SGD_DASH), *vivid[:-1]] if dense_first else vivid


def draw(summaries: Sequence[VariantSummary], name: str) -> Curves | None:
    """Draw one curve for each variant.

    The line is the mean over finished runs, the band reaches from the lowest to the highest of them; every
    run that did not finish is a thin line of its own, ending in a cross where it diverged.

    Args:
        summaries: The variants, in the order that fixes their styles.
        name: One of :data:`~dirprune.report.reading.CURVES`. The loss has a logarithmic axis, the others
            are drawn in per cent.

    Returns:
        The figure, or None when no run has a value to show.
    """
    # not the reader's matplotlibrc; text stays text; ids that differ between figures, and never between calls
    with style.context(["default", {"svg.fonttype": "none", "svg.hashsalt": name}]):
        return _draw(summaries, name)


def _draw(summaries: Sequence[VariantSummary], name: str) -> Curves | None:
    scale = 1.0 if name == "train_loss" else 100.0
    figure = Figure(INCHES)
    axes = figure.add_axes((0.115, 0.15, 0.865, 0.8))
    bands = [_band([run for run in s.runs if run.status == "finished"], name, scale) for s in summaries]
    for summary, look, band in reversed(list(zip(summaries, styles(summaries), bands, strict=True))):
        _draw_variant(axes, summary, band, look, name, scale)
    drawn = np.concatenate(
        [np.asarray(line.get_ydata(), dtype=np.float64) for line in axes.lines] or [np.empty(0)]
    )
    if not (drawn[np.isfinite(drawn)] > (0 if name == "train_loss" else -math.inf)).any():
        return None
    floor = _set_axes(axes, drawn, name)
    return Curves(to_svg(figure), tuple(_last(band, scale) for band in bands), floor)


def _band(runs: Sequence[Run], name: str, scale: float) -> Band:
    epochs = np.unique(np.concatenate([np.empty(0), *(run.epochs for run in runs)]))
    table = np.full((max(1, len(runs)), epochs.size), np.nan)
    for row, run in zip(table, runs, strict=False):
        row[np.searchsorted(epochs, run.epochs)] = run.curves[name] * scale
    known = np.ma.masked_invalid(table)
    low, mean, high = (np.ma.filled(f(axis=0), np.nan) for f in (known.min, known.mean, known.max))
    return Band(epochs, mean, low, high)


def _last(band: Band, scale: float) -> float | None:
    known = band.mean[np.isfinite(band.mean)]
    return float(known[-1]) / scale if known.size else None


def _draw_variant(
    axes: Axes, summary: VariantSummary, band: Band, look: Style, name: str, scale: float
) -> None:
    colour, dash = placeholder(look.colour), (0, look.dash) if look.dash else "-"
    if len(summary.finished) > 1:
        axes.fill_between(band.epochs, band.low, band.high, color=colour, alpha=0.16, linewidth=0)
    marker = "o" if band.epochs.size == 1 else ""
    axes.plot(band.epochs, band.mean, color=colour, ls=dash, lw=LINE_WIDTH, marker=marker, ms=3.5)
    for run in summary.runs:
        known = np.isfinite(run.curves[name])
        x, y = run.epochs[known], run.curves[name][known] * scale
        if run.status != "finished" and x.size:
            end = "x" if run.status == "diverged" else "o"
            axes.plot(
                x, y, color=colour, ls=dash, lw=0.7, marker=end, ms=4, mfc="none", markevery=[x.size - 1]
            )


def _set_axes(axes: Axes, values: Floats, name: str) -> float | None:
    """Set limits and ticks; return where the axis starts if that leaves values out."""
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(RULE)
    axes.tick_params(colors=INK, length=0, pad=4, labelsize=9)
    axes.grid(axis="y", color=RULE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel("epoch", color=INK, fontsize=9, loc="right", labelpad=2)
    last = max(float(np.max(line.get_xdata())) for line in axes.lines if len(np.asarray(line.get_xdata())))
    axes.set_xlim(0, max(2.0, last * 1.02))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, prune="lower"))
    if name == "train_loss":
        _set_log_axis(axes, values[values > 0])
        return None
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} %"))
    if name == "sparsity":
        axes.set_ylim(-4, 104)  # room for a line at zero
        axes.yaxis.set_major_locator(FixedLocator((0, 25, 50, 75, 100)))
        return None
    known = values[np.isfinite(values)]
    low, high = float(np.quantile(known, _CLIPPED_QUANTILE)), float(known.max())
    margin = max(0.08 * (high - low), 0.5)
    axes.set_ylim(low - margin, min(100.5, high + margin))
    return low - margin if known.min() < low - margin else None


def _set_log_axis(axes: Axes, values: Floats) -> None:
    axes.set_yscale("log", nonpositive="mask")
    low, high = float(values.min()), float(values.max())
    axes.set_ylim(low / 1.25, high * 1.25)
    decades = math.log10(high / low)
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_minor_formatter(NullFormatter())
    if decades < 1.5:
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=12))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    else:
        axes.yaxis.set_major_locator(LogLocator(numticks=8))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: power_of_ten(value)))


def power_of_ten(value: float) -> str:
    """Write the label of a decade."""
    exponent = round(math.log10(value))
    return f"{value:g}" if -3 <= exponent <= 3 else "10" + str(exponent).translate(_SUPERSCRIPTS)


def placeholder(colour: int) -> str:
    """Return what stands for a series' colour until the page gives it one."""
    return f"#0303{colour:02x}"


def to_svg(figure: Figure) -> str:
    """Write the figure for use inside a page: no XML head, no id without a use, the colours of the page."""
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    svg = "<svg" + buffer.getvalue().partition("<svg")[2]
    used = set(re.findall(r"#([\w.]+)", svg))
    svg = re.sub(r'\sid="([^"]*)"', lambda match: match[0] if match[1] in used else "", svg)
    svg = re.sub(r'\sxmlns(:xlink)?="[^"]*"', "", svg)
    svg = re.sub(r"font-family:[^;]*;", "", svg)
    svg = re.sub(r"(\d\.\d\d)\d+(?=[^<>]*>)", r"\1", svg)  # a hundredth of a point is enough; not in labels
    names = {
        INK: "quiet",
        RULE: "rule",
        PAPER: "paper",
        **{placeholder(i): f"series-{i}" for i in range(COLOURS)},
    }
    for stand_in, variable in names.items():
        svg = svg.replace(stand_in, f"var(--{variable})")
    return svg
