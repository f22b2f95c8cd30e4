"""The published numbers, against those that the paper's page quotes, and their figure."""

import io

import pytest

from dirprune.report.published import draw_published, published_curves

QUOTED = {
    "magnitude, gradual": {80: 75.58, 90: 73.91, 95: 70.59, 98: 57.9},
    "magnitude v2": {80: 76.52, 90: 75.16, 95: 72.71, 96.5: 69.26},
    "variational dropout": {80: 75.28, 90: 73.85, 95: 71.85, 96.5: 70.41, 98: 67.36},
    "random": {80: 70.21, 90: 65.0, 95: 58.08, 98: 44.0},
    "RigL 1x (ERK)": {80: 75.12, 90: 73.07},
    "RigL 5x (ERK)": {80: 77.17, 90: 76.42, 95: 74.63, 96.5: 72.77},
    "STR": {81.3: 76.12, 90.2: 74.31, 95.2: 70.23, 96.1: 67.78, 98: 61.46},
    "AC/DC": {80: 76.45, 90: 75.03, 95: 73.14, 98: 68.48},
    "ST-3": {80: 76.95, 90: 76.03, 95: 74.46, 96.5: 73.31, 98: 70.46},
    "AC/DC + HAM": {80: 77.2, 90: 76.66, 95: 75.45},
    "gRDA, one drop": {
        79.7: 72.75,
        86.1: 73.13,
        87.3: 73.14,
        91.6: 73.24,
        95: 72.16,
        97.1: 70.04,
        98.2: 65.51,
    },
    "gRDA, constant rate": {86.03: 70.60, 87.38: 70.35, 91.54: 69.76},
}


@pytest.mark.parametrize("curve", published_curves(), ids=lambda curve: curve.method)
def test_every_number_is_the_quoted_one(curve):
    """Within 0.07, by which quotations of one source differ (a few are given as ranges or rounded)."""
    quoted = QUOTED[curve.method]
    assert [s for s, _ in curve.points] == pytest.approx(list(quoted), abs=0.07)
    assert [a for _, a in curve.points] == pytest.approx(list(quoted.values()), abs=0.07)


def test_no_curve_is_missing():
    assert {curve.method for curve in published_curves()} == set(QUOTED)


@pytest.mark.parametrize("curve", published_curves(), ids=lambda curve: curve.method)
def test_every_curve_states_its_source_and_budget(curve):
    assert "arXiv" in curve.source
    assert curve.budget
    assert list(curve.points) == sorted(curve.points)
    assert curve.epochs is None or str(curve.epochs) in curve.budget
    assert all(0 < s < 100 and 0 < a < 100 for s, a in curve.points)


def test_methods_without_target_are_those_of_the_page():
    free = {curve.family for curve in published_curves() if not curve.needs_target}
    assert free == {"gRDA", "variational dropout", "STR"}


def test_the_figure_shows_every_point_and_states_every_budget():
    figure = draw_published()
    (axes,) = figure.axes
    lines, legend = axes.get_lines(), [text.get_text() for text in axes.get_legend().get_texts()]
    assert len({(line.get_marker(), line.get_color(), line.get_linestyle()) for line in lines}) == len(lines)
    for curve, line, entry in zip(published_curves(), lines, legend, strict=True):
        assert list(zip(*line.get_data(), strict=True)) == list(curve.points)
        assert entry.startswith(f"{curve.method}: {curve.budget}")
        assert (curve.dense is None) == ("dense" not in entry)
        assert (line.get_linestyle() == "-") == (not curve.needs_target)
    low, high = axes.get_ylim()
    assert high > 77.2
    below = [(c.method, point) for c in published_curves() for point in c.points if point[1] <= low]
    assert [text.get_text() for text in axes.texts] == [
        f"{method}: {top1:g} % at {sparsity:g} %, below this figure" for method, (sparsity, top1) in below
    ]
    assert len(below) == 1
    file = io.BytesIO()
    figure.savefig(file, format="png")
    assert file.getvalue().startswith(b"\x89PNG")
