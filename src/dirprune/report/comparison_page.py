"""The comparison of methods on the page and in the terminal: one table, one figure, the layers."""

import math
import statistics
from collections.abc import Iterable

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.ticker import NullLocator
from rich import box
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from dirprune.report import wording
from dirprune.report.comparison import Results, Row
from dirprune.report.figures import COLOURS, INK, RULE, placeholder, to_svg
from dirprune.report.sections import Figure, Section, Table
from dirprune.report.statistics import Estimate
from dirprune.report.terminal import encodable

_MARKERS = "osD^v<>PXp*hd8H"
_INCHES = (9.3, 5.2)
_ROOM = 1.15
_DENSER = 0.02  # of sparsity, below which a method is no match
_FEW = 4
_REFERENCE_COLOUR = 1


def comparison_headline(results: Results) -> wording.Headline:
    """Say who is ahead at each wanted sparsity of those that reached it, and where the reference stands."""
    notes = []
    for target in results.targets:
        finished = [row for row in _of(results, target) if row.accuracy]  # from accurate to inaccurate
        least = target * results.prunable - _DENSER
        rows = [row for row in finished if row.sparsity and row.sparsity.mean > least]
        if not rows:
            continue
        count = f"{len(rows)} methods" if len(rows) > 1 else "the one method that got there"
        note = f"{_wanted(target)}: {_reached(rows[0])} is the most accurate of {count}"
        own = next((row for row in finished if row.method == results.reference), rows[0])
        if own not in rows:
            note += f"; {_reached(own)} did not get there"
        elif place := rows.index(own):
            note += f"; number {place + 1} is {_reached(own)}"
        denser = len(finished) - len(rows)
        notes.append(note + (f"; not ranked, for they came out denser: {denser}." if denser else "."))
    trained = {row.title for row in results.rows if row.accuracy}
    return wording.Headline(f"{len(trained)} methods beside each other on equal terms.", tuple(notes), None)


def _reached(row: Row) -> str:
    return f"{row.title} ({_per_cent(row.accuracy)} % at {_per_cent(row.sparsity)} % sparsity)"


def comparison_sections(results: Results) -> list[Section]:
    """Return what the page says of a comparison."""
    tables = [
        Table(
            _wanted(target),
            "",
            _head(results),
            tuple(cells(row, results.dense_macs) for row in _of(results, target)),
        )
        for target in _targets(results)
    ]
    caption = (
        f"Mean ± sample standard deviation over seeds. The difference to {results.reference_title} is paired "
        "by seed, with its "
        "95 % interval (Student's t) and, in brackets, by how many points of sparsity the method is sparser. "
        "Training: seconds for a run. GMAC: 10⁹ multiplications of training on a machine that skips "
        "every product with a pruned weight, densities as after each epoch; in brackets, of what dense SGD "
        "makes. Memory: most that the "
        "process held."
    )
    tables[-1] = Table(tables[-1].title, caption, tables[-1].head, tables[-1].rows)
    layers = [_layers(results, target) for target in results.targets]
    return [
        Section(
            "Methods beside each other",
            " ".join(results.protocol),
            (_figure(results),),
            (*tables, *(table for table in layers if table)),
            {
                f"{row.title}, {_wanted(row.target)}": ", ".join(
                    f"{k} {v:g}" for k, v in row.settings.items()
                )
                for row in results.rows
            },
        )
    ]


def print_comparison(results: Results, console: Console) -> None:
    """Print the protocol and a table for each wanted sparsity."""
    for sentence in results.protocol:
        console.print(Text(encodable(sentence, console), style="dim"))
    for target in _targets(results):
        grid = Grid(box=box.SIMPLE_HEAD, pad_edge=False, title=_wanted(target), title_justify="left")
        for index, heading in enumerate(_head(results)):
            grid.add_column(heading, justify="right" if index else "left", no_wrap=True)
        for row in _of(results, target):
            grid.add_row(*(Text(encodable(cell, console)) for cell in cells(row, results.dense_macs)))
        grid.width = max(console.width, 150)
        console.print(grid, crop=False, soft_wrap=True)


