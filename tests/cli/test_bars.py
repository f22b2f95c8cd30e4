"""What long work in stages shows where nobody can see a bar move."""

import io

from rich.console import Console

from dirprune.cli.bars import StageBars


def test_a_file_gets_a_line_at_each_tenth() -> None:
    written = io.StringIO()
    with StageBars(Console(file=written)) as bars:
        for done in range(0, 41):
            bars("points", done, 40)
            bars("products", done, None)
        bars("points", 3, 6)  # again, as for the next epoch
        bars("points", 6, 6)
    expected = [f"points: {done} of 40" for done in range(4, 41, 4)]
    assert written.getvalue().splitlines() == [*expected, "points: 6 of 6"]


def test_a_terminal_gets_bars() -> None:
    written = io.StringIO()
    with StageBars(Console(file=written, force_terminal=True)) as bars:
        bars("points", 20, 40)
    assert "points: 20 of 40" not in written.getvalue()
    assert "20/40" in written.getvalue()
