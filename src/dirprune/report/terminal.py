"""The summary as a table in the terminal."""

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from dirprune.report import wording
from dirprune.report.summary import Spread, VariantSummary

_NARROWEST_LABEL = 7  # columns; a longer label goes on in the next line
_MOST_WARNINGS = 6


def print_table(summaries: Sequence[VariantSummary], console: Console) -> None:
    """Print a row for each variant.

    Args:
        summaries: From :func:`~dirprune.report.summary.summarise`.
        console: Where to print; 80 columns suffice, and nothing is ever cut off.
    """
    headings = (
        f"{wording.measured_on(summaries)}\naccuracy %",
        "vs SGD,\npoints",
        "zeros\n%",
        "file\nsize",
        "train\ntime",
        "seeds",
    )
    rows = [[encodable(cell, console) for cell in _cells(summary)] for summary in summaries]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("method", overflow="fold", min_width=_NARROWEST_LABEL)
    for index, heading in enumerate(headings, start=1):
        lines = [line for text in (heading, *(row[index] for row in rows)) for line in text.splitlines()]
        table.add_column(
            heading,
            justify="left" if heading == "seeds" else "right",
            min_width=max(map(len, lines)),
            no_wrap=True,
        )
    for row in rows:
        table.add_row(*map(Text, row))
    narrowest = Measurement.get(console, console.options.update(max_width=1000), table).minimum
    if console.width < narrowest:
        table.width = narrowest
    console.print(table, crop=False)
    note = "± is the standard deviation over seeds; vs SGD is paired by seed."
    console.print(Text(encodable(note, console), style="dim"))
    found = wording.warnings(summaries)
    for warning in found[:_MOST_WARNINGS]:
        line = encodable(f"warning: {warning}", console)
        console.print(line, style="yellow", markup=False, highlight=False, emoji=False)
    if len(found) > _MOST_WARNINGS:
        console.print(f"and {len(found) - _MOST_WARNINGS} more warnings: the report lists them")


def _cells(summary: VariantSummary) -> list[str]:
    file = summary.sparse_bytes
    return [
        summary.label,
        "\n".join((wording.spread(summary.test_accuracy), *wording.ranking(summary))),
        wording.points(summary.difference),
        _zeros(summary.sparsity),
        f"{wording.size(file.mean)}\n{wording.factor(summary)}" if file else wording.NOTHING,
        wording.duration(summary.seconds.mean) if summary.seconds else wording.NOTHING,
        wording.seeds(summary).replace(", ", "\n"),
    ]


def _zeros(sparsity: Spread | None) -> str:
    """Mean and, below it so that 80 columns suffice, the deviation; a dense network has nothing to tell."""
    if sparsity is not None and sparsity.mean == 0:
        return wording.percent(0.0)
    return wording.spread(sparsity).replace(" ± ", "\n±")


def encodable(text: str, console: Console) -> str:
    """Keep to what an old terminal or a pipe can take."""
    text = text.replace(wording.MINUS, "-").replace(wording.NOTHING, "-")
    return text.replace("±", "+-") if console.options.ascii_only else text