def _head(results: Results) -> tuple[str, ...]:
    reference = f"to {results.reference_title}, points (95 %)"
    return ("method", "accuracy %", "sparsity %", reference, "training", "GMAC", "memory", "needs", "seeds")


def cells(row: Row, dense_macs: float | None = None) -> tuple[str, ...]:
    """Write a row in words, in the order of the head; its work also as a part of the dense network's."""
    wanted, finished = row.seeds
    return (
        row.title,
        _per_cent(row.accuracy),
        _per_cent(row.sparsity),
        _difference(row),
        wording.duration(row.seconds) if row.seconds is not None else wording.NOTHING,
        _work(row.macs, dense_macs),
        wording.size(row.peak_bytes) if row.peak_bytes is not None else wording.NOTHING,
        _needs(row),
        f"{finished}/{wanted}" if wanted else "all trials diverged",
    )


def _work(macs: float | None, dense: float | None) -> str:
    if macs is None:
        return wording.NOTHING
    return f"{macs / 1e9:.3g}" + (f" ({100 * macs / dense:.0f} %)" if dense else "")


def _needs(row: Row) -> str:
    """Say what a method has to be given."""
    given = (
        ("target", row.needs_target),
        ("pretrained", row.needs_pretrained),
        ("Hessian", row.needs_hessian),
    )
    return ", ".join(name for name, needed in given if needed) or "nothing"


def _per_cent(value: Estimate | None) -> str:
    if value is None:
        return wording.NOTHING
    return f"{100 * value.mean:.2f}" + ("" if math.isnan(value.std) else f" ± {100 * value.std:.2f}")


def _difference(row: Row) -> str:
    value = row.difference
    if value is None or row.difference_in_sparsity is None:
        return wording.NOTHING
    points = [f"{100 * x:+.2f}".replace("-", wording.MINUS) for x in (value.mean, value.low, value.high)]
    sparser = f"{100 * row.difference_in_sparsity:+.2f}".replace("-", wording.MINUS)
    return f"{points[0]} ({points[1]} to {points[2]}) [{sparser}]"


def _targets(results: Results) -> list[float | None]:
    dense = [None] if any(row.target is None for row in results.rows) else []
    return [*dense, *results.targets]


def _of(results: Results, target: float | None) -> list[Row]:
    return [row for row in results.rows if row.target == target]


def _wanted(target: float | None) -> str:
    return "dense" if target is None else f"{100 * target:g} % wanted"


