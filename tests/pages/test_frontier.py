"""What the page of the variants says of those that were tried and of the recommended setting."""

import numpy as np
import pytest
from scipy.stats import ttest_rel

from dirprune.train.schedules import half_linear
from tests.results import ROOT, measured, told_on


def test_what_was_tried_agrees_with_the_results():
    """Differences to the hard threshold, paired by seed; SciPy is the oracle of the intervals."""
    page = told_on("docs/frontier.md").partition("## What was tried")[2].partition("## On the test set")[0]
    every = measured("frontier")["variants"]
    assert 345 < sum(len(each["runs"]) for each in every) < 360  # "some 350 of them"
    variants = {each["name"]: each["accuracy"] for each in every}
    hard = variants.pop("hard")

    def gap(name, target):
        pairs = [variants[name][target]["seeds"], hard[target]["seeds"]]
        if None in pairs[0]:
            return None
        return [
            100 * np.mean(np.subtract(*pairs)),
            *(100 * x for x in ttest_rel(*pairs).confidence_interval()),
        ]

    gaps = {(name, target): gap(name, target) for name in variants for target in ("0.9", "0.95", "0.98")}
    before = ("published", "momentum", "rate", "half-linear", "linear growth")
    worse = {key for key, found in gaps.items() if found and found[2] < 0 and key[0] not in before}
    better = {key for key, found in gaps.items() if found and found[1] > 0}
    assert worse == {
        *(("constant", target) for target in ("0.9", "0.95", "0.98")),
        *(("pattern", target) for target in ("0.9", "0.95", "0.98")),
        *((name, "0.98") for name in ("decay of w", "decay of v", "rate .02", "harden", "by gradient")),
        ("decay of w", "0.9"),
        ("scad", "0.9"),
    }
    assert better == {("nesterov", "0.95"), ("one cycle", "0.95"), ("adaptive", "0.9")}
    steps = [gaps[name, "0.98"][0] for name in before]
    assert steps == sorted(steps)

    def told(name, target, sign=1):
        mean, *ends = (sign * x for x in gaps[name, target])
        low, high = sorted(ends)
        return f"{mean:.2f} ({max(0, low):.2f} to {high:.2f})"

    least = -max(gaps[key][0] for key in gaps if key[0] == "constant")
    first = -max(gaps[name, target][0] for name in before[:2] for target in ("0.9", "0.95", "0.98"))
    pattern = [-gaps["pattern", target][0] for target in ("0.9", "0.95", "0.98")]
    for words in (
        "at 98 %: by {}".format(told("by gradient", "0.98", -1).replace(" (", " points (")),
        "by {:.2f}, {:.2f} and {:.2f} points, although".format(*pattern),
        f"by {first:.1f} points or more",
        f"hard threshold, is {-gaps['half-linear', '0.98'][0]:.1f} points behind at 98 %",
        f"by {told('nesterov', '0.95').replace(' (', ' points (')}",
        f"by {least:.2f} points or more",
        f"is {told('one cycle', '0.95').replace(' (', ' points (')} ahead at 95 % and "
        f"{-gaps['one cycle', '0.98'][0]:.2f} behind at 98 %",
        f"is {told('adaptive', '0.9').replace(' (', ' points (')} ahead at 90 % and "
        f"{told('adaptive', '0.98', -1)} behind at 98 %",
    ):
        assert words in page, words
    alike = (
        "rate .1",
        "cosine",
        "decoupled decay",
        "stop growing",
        "by deviation",
        "averaging",
        "biases",
        "told",
    )
    behind = [-gaps[name, "0.98"][0] for name in alike]
    assert f"by {min(behind):.1f} to {max(behind):.1f} points in the mean" in page


def test_the_recommended_schedule_is_the_one_that_was_measured():
    page = (ROOT / "docs" / "frontier.md").read_text(encoding="utf-8")
    code = page.partition("## The setting that we recommend")[2].split("```python\n")[1].split("```")[0]
    names = {}
    exec(code, names)
    rates = []
    for _ in range(names["epochs"]):
        rates.append(names["optimizer"].param_groups[0]["lr"])
        names["optimizer"].step()
        names["scheduler"].step()
    expected = [0.05 * half_linear((epoch + 1) / len(rates)) for epoch in range(len(rates))]
    assert rates == pytest.approx(expected)
    options = names["optimizer"].param_groups[0]
    words = " ".join(page.split()).partition("On the command line: `")[2].partition("`")[0]
    assert [options[key] for key in ("penalty", "mu", "c", "momentum", "nesterov")] == [
        "l0",
        1,
        4e-3,
        0.9,
        True,
    ]
    for word in ("--penalty l0", "--mu 1", "--c 4e-3", "--lr 0.05", "--momentum 0.9", "--nesterov"):
        assert word in words


def test_where_the_recommended_setting_loses_agrees_with_the_results():
    told = (
        told_on("docs/frontier.md")
        .partition("It is not better everywhere:")[2]
        .partition("In neither case")[0]
    )
    rows = {
        name: {(row["method"], row["target"]): row for row in measured(f"compare-{name}")["rows"]}
        for name in ("wrn10x1", "lenet5")
    }

    def behind(name, target, digits=True):
        row = rows[name]["grda-l0", target]
        mean, high, low = (-100 * row["difference"][key] for key in ("mean", "high", "low"))
        return f"{mean:.1f} ({high:.1f} to {low:.1f})" if digits else f"{mean:.1f}"

    def more(name, target):
        return 100 * rows[name]["grda-l0", target]["difference_in_sparsity"]

    first, _, rest = behind("wrn10x1", 0.9).partition(" ")
    assert f"it is {first} points {rest} behind the soft threshold at 90 % zeros" in told
    first, _, rest = behind("wrn10x1", 0.95).partition(" ")
    assert f"and {first} points {rest} behind at 95 %" in told
    assert f"it has {more('wrn10x1', 0.95):.1f} points more zeros" in told
    lenet5 = (
        f"it is {behind('lenet5', 0.9, digits=False)} points behind the soft threshold at 90 %, with "
        f"{more('lenet5', 0.9):.0f} points more zeros"
    )
    assert lenet5 in told


def test_short_trainings_lose_what_the_page_says():
    page = told_on("docs/when-not.md")

    def lost(results):
        sgd, grda = results["sgd-seed0"], results[next(name for name in results if name != "sgd-seed0")]
        return f"{100 * (sgd['test_accuracy'] - grda['test_accuracy']):.1f}", 100 * grda["sparsity"]

    short = {run["name"]: run["result"] for run in measured("lenet5-fashion_mnist")["runs"]}
    long = {run["name"]: run["result"] for run in measured("lenet5-fashion_mnist-l0")["runs"]}
    first = lost({name: short[name] for name in ("sgd-seed0", "grda-c0.004-mu0.6-seed0")})
    second = lost({name: long[name] for name in ("sgd-seed0", "grda-c0.0045-mu0.6-seed0")})
    assert f"loses {first[0]} point at {first[1]:.0f} % zeros after 30 epochs" in page
    late = f"loses {second[0]} points at {second[1]:.0f} %"
    assert f"After 60 epochs, with a learning rate that falls late, it {late}" in page
