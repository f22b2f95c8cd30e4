"""What README says of gRDA beside other methods is what the committed comparisons hold."""

import pytest

from dirprune.methods import METHODS
from tests.results import ROOT, Compared, cells, measured, told_on

README = (ROOT / "README.md").read_text(encoding="utf-8")


SEARCHES = {
    "first, three seeds": "",
    "second, five seeds": "-strongest",
    "third, from rate 0.05 with momentum": "-momentum",
    "fourth, from there too": "-rescaled",
    "fifth, the same rates for all": "-common",
}


@pytest.mark.parametrize(("label", "part"), SEARCHES.items())
def test_comparison_agrees_with_the_results(label, part):
    comparison = measured(f"compare-lenet-300-100{part}")
    rows = {row["method"]: row for row in comparison["rows"] if row["target"] == 0.95}
    columns = ("st3", "gradual", "gradual-erk", "grda", "grda-l0", "grda-rescaled")
    (row,) = [line for line in README.splitlines() if line.startswith(f"| {label} |")]
    assert cells(row)[1:] == [
        f"{100 * rows[method]['accuracy']['mean']:.2f}" if method in rows else "-" for method in columns
    ]
    assert {row["accuracy"]["n"] for row in rows.values() if row["method"] in columns} == {5 if part else 3}
    command = comparison["environment"]["command"]
    assert "--epochs 10 " in command
    assert ("--lr 0.05 --momentum 0.9" in command) == (part in ("-momentum", "-rescaled", "-common"))
    assert rows["grda-l0"]["settings"].get("mu", METHODS["grda-l0"].settings.mu) == 1


def test_who_wins_on_the_test_set_is_what_the_results_say():
    """Five tables are there, and the page of the benchmarks says of each how the forms of gRDA stand."""
    page = (ROOT / "benchmarks" / "README.md").read_text().partition("[start:verdicts]")[2]

    def stand(part, form):
        (row,) = [x for x in page.splitlines() if x.startswith(f"| lenet-300-100{part} | {form} |")]
        return [cell.partition(" ")[0] for cell in cells(row)[2:]]

    at_95 = [stand(part, "gRDA, l0")[1] for part in SEARCHES.values()]
    assert at_95 == ["below", "below", "below", "level", "below"]
    assert stand("-rescaled", "gRDA, rescaled") == ["level"] * 3
    assert stand("-common", "gRDA, rescaled") == ["level", "level", "above"]
    gap = Compared("lenet-300-100-common").gap("grda-rescaled", "st3", 0.98)
    told = told_on("README.md")
    assert (
        "The hard threshold (l0) is significantly worse than the best other method in four of the five "
        "searches, and statistically indistinguishable from it in the fourth. - `rescaled` is "
        "indistinguishable from it in both of its searches, and at 98 % zeros better in the fifth, by "
        f"{100 * gap.mean:.2f} points ({100 * gap.low:.2f} to {100 * gap.high:.2f})." in told
    )
    assert "beat ST-3 in one search of five, lost to it in three, and was level in one" in told
    gaps = [Compared(f"lenet-300-100{part}").gap("grda-l0", "st3", 0.95) for part in SEARCHES.values()]
    signs = [(gap.low > 0) - (gap.high < 0) for gap in gaps]
    assert sorted(signs) == [-1, -1, -1, 0, 1]


def test_the_hard_threshold_is_said_to_be_behind_where_it_is():
    told = told_on("README.md")
    rows = {(row["method"], row["target"]): row for row in measured("compare-wrn10x1-momentum")["rows"]}
    behind = rows["grda-l0", 0.95]["difference"]
    assert behind["high"] < 0
    st3 = rows["st3", 0.95]["difference"]
    assert st3["low"] < 0 < st3["high"]
    assert (
        f"on a small Wide ResNet at 95 % it is {-100 * behind['mean']:.2f} points behind "
        '`penalty="rescaled"`, which is level with ST-3 there; on a small transformer it was behind the '
        "soft one, and on LeNet-5 at 90 % in the first search, by its learning rate" in told
    )
    for part, targets in (("vit", (0.9, 0.95, 0.98)), ("lenet5", (0.9,))):
        for row in measured(f"compare-{part}")["rows"]:
            if row["method"] == "grda-l0" and row["target"] in targets:
                assert row["difference"]["mean"] < 0
