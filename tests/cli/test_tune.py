"""`dirprune tune` as a person meets it: what was tried, the line to use, or why there is none."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from dirprune.cli import main
from dirprune.cli.tune import TuneOptions, _question, _train_command
from dirprune.recipes import get_recipe
from dirprune.tune import Candidate, Prediction, Trial
from dirprune.tune.comparable import Comparison


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_tune_for_a_sparsity_ends_with_the_line_to_use(tmp_path, capsys):
    command = ["tune", "digits", "--epochs", "8", "--trial-epochs", "4", "--target-sparsity", "0.3", "--flip"]
    assert main(command) == 0
    out = capsys.readouterr().out
    found = json.loads(next(tmp_path.glob("runs/tune-digits-*/target-sparsity0.3-mu0.6.json")).read_text())
    (line,) = found["train"]
    assert out.endswith(f"\n{line}\n")
    assert line.startswith("dirprune train digits --c 0.0")
    assert line.endswith(" --mu 0.6 --epochs 8 --flip")
    assert min(abs(trial["prediction"]["sparsity"] - 0.3) for trial in found["tried"]) < 0.01
    assert main(command) == 0  # nothing is trained again
    assert "epoch" not in capsys.readouterr().out.partition("predicted")[0]


def test_tune_by_accuracy_shows_every_c_with_its_verdict(tmp_path, capsys):
    command = ["tune", "digits", "--trial-epochs", "1", "--seeds", "1", "--margin", "30", "--jobs", "1"]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "comparable" in out
    assert out.splitlines()[-1].startswith("dirprune train digits --c ")
    found = json.loads(next(tmp_path.glob("runs/tune-digits-*/greatest-c-mu0.6-*.json")).read_text())
    assert "-30.0 points" in found["rule"]
    assert main([*command[:-4], "--margin", "60", "--jobs", "1"]) == 0  # another answer beside it
    names = sorted(path.name for path in tmp_path.glob("runs/*/greatest-c*.json"))
    assert names == [f"greatest-c-mu0.6-margin{margin}-seeds1.json" for margin in (30, 60)]


def test_a_search_for_a_sparsity_does_not_stumble_on_runs_of_the_other_search(tmp_path):
    command = ["tune", "digits", "--epochs", "8", "--trial-epochs", "4", "--validation", "0.2", "--jobs", "1"]
    assert main([*command, "--seeds", "1", "--margin", "90"]) == 0
    assert main([*command, "--target-sparsity", "0.3"]) == 0
    assert len(list(tmp_path.glob("runs/*/*.json"))) == 2


@pytest.mark.parametrize(
    ("verdict", "told"), [("undecided", ["c = 0.0316 is shown to be neither"]), ("worse", []), (None, [])]
)
def test_tune_tells_a_c_that_too_little_is_known_of(verdict, told, monkeypatch, capsys):
    """The next greater c than the chosen one: had it been decided, the answer might be greater."""

    def search(config, seeds, margin, bench, tried):
        bench.folder.mkdir(parents=True)  # as the runs do
        for c, word in ((0.01, "comparable"), (0.1, "worse"), (0.0316, verdict)):
            known = Comparison(0.0, -0.1, 0.1, word) if word else None  # without: it diverged
            tried(Candidate(c, config.mu, 0.9, known))
        return 0.01

    monkeypatch.setattr("dirprune.cli.tune.greatest_comparable_c", search)
    assert main(["tune", "digits"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert all(words in out for words in told)
    assert ("shown to be neither" in out) == bool(told)


@pytest.mark.parametrize(
    ("target", "mus", "told", "code"),
    [
        (0.9, (0.6,), ["60.00 % at c = 4, mu = 0.6; raise --mu or --epochs"], 1),
        (0.9, (1.0,), ["60.00 % at c = 4, mu = 1; raise --epochs"], 1),
        (0.3, (0.6,), ["60.00 % at c = 4, mu = 0.6; lower --mu"], 1),
        (0.6, (0.6,), [], 0),
        (0.66, (0.6,), [], 0),  # within the interval
        (0.9, (0.6, 0.7), ["60.00 % at c = 4, mu = 0.6; raise --mu or --epochs"], 0),
    ],
)
def test_tune_gives_no_line_for_a_sparsity_that_is_not_reached(target, mus, told, code, monkeypatch, capsys):
    def search(config, mus, target, epochs, bench, tried):
        bench.folder.mkdir(parents=True)  # as the runs do
        predictions = {0.7: Prediction(0.903, 0.88, 0.92)}
        trials = [Trial(4.0, mu, 0.1, predictions.get(mu, Prediction(0.6, 0.54, 0.66))) for mu in mus]
        for trial in trials:
            tried(trial)
        return trials

    monkeypatch.setattr("dirprune.cli.tune.c_for_sparsity", search)
    command = ["tune", "digits", "--target-sparsity", f"{target}", "--mu", *map(str, mus)]
    assert main(command) == code
    out = capsys.readouterr().out.splitlines()
    assert [line for line in out if "reached" in line] == [
        f"not reached: the nearest prediction is {words}" for words in told
    ]
    lines = [line for line in out if line.startswith("dirprune train")]
    assert all(f"--c 4 --mu {mu:g}" in line for mu, line in zip(mus[len(told) :], lines, strict=True))


def test_every_question_has_an_answer_of_its_own():
    recipe = get_recipe("digits")
    base = TuneOptions(config=recipe.config, mu=(0.6,))
    others = [
        replace(base, mu=(0.6000001,)),
        replace(base, mu=(0.5, 0.6)),
        replace(base, seeds=2),
        replace(base, target_sparsity=0.9),
        replace(base, config=replace(recipe.config, penalty="l0")),
        replace(base, config=replace(recipe.config, seed=7)),
    ]
    names = [_question(options, recipe.config) for options in (base, *others)]
    assert names[0] == "greatest-c-mu0.6"
    assert len(set(names)) == len(names)


def test_the_line_to_train_with_is_what_was_tuned_where_it_was_tuned():
    recipe = get_recipe("digits")
    options = TuneOptions(config=recipe.config, mu=(0.6,), out=Path("elsewhere"))
    line = _train_command(replace(recipe.config, c=1 / 3, mu=0.50123456), options, recipe)
    assert line == f"dirprune train digits --c {1 / 3!r} --mu 0.50123456 --out elsewhere"


def test_tune_is_quiet_in_all_but_the_first_process(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("dirprune.cli.tune.first_process", lambda: False)
    command = ["tune", "digits", "--trial-epochs", "1", "--seeds", "1", "--margin", "100", "--jobs", "1"]
    assert main(command) == 0
    assert capsys.readouterr().out == ""
    assert list(tmp_path.rglob("greatest-c*.json")) == []
