"""Curves: what is drawn, read back from the SVG's own coordinates."""

import re
from itertools import pairwise

import numpy as np
import pytest

from dirprune.report import figures
from dirprune.report.reading import CURVES
from dirprune.report.summary import summarise
from tests.report.conftest import DIVERGED, Experiment, epoch


def lines(svg: str, colour: int) -> list[np.ndarray]:
    """Points (x, y) of each unfilled path in a variant's colour."""
    paths = re.findall(r'<path d="([^"]*)"[^>]*style="fill: none;[^"]*stroke: var\(--series-(\d)\)', svg)
    points = [re.findall(r"[ML] (\S+) (\S+)", path) for path, series in paths if int(series) == colour]
    return [np.array(each, dtype=float) for each in points]


def test_line_is_the_mean_of_finished_runs_and_the_band_their_range(experiment: Experiment) -> None:
    for seed, shift in enumerate((0.0, 0.1, 0.5)):
        metrics = [epoch(i, sparsity=0.1 * i + shift) for i in (1, 2, 3, 4)]
        experiment.add(f"a{seed}", {"seed": seed}, {}, metrics=metrics)
    experiment.add("b", {"seed": 9}, DIVERGED, metrics=[epoch(1, sparsity=0.9)])
    drawn = figures.draw(summarise(experiment.path), "sparsity")
    assert drawn is not None
    assert drawn.ends == (pytest.approx(0.6),)
    mean = next(line for line in lines(drawn.svg, 0) if len(line) > 1)
    ((band, shift),) = re.findall(
        r'<path id="[^"]*" d="([^"]*)"/>\s*</defs>\s*<g [^>]*>\s*<use [^>]*y="([\d.]+)"[^>]*fill-opacity',
        drawn.svg,
    )
    heights = [float(y) + float(shift) for _, y in re.findall(r"[ML] (\S+) (\S+)", band)]
    axis = np.polyfit([0.3, 0.6], [mean[0, 1], mean[-1, 1]], 1)  # the mean is a straight line from 0.3 to 0.6
    assert np.polyval(axis, 0.1) == pytest.approx(max(heights), abs=0.05)
    assert np.polyval(axis, 0.9) == pytest.approx(min(heights), abs=0.05)


def test_runs_that_did_not_finish_are_drawn_by_themselves(experiment: Experiment) -> None:
    experiment.add("a", {}, {})
    experiment.add("b", {"seed": 1}, DIVERGED, metrics=[epoch(1), epoch(2, train_loss=float("nan"))])
    experiment.add("c", {"seed": 2}, metrics=[epoch(1), epoch(2)])
    drawn = figures.draw(summarise(experiment.path), "train_loss")
    assert drawn is not None
    assert drawn.ends == (pytest.approx(0.001),)
    assert drawn.svg.count("stroke-width: 0.7") >= 1
    assert "NaN" not in drawn.svg


@pytest.mark.parametrize("name", CURVES)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), None])
@pytest.mark.parametrize("result", [None, DIVERGED, {}])
def test_nothing_to_show(
    experiment: Experiment, name: str, value: float | None, result: dict[str, object]
) -> None:
    experiment.add("a", {}, result, metrics=[epoch(1, **{name: value})])
    experiment.add("b", {"seed": 1}, result, metrics=[])
    assert figures.draw(summarise(experiment.path), name) is None


def test_a_loss_of_zero_has_no_place_on_a_logarithmic_axis(experiment: Experiment) -> None:
    experiment.add("a", {}, {}, metrics=[epoch(1, train_loss=0.5), epoch(2, train_loss=0.0)])
    drawn = figures.draw(summarise(experiment.path), "train_loss")
    assert drawn is not None
    assert drawn.ends == (0.0,)
    assert [len(line) for line in lines(drawn.svg, 0)] == [1]


def test_one_epoch_is_a_point(experiment: Experiment) -> None:
    experiment.add("a", {}, {}, metrics=[epoch(1)])
    drawn = figures.draw(summarise(experiment.path), "test_accuracy")
    assert drawn is not None
    assert "<use" in drawn.svg


def test_steep_first_epochs_are_left_out_and_that_is_told(experiment: Experiment) -> None:
    accuracies = [0.1, 0.5, *np.linspace(0.90, 0.92, 58)]
    experiment.add(
        "a", {}, {}, metrics=[epoch(i, test_accuracy=a) for i, a in enumerate(accuracies, start=1)]
    )
    summaries = summarise(experiment.path)
    drawn, steady = figures.draw(summaries, "test_accuracy"), figures.draw(summaries, "sparsity")
    assert drawn is not None
    assert drawn.floor is not None
    assert 80 < drawn.floor < 90
    assert steady is not None
    assert steady.floor is None


def test_figures_hold_no_address_no_idle_id_and_repeat_exactly(experiment: Experiment) -> None:
    experiment.pair(0, 0.9, 0.9)
    summaries = summarise(experiment.path)
    ids: list[str] = []
    for name in CURVES:
        drawn = figures.draw(summaries, name)
        assert drawn is not None
        assert drawn == figures.draw(summaries, name)
        assert "http" not in drawn.svg
        own = re.findall(r' id="([^"]*)"', drawn.svg)
        assert set(own) == set(re.findall(r"#([^\")]+)", drawn.svg))
        ids += own
    assert len(ids) == len(set(ids))


def test_styles_tell_twenty_variants_apart_and_keep_sgd(experiment: Experiment) -> None:
    experiment.add("sgd", {}, {})
    for index in range(20):
        experiment.add(f"{index}", {"method": "grda", "c": 0.001, "mu": 0.4 + index / 100}, {})
    chosen = figures.styles(summarise(experiment.path))
    assert len(set(chosen)) == 21
    assert [style.colour for style in chosen].count(0) == 1
    assert all(a.dash != b.dash for a, b in pairwise(chosen))
