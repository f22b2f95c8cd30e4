"""`dirprune compare`, and the other methods under `dirprune train`."""

import json

import pytest

from dirprune.cli import main
from dirprune.methods import METHODS

SHORT = ["--epochs", "1", "--threads", "1", "--jobs", "1"]


def test_compares_and_says_where_the_results_are(tmp_path, capsys):
    words = ["compare", "digits", "--methods", "sgd", "grda", "random", "--sparsities", "0.7", *SHORT]
    words += ["--trials", "1", "--seeds", "2", "--batch-size", "128", "--out", str(tmp_path)]
    assert main(words) == 0
    said = capsys.readouterr().out
    folder = tmp_path / "compare-digits-batch-size128-epochs1"
    content = json.loads((folder / "comparison-results.json").read_text())
    assert content["prunable"] == 50_200 / 50_610  # all but the biases
    rows = content["rows"]
    assert [(row["method"], row["seeds"]) for row in rows if row["target"] is None] == [("sgd", [2, 2])]
    assert {row["method"] for row in rows} == {"sgd", "grda", "random"}
    assert "3 runs to try and 6 to report" in said
    assert "random, gradual" in said
    assert "Methods beside each other" in (folder / "report.html").read_text()
    assert main(words) == 0
    assert "of another request" not in capsys.readouterr().out
    assert main([*words, "--sparsities", "0.5"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "comparison.json and its pages, of another request, will be replaced; the runs stay" in said


def test_a_recipe_with_the_hard_threshold_compares_grda_as_published(capsys, monkeypatch):
    seen = []
    monkeypatch.setattr("dirprune.cli.compare._expectation", lambda protocol, _: seen.append(protocol) or "")
    assert main(["compare", "lenet5-fashion_mnist-l0", "--dry-run", "--methods", "grda", "grda-l0"]) == 0
    assert (seen[0].config.penalty, seen[0].config.mu, seen[0].config.lr) == ("l1", 0.6, 0.1)
    adaptive = "vit2x64p7-fashion_mnist-recommended"
    assert main(["compare", adaptive, "--dry-run", "--methods", "grda", "grda-rescaled"]) == 0
    assert (seen[1].config.penalty, seen[1].config.mu, seen[1].config.c) == ("l1", 0.6, 1.31)
    assert main(["compare", "lenet5-fashion_mnist-l0", "--dry-run", "--penalty", "l0"]) == 2
    assert "are methods of their own" in capsys.readouterr().err


def test_methods_that_cannot_prune_the_network_are_left_out_unless_they_are_named(capsys, monkeypatch):
    seen = []
    monkeypatch.setattr("dirprune.cli.compare._expectation", lambda protocol, _: seen.append(protocol) or "")
    words = ["compare", "vit2x64p7-fashion_mnist", "--dry-run"]
    assert main(words) == 0
    left_out = set(METHODS) - set(seen[0].methods)
    sgd_only = {name for name, entry in METHODS.items() if not entry.facts.adaptive}
    # No form for Adam; no rule for attention; and torchvision's last layer starts at zero.
    assert left_out == {*sgd_only, "variational-dropout", "snip"}
    for name, reason in (
        ("variational-dropout", "no rule for MultiheadAttention"),
        ("snip", "starts at zero"),
    ):
        assert main([*words, "--methods", "sgd", name]) == 2
        assert reason in capsys.readouterr().err


def test_a_network_of_one_width_has_no_small_dense_form(capsys, monkeypatch):
    seen = []
    monkeypatch.setattr("dirprune.cli.compare._expectation", lambda protocol, _: seen.append(protocol) or "")
    words = ["compare", "resnet50-imagenet", "--dry-run", "--precision", "no"]
    assert main(words) == 0
    assert "small-dense" not in seen[0].methods
    assert "gradual" in seen[0].methods
    assert main([*words, "--methods", "sgd", "small-dense"]) == 2
    assert "small-dense needs narrower networks of this kind: resnet50" in capsys.readouterr().err


def test_dry_run_writes_nothing(tmp_path, capsys):
    assert main(["compare", "digits", "--dry-run", "--threads", "1", "--out", str(tmp_path)]) == 0
    assert "or more in all" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_other_methods_train_beside_the_twins(tmp_path, capsys):
    words = ["train", "digits", "--methods", "sgd", "gradual", "rigl", "--sparsity", "0.9", "--seeds", "1"]
    words += ["--settings", "every=5", *SHORT, "--prune", "weights", "--out", str(tmp_path)]
    assert main(words) == 0
    (experiment,) = tmp_path.iterdir()
    names = sorted(path.parent.name for path in experiment.glob("*/result.json"))
    assert names == ["gradual-0.9-every=5-seed0", "rigl-0.9-every=5-seed0", "sgd-seed0"]
    capsys.readouterr()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "digits", "--methods", "rigl"], "rigl needs the final sparsity"),
        (["train", "digits", "--methods", "rigel"], "did you mean 'rigl'"),
        (["compare", "digits", "--methods", "rigel"], "did you mean 'rigl'"),
        (["compare", "digits", "--threads", "0"], "--threads must be >= 1, got 0"),
        (["compare", "digits", "--jobs", "-1", "--dry-run"], "--jobs must be >= 1, got -1"),
        (["compare", "digits", "--archive", "nowhere/runs.jsonl"], "there is no folder nowhere"),
        (["compare", "digits", "--sparsities", "90"], "--sparsities must be in (0, 1)"),
    ],
)
def test_bad_requests_end_in_one_line(tmp_path, capsys, words, message):
    assert main([*words, "--out", str(tmp_path)]) == 2
    complaint = capsys.readouterr().err
    assert message in complaint
    assert complaint.count("\n") == 1


def test_several_processes_are_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["compare", "digits", "--out", str(tmp_path)]) == 2
    assert "--jobs, not torchrun" in capsys.readouterr().err