def _figure(results: Results) -> Figure:
    """Draw accuracy against sparsity with error bars; what was measured, and nothing in between."""
    names = list(dict.fromkeys(row.method for row in results.rows if row.target is not None))
    names.sort(key=lambda name: (name != results.reference, name))
    with style.context(["default", {"svg.fonttype": "none", "svg.hashsalt": "comparison"}]):
        figure = Drawing(_INCHES)
        axes = figure.add_axes((0.075, 0.11, 0.66, 0.86), xscale="log")
        _densities(axes, results)
        for index, name in enumerate(names):
            rows = [r for r in results.rows if r.method == name and r.accuracy and r.sparsity]
            rows.sort(key=lambda row: row.sparsity.mean if row.sparsity else 0.0)
            ours = name == results.reference
            others = [c for c in range(COLOURS) if c != _REFERENCE_COLOUR]
            colour = _REFERENCE_COLOUR if ours else others[index % len(others)]
            axes.errorbar(
                [1 - r.sparsity.mean for r in rows if r.sparsity],
                [100 * r.accuracy.mean for r in rows if r.accuracy],
                xerr=[_spread(r.sparsity, 1) for r in rows],
                yerr=[_spread(r.accuracy, 100) for r in rows],
                color=placeholder(colour),
                ls="-" if rows and not rows[0].needs_target else (0, (4, 2)),
                lw=2.2 if ours else 1,
                marker=_MARKERS[index % len(_MARKERS)],
                ms=6 if ours else 4.5,
                capsize=2,
                zorder=3 if ours else 2,
                label=_literal(rows[0].title if rows else name),
            )
        for row in _of(results, None):
            if row.accuracy:
                axes.axhline(
                    100 * row.accuracy.mean, color=INK, lw=1, ls=(0, (1.5, 1.5)), label=_literal(row.title)
                )
        if (bottom := _bottom(results)) is not None:
            axes.set_ylim(bottom=bottom)
        axes.set_xlabel("sparsity in %, as it came out (full lines: no target is given)", color=INK)
        axes.set_ylabel("test accuracy in %", color=INK)
        axes.tick_params(colors=INK)
        axes.grid(axis="y", color=RULE, linewidth=0.6)
        for spine in axes.spines.values():
            spine.set_color(RULE)
        figure.legend(
            *axes.get_legend_handles_labels(),
            loc="upper left",
            bbox_to_anchor=(0.745, 0.98),
            frameon=False,
            labelcolor=INK,
            fontsize=8,
        )
        svg = to_svg(figure)
    caption = (
        "Points are means over seeds, bars one sample standard deviation each way, lines only lead the eye."
    )
    hidden = [row for row in results.rows if row.accuracy and 100 * row.accuracy.mean < (bottom or 0)]
    if hidden:
        caption += f" Below the figure: {_told(hidden)}."
    described = _told(results.rows)
    return Figure("Accuracy against sparsity", caption, described, svg, wide=True)


def _literal(text: str) -> str:
    """Have matplotlib draw a dollar sign where it would read mathematics."""
    return text.replace("$", r"\$")


def _told(rows: Iterable[Row]) -> str:
    return "; ".join(
        f"{row.title} {100 * row.accuracy.mean:.2f} % at {100 * row.sparsity.mean:.2f} %"
        for row in rows
        if row.accuracy and row.sparsity
    )


def _bottom(results: Results) -> float | None:
    """Where the axis of accuracy begins if a few lie so low that the others could not be told apart.

    Those are further below the first quartile than 1.5 times its distance to the best.
    """
    reached = [100 * row.accuracy.mean for row in results.rows if row.accuracy]
    if len(reached) < _FEW:
        return None
    quartile, *_ = statistics.quantiles(reached, n=4)
    best = max(reached)
    shown = [value for value in reached if value >= quartile - 1.5 * (best - quartile)]
    return None if len(shown) == len(reached) else min(shown) - 0.05 * (best - min(shown))


def _densities(axes: Axes, results: Results) -> None:
    """Mark the wanted sparsities on an axis of densities that falls, and has room for one alone."""
    reached = [row.sparsity.mean for row in results.rows if row.sparsity and row.target is not None]
    shown = [1 - sparsity for sparsity in (*reached, *results.targets) if sparsity < 1]
    if shown:
        axes.set_xlim(_ROOM * max(shown), min(shown) / _ROOM)
    axes.set_xticks([1 - t for t in results.targets], [f"{100 * t:g}" for t in results.targets])
    axes.xaxis.set_minor_locator(NullLocator())


def _spread(value: Estimate | None, scale: float) -> float:
    return 0.0 if value is None or math.isnan(value.std) else scale * value.std


def _layers(results: Results, target: float) -> Table | None:
    """Sparsity of every weight, method by method; the small dense network has no zeros to show."""
    rows = [row for row in _of(results, target) if row.layers and any(row.layers.values())]
    if not rows:
        return None
    names = list(dict.fromkeys(name for row in rows for name in row.layers))
    return Table(
        f"Where the zeros are: {_wanted(target)}",
        "Sparsity in % of each weight of two or more dimensions, from the input to the output.",
        ("method", *(name.removesuffix(".weight") for name in names)),
        tuple(
            (
                row.title,
                *(f"{100 * row.layers[n]:.1f}" if n in row.layers else wording.NOTHING for n in names),
            )
            for row in rows
        ),
    )
