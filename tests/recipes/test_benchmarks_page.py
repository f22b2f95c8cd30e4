"""The page of the benchmarks says what the files beside it say."""

import json

import pytest

import page as benchmarks_page
from record import RESULTS


def estimate(mean, std=0.01):
    return {"n": 3, "mean": mean, "std": std, "low": mean - 2 * std, "high": mean + 2 * std}


def row(method, accuracy, gap=None, target=0.9, **changes):
    return {
        "method": method, "title": method.upper(), "target": target, "settings": {}, "needs_target": False,
        "needs_pretrained": False, "needs_hessian": False, "sparsity": estimate(0.9), "seconds": 12.3,
        "accuracy": accuracy and estimate(accuracy), "difference": gap and estimate(gap, 0.002),
        "difference_in_sparsity": gap and 0.001, "train_loss": 0.25, "macs": 2e9, "peak_bytes": None,
        "seeds": [3, 3], "layers": {}, **changes,
    }  # fmt: skip


def test_the_page_is_made_from_the_files_beside_it():
    made = benchmarks_page.page(RESULTS)
    assert benchmarks_page.PAGE.read_text(encoding="utf-8") == made, "python benchmarks/page.py"


def test_every_kept_result_is_named_once():
    made = benchmarks_page.page(RESULTS)
    for path in RESULTS.glob("*.json"):
        assert made.count(f"(results/{path.name})") == 1, path.name


@pytest.mark.parametrize("path", sorted(RESULTS.glob("compare-*.json")), ids=lambda path: path.stem)
def test_differences_that_are_paired_anew_are_those_that_the_comparison_found(path):
    """The rows of a part are found again among its runs: `dirprune compare` is the oracle."""
    content = json.loads(path.read_text())
    runs = benchmarks_page.reported(path.with_name(f"{path.stem}.runs.jsonl"))
    known = {row["target"]: row for row in content["rows"] if row["method"] == content["reference"]}
    rows = [row for row in content["rows"] if row["target"] and row["difference"]]
    assert len(rows) > 5
    for row in rows:
        gap, found = row["difference"], benchmarks_page.paired(row, known[row["target"]], runs)
        assert found.n == gap["n"]
        assert (found.mean, found.low, found.high) == pytest.approx((gap["mean"], gap["low"], gap["high"]))


def test_wins_and_losses_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmarks_page, "OVERVIEW", 0.9)
    rows = [
        row("sgd", 0.95, target=None, macs=8e9),
        row("winner", 0.93, 0.02, needs_target=True, needs_hessian=True),
        row("equal", 0.91, 0.001),
        row("grda", 0.91),
        row("loser", 0.85, -0.06),
        row("denser", 0.92, 0.02) | {"difference_in_sparsity": -0.03},
        row("sparser", 0.85, -0.06) | {"difference_in_sparsity": 0.012},
        row("sparser-too", 0.93, 0.02) | {"difference_in_sparsity": 0.03},
        row("lost", None, seeds=[0, 0], sparsity=None, train_loss=None, seconds=None, macs=None),
    ]
    environment = {
        "command": "dirprune compare x --data-dir DATA", "date": "2026-01-02T03:04:05+00:00",
        "cpu": "A CPU", "versions": {"torch": "2.9"},
    }  # fmt: skip
    content = {"protocol": ["Equal.", "Fair."], "reference": "grda", "rows": rows, "environment": environment}
    (tmp_path / "compare-part.json").write_text(json.dumps(content))
    base = {"lr": 0.1, "momentum": 0.0, "c": 0.0, "mu": 1.0, "settings": [], "sparsity": None}
    archive = [{"format": 1, "config": base, "environments": []}]
    for seed in (1, 2, 3):
        for method, changes, accuracy in (("grda", {}, 0.91), ("winner", {"sparsity": 0.9}, 0.93)):
            config = {"method": method, "seed": seed, **changes}
            result = {"status": "finished", "test_accuracy": accuracy + 0.001 * seed * (method == "grda")}
            archive.append({"run": f"{method}-seed{seed}", "config": config, "result": result})
            status = "diverged" if (method, seed) == ("winner", 2) else "finished"
            archive.append({"run": f"trials/{method}{seed}", "config": config, "result": {"status": status}})
    (tmp_path / "compare-part.runs.jsonl").write_text("\n".join(map(json.dumps, archive)))
    (tmp_path / benchmarks_page.REASONS).write_text("Because.")
    made = "\n".join(benchmarks_page.comparison(tmp_path))
    assert "\n| part | 95.00 | WINNER: 93.00 (90.00) | 91.00 (90.00) |  |\n" in made
    assert "- Trials that diverged: WINNER 1 of 3.\n" in made + "\n"
    assert "| part | GRDA | below WINNER, -1.80 (-2.05 to -1.55) [+0.00] |" in made
    own, best = (next(row for row in rows if row["method"] == name) for name in ("grda", "winner"))
    runs = benchmarks_page.reported(tmp_path / "compare-part.runs.jsonl")
    denser = own | {"sparsity": estimate(0.885)}
    verdict = benchmarks_page._verdict(denser, [denser, best], runs)
    assert verdict == "denser, below WINNER, -1.80 (-2.05 to -1.55) [-1.50]"
    assert "### part\n\n<details><summary>Protocol and command</summary>\n\nEqual. Fair.\n" in made
    assert (
        "| 90 | WINNER | 93.00 ± 1.00 | 90.00 ± 1.00 | +2.00 (+1.60 to +2.40) [+0.10] | 0.250 | 12 | 2 "
        "| 25 % | target, hessian | 3/3 |" in made
    )
    assert "| 90 | LOST |  |  |  |  |  |  |  |  | all trials diverged |" in made
    assert (
        "- **90 %**: GRDA reaches 91.00 % at 90.00 % sparsity, training loss 0.250. Better: WINNER (+2.00), "
        "DENSER (+2.00, 3.0 points denser), SPARSER-TOO (+2.00). "
        "Not told apart: EQUAL (+0.10). Worse: LOSER (-6.00), SPARSER (-6.00, 1.2 points sparser)." in made
    )
    assert made.endswith("Because.")
    assert benchmarks_page.comparison(tmp_path / "nothing") == []


@pytest.mark.parametrize("name", ["compare", "page"])
def test_scripts_that_are_run_have_a_line(name):
    assert f"| `python benchmarks/{name}.py` |" in benchmarks_page.page(RESULTS)
