"""The committed results, and the pages that tests hold to them."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def measured(name):
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text(encoding="utf-8"))


def told_on(page):
    """What a page says, in one line."""
    return " ".join((ROOT / page).read_text(encoding="utf-8").split())


def assert_told(told, expected):
    """Every expected piece is told, and no number beside them."""
    for piece in expected:
        assert piece in told, (piece, told)
        told = told.replace(piece, "", 1)
    assert not re.search(r"\d", told), told
