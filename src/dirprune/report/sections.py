"""What the page is made of beside the summary: figures, tables, and the evidence under them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dirprune.errors import DirpruneError, RunFolderError
from dirprune.landscape import Connection, OneShot, ProjectionSeries, Result


@dataclass(frozen=True)
class Figure:
    """A chart with its heading, caption, and the description for those who cannot see it."""

    title: str
    caption: str
    description: str
    svg: str
    wide: bool = False


@dataclass(frozen=True)
class Table:
    """A table of words; the first of each row is its heading."""

    title: str
    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Section:
    """Figures and tables that belong together, with what they rest on."""

    title: str
    meaning: str
    figures: tuple[Figure, ...]
    tables: tuple[Table, ...]
    evidence: dict[str, str]


@contextmanager
def named_if_damaged(path: Path) -> Iterator[None]:
    """Name the file whose content, each field of its type, cannot be shown all the same.

    Raises:
        RunFolderError: Lists are empty or of other lengths, a setting is missing, a number is out of range.
    """
    try:
        yield
    except DirpruneError:  # has named it already
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise RunFolderError(
            f"{path} is damaged ({type(error).__name__}: {error}): delete that file to make it anew"
        ) from error


def evidence_of(folder: Path, result: Result) -> dict[str, str]:
    """Say what a result rests on: where it was made, from what, and how well it converged."""
    environment = type(result).environment(folder)
    kind = result.kind
    said = {
        f"{kind}: made": f"{_flat(environment.get('date'))}, {_flat(environment.get('command'))}",
        f"{kind}: from": ", ".join(f"{key} {_flat(value)}" for key, value in result.request.items()),
    }
    pairs: list[tuple[float, float]] = []
    if isinstance(result, ProjectionSeries):
        if not result.steps:
            raise ValueError("it has no steps")
        pairs = [pair for step in result.steps for pair in zip(step.residuals, step.values, strict=True)]
    if isinstance(result, OneShot) and result.eigenvalues and result.residuals:
        pairs = list(zip(result.residuals, result.eigenvalues, strict=True))
    if pairs:
        said[f"{kind}: residuals"] = f"greatest |Hu - λu| / λ {max(r / v for r, v in pairs):.2g}"
    if isinstance(result, Connection):
        said[f"{kind}: converged"] = str(result.converged)
    return said


def _flat(value: Any) -> str:
    if isinstance(value, dict):
        return "(" + ", ".join(f"{key} {_flat(entry)}" for key, entry in value.items()) + ")"
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if text.isprintable() else ascii(text)
