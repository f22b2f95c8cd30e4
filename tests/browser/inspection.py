"""All that can be amiss with a page, looked for in one visit."""

from pathlib import Path
from typing import Any

from tests.browser.conftest import Browser
from tests.browser.figures import stands_out

READABLE = 4.5  # contrast of words, by WCAG 2 AA
SMALLEST = 7.5  # pixels, of words in figures
FIGURES = "figure svg:not(.swatch), img"


def findings(browser: Browser, page: Path) -> dict[str, Any]:
    """Open a page by day and night, on a desk and on a phone; return what is amiss.

    Args:
        browser: It is left on the page, as a phone at night shows it.
        page: A file.

    Returns:
        Findings by kind; nothing where all is well.
    """
    found: dict[str, Any] = {}

    def note(kind: str, amiss: Any) -> None:
        if amiss:
            found[kind] = amiss

    browser.open(page)
    browser.look("prepare()")
    assert browser.look("words()") > 10, "the page is empty"
    note("figures that cannot be seen", browser.look("invisibleFigures()"))
    for dark in (False, True):
        time = "night" if dark else "day"
        browser.show(dark=dark)
        note(f"faint by {time}", browser.look(f"faint({READABLE})"))
        figures = browser.look(f"boxes({FIGURES!r})")
        page_as_seen = browser.photograph() if figures else None
        note(
            f"figures that cannot be read by {time}",
            [what for what, *box in figures if not stands_out(page_as_seen.crop(box))],
        )
        browser.phone(dark=dark)
        wider, elements = browser.look("overflow()")
        note(f"wider than a phone, by {time}", [wider, elements] if wider > 0 or elements else [])
        note("figures that a phone does not show", browser.look("invisibleFigures()"))
        note("tiny on a phone", browser.look(f"tiny({SMALLEST})"))
    note("console", browser.complaints())
    note("requests to elsewhere", browser.foreign_requests())
    return found
