"""The figure of docs/comparison.md is drawn from the numbers as they are now."""

import re

import pytest

import published


def shown(svg):
    """What a figure says and where its marks are: the rest is up to the version of matplotlib."""
    texts = re.findall(r"<text\b[^>]*>(.*?)</text>", svg)
    marks = [
        float(place)
        for mark in re.findall(r"<use\b[^>]*>", svg)
        for place in re.findall(r" [xy]=\"([^\"]+)", mark)
    ]
    return texts, marks


def test_the_kept_figure_is_up_to_date():
    (texts, marks), (texts_now, marks_now) = (
        shown(svg.decode()) for svg in (published.FIGURE.read_bytes(), published.figure())
    )
    assert texts == texts_now, "make page"
    assert len(texts) > 12
    assert marks == pytest.approx(marks_now, abs=2), "make page"
