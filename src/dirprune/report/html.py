"""One self-contained page: no script, no request, nothing but the file itself."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from dirprune.core.atomic import atomic_write
from dirprune.core.wording import plain
from dirprune.errors import RunFolderError
from dirprune.report import figures, wording
from dirprune.report.comparison import Results, read_comparison
from dirprune.report.comparison_page import comparison_headline, comparison_sections
from dirprune.report.landscape import landscape_sections
from dirprune.report.reading import Run
from dirprune.report.sections import Figure, Section
from dirprune.report.summary import VariantSummary, differing, summarise

_MOST_BARS = 40  # rows that can be taken in at a glance
_MOST_ENDS = 4  # final values that fit into a caption
_DISTINCT_SHOWN = 3


@dataclass(frozen=True)
class Bars:
    """A row of a chart: name, value and note in words; style number, fraction of full width, tip per bar."""

    name: str
    value: str
    note: str
    bars: tuple[tuple[int, float, str], ...]


@dataclass(frozen=True)
class LayerChart:
    """Sparsity inside the network, for variants whose tensors have the same names and shapes.

    `rows` are modules if there are too many tensors to show at once; `tensors` then holds all of them, and
    is empty otherwise.
    """

    variants: tuple[VariantSummary, ...]
    rows: tuple[Bars, ...]
    tensors: tuple[Bars, ...]


def write_report(folder: str | os.PathLike[str]) -> Path:
    """Write `report.html` into an experiment folder.

    The page is made from the run folders alone, and equal folders give an equal page.

    Args:
        folder: A run folder, or a folder of run folders.

    Returns:
        The path of the page.

    Raises:
        RunFolderError: The folder holds no runs that can be read.
    """
    folder = Path(folder)
    page = render(summarise(folder), landscape_sections(folder), read_comparison(folder))
    path = folder / "report.html"
    with atomic_write(path) as file:
        file.write(page.encode())
    return path


def render(
    summaries: Sequence[VariantSummary],
    landscape: Sequence[Section] = (),
    comparison: Results | None = None,
) -> str:
    """Return the page as text; a comparison takes the place of what would draw a line for each variant."""
    environment = Environment(
        loader=PackageLoader("dirprune.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    runs = [run for summary in summaries for run in summary.runs]
    styles = figures.styles(summaries)
    settings = [run.config for run in runs]
    varying = differing(settings)
    return environment.get_template("report.html.jinja").render(
        headline=comparison_headline(comparison) if comparison else wording.headline(summaries),
        summaries=summaries,
        styles=styles,
        measured_on=wording.measured_on(summaries),
        subjects=_distinct(plain(run.config.get("recipe", "")) for run in runs),
        models=_distinct(plain(run.config.get("model", "")) for run in runs),
        comparison=comparison_sections(comparison) if comparison else [],
        figures=[] if comparison else _figures(summaries),
        sizes=[] if comparison else _sizes(summaries, styles),
        layers=[] if comparison else _layer_charts(summaries, styles),
        landscape=landscape,
        facts=_facts(runs),
        unfinished=any(run.status != "finished" for run in runs),
        shared={key: value for key, value in settings[0].items() if key not in varying},
        varying=[plain(key) for key in varying],
        wording=wording,
        plain=plain,
    )


# -- curves --------------------------------------------------------------------------------------------


def _figures(summaries: Sequence[VariantSummary]) -> list[Figure]:
    measured = wording.measured_on(summaries)
    kinds = (
        (
            "train_loss",
            "Training loss",
            "Mean loss on the training set, logarithmic; lower is better.",
            wording.loss,
        ),
        ("test_accuracy", f"{measured.capitalize()} accuracy", "Higher is better.", _per_cent),
        ("sparsity", "Sparsity", "Parameters that are exactly zero, out of all that are trained.", _per_cent),
    )
    made = []
    for name, title, meaning, write in kinds:
        curves = figures.draw(summaries, name)
        if curves is None:
            continue
        ends = [
            f"{s.label} {write(end)}"
            for s, end in zip(summaries, curves.ends, strict=True)
            if end is not None
        ]
        closing = f"In the end: {', '.join(ends)}." if ends else "No run has come to the end."
        clipped = (
            f" The axis starts at {curves.floor:.0f} %; lower values are left out." if curves.floor else ""
        )
        caption = f"{meaning} {closing if len(ends) <= _MOST_ENDS else ''}{clipped}"
        made.append(
            Figure(title, caption, f"{title} for each epoch, one line per method. {closing}", curves.svg)
        )
    return made


def _per_cent(fraction: float) -> str:
    return f"{wording.percent(fraction, 1)} %"


# -- bars ----------------------------------------------------------------------------------------------


def _sizes(summaries: Sequence[VariantSummary], styles: Sequence[figures.Style]) -> list[Bars]:
    """The finished networks on the disk, beside the dense float32 file."""
    shown = [
        (s, style, s.sparse_bytes.mean) for s, style in zip(summaries, styles, strict=True) if s.sparse_bytes
    ]
    dense = sorted({s.dense_bytes.mean for s, _, _ in shown if s.dense_bytes})
    widest = max([*dense, *(size for _, _, size in shown)], default=1.0)
    rows = [Bars("dense float32", wording.size(size), "", ((-1, size / widest, ""),)) for size in dense]
    for summary, style, size in shown:
        bar = (style.colour, size / widest, "")
        rows.append(Bars(summary.label, wording.size(size), wording.factor(summary), (bar,)))
    return rows


def _layer_charts(summaries: Sequence[VariantSummary], styles: Sequence[figures.Style]) -> list[LayerChart]:
    """One chart for each network; variants that removed nothing are left out."""
    charts: dict[tuple[tuple[str, int], ...], list[tuple[VariantSummary, int, list[float]]]] = {}
    for summary, style in zip(summaries, styles, strict=True):
        if summary.sparsity and summary.sparsity.mean > 0:
            tensors, zeros = _mean_zeros(summary)
            charts.setdefault(tensors, []).append((summary, style.colour, zeros))
    return [_layer_chart(tensors, columns) for tensors, columns in charts.items()]


def _mean_zeros(summary: VariantSummary) -> tuple[tuple[tuple[str, int], ...], list[float]]:
    """Return (name, elements) of each tensor, and its zeros averaged over the finished runs."""
    finished = [run for run in summary.runs if run.outcome]
    networks = [run.outcome.layers for run in finished if run.outcome]
    tensors = tuple((layer.name, layer.numel) for layer in networks[0])
    for run, network in zip(finished, networks, strict=True):
        if tuple((layer.name, layer.numel) for layer in network) != tensors:
            raise RunFolderError(
                f"{run.name} and {finished[0].name} have one configuration but networks of different layers: "
                "one of them was made by other code; move it out of the experiment folder"
            )
    return tensors, [
        sum(layer.zeros for layer in column) / len(column) for column in zip(*networks, strict=True)
    ]


def _layer_chart(
    tensors: Sequence[tuple[str, int]], columns: Sequence[tuple[VariantSummary, int, Sequence[float]]]
) -> LayerChart:
    variants = tuple(summary for summary, _, _ in columns)
    each = _rows([name for name, _ in tensors], tensors, columns)
    if len(each) <= _MOST_BARS:
        return LayerChart(variants, each, ())
    return LayerChart(variants, _rows(_modules([name for name, _ in tensors]), tensors, columns), each)


def _modules(names: Sequence[str]) -> list[str]:
    """Shorten dotted names to the deepest level at which few enough different ones are left."""
    parents = [name.split(".")[:-1] or [name] for name in names]
    for depth in range(max(map(len, parents)), 0, -1):
        groups = [".".join(parent[:depth]) for parent in parents]
        if len(set(groups)) <= _MOST_BARS:
            return groups
    return list(names)


def _rows(
    groups: Sequence[str],
    tensors: Sequence[tuple[str, int]],
    columns: Sequence[tuple[VariantSummary, int, Sequence[float]]],
) -> tuple[Bars, ...]:
    """Add up the tensors of each group, in the order of the network."""
    members_of: dict[str, list[int]] = {}
    for index, group in enumerate(groups):
        members_of.setdefault(group, []).append(index)
    rows = []
    for group, members in members_of.items():
        elements = sum(tensors[index][1] for index in members)
        values = [sum(zeros[index] for index in members) / max(1, elements) for _, _, zeros in columns]
        bars = tuple(
            (colour, value, f"{summary.label}: {_per_cent(value)}")
            for (summary, colour, _), value in zip(columns, values, strict=True)
        )
        ends = [_per_cent(value) for value in (min(values), max(values))]
        text = ends[0] if ends[0] == ends[1] else f"{ends[0].removesuffix(' %')} to {ends[1]}"
        rows.append(Bars(plain(group), text, f"of {elements:,}", bars))
    return tuple(rows)


# -- how it was made -----------------------------------------------------------------------------------


def _facts(runs: Sequence[Run]) -> dict[str, str]:
    """What the environments of the runs say, each thing once; dates as a range."""
    facts = {}
    for key in dict.fromkeys(key for run in runs for key in run.environment):
        values = _distinct(_flat(run.environment[key]) for run in runs if key in run.environment)
        if key == "date" and len(values) > 1:
            facts[key] = f"{min(values)} to {max(values)}"
            continue
        more = f"; and {len(values) - _DISTINCT_SHOWN} more" if len(values) > _DISTINCT_SHOWN else ""
        facts[plain(key).replace("_", " ")] = "; ".join(values[:_DISTINCT_SHOWN]) + more
    return facts


def _flat(value: Any) -> str:
    if isinstance(value, list) and value and isinstance(value[-1], dict):  # each resume, as an environment
        times = "once" if len(value) == 1 else f"{len(value)} times"
        return f"{times}, last {plain(value[-1].get('date', ''))}"
    pairs = value.items() if isinstance(value, dict) else ()
    return ", ".join(f"{plain(key)} {plain(entry)}" for key, entry in pairs) or plain(value)


def _distinct(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(value for value in values if value))
