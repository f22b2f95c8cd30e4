"""The committed results, and the pages that tests hold to them."""

import json
import re
from pathlib import Path

from page import paired, reported

ROOT = Path(__file__).parents[1]


def measured(name):
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text(encoding="utf-8"))


class Compared:
    """A comparison that is kept: its rows by method and wanted sparsity, and what is between two of them."""

    def __init__(self, part):
        name = f"compare-{part}"
        self.rows = {(row["method"], row["target"]): row for row in measured(name)["rows"]}
        self.runs = reported(ROOT / "benchmarks" / "results" / f"{name}.runs.jsonl")

    def gap(self, own, other, target):
        """The difference in accuracy, paired by seed from the runs."""
        return paired(self.rows[own, target], self.rows[other, target], self.runs)


def cells(row):
    """The cells of a line of a table in Markdown."""
    return [cell.strip() for cell in row.strip().strip("|").split("|")]


def told_on(page):
    """What a page says, in one line."""
    return " ".join((ROOT / page).read_text(encoding="utf-8").split())


def assert_told(told, expected):
    """Every expected piece is told, and no number beside them."""
    for piece in expected:
        assert piece in told, (piece, told)
        told = told.replace(piece, "", 1)
    assert not re.search(r"\d", told), told
