"""The comparison end to end: equal trials, nothing of the test set in them, restartable, honest numbers."""

import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from scipy.stats import ttest_rel

from dirprune.compare import Candidate, Comparison, Protocol, Space, Trial
from dirprune.compare.archive import restore_runs, save_runs
from dirprune.compare.search import best
from dirprune.data import load_dataset
from dirprune.errors import RunFolderError, UsageError
from dirprune.methods import METHODS
from dirprune.report import print_comparison, read_comparison, write_report, write_results
from dirprune.report.comparison_page import comparison_sections
from dirprune.runs import RunFolder, find_runs
from dirprune.train import TrainConfig
from dirprune.train.trainer import Trainer
from dirprune.tune.trials import TrialRunner

CONFIG = TrainConfig(
    recipe="test",
    dataset="digits",
    model="lenet-300-100",
    c=0.02,
    mu=0.7,
    prune="weights",
    batch_size=128,
    epochs=2,
    validation=0.2,
)
PROTOCOL = Protocol(
    config=CONFIG, methods=("sgd", "grda", "gradual", "small-dense"), sparsities=(0.5, 0.8), seeds=2, trials=4
)
CELLS = 7


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """A finished comparison: its folder and choices."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("compare") / "runs"
    choices = Comparison(PROTOCOL, runner(folder)).run()
    yield folder, choices
    torch.set_num_threads(threads)


def read_trials(folder, method):
    trials = json.loads((folder / "trials.json").read_text())["trials"]
    return [Trial(Candidate(**t.pop("candidate")), **t) for t in trials if t["candidate"]["method"] == method]


def runner(folder):
    return TrialRunner(dataset=load_dataset("digits"), folder=folder, console=Console(quiet=True), at_once=1)


def test_every_method_has_the_same_number_of_trials_and_none_sees_the_test_set(compared):
    folder, _ = compared
    trials = json.loads((folder / "trials.json").read_text())["trials"]
    assert len(trials) == 4 * len(PROTOCOL.methods) == PROTOCOL.runs[0]
    tried = {}
    for trial in trials:
        candidate = trial["candidate"]
        tried.setdefault(candidate["method"], []).append((candidate["target"], trial["group"]))
        (name,) = trial["runs"]
        run = RunFolder(folder / "trials" / name)
        assert run.config()["validation"] == 0.2
        assert run.result()["measured_on"] == "validation"
        assert run.result()["test_accuracy"] == trial["accuracy"]
        assert run.config()["momentum"] == candidate["values"]["momentum"]
    assert tried["sgd"] == [(None, 0), (None, 1), (None, 2), (None, 3)]
    assert tried["gradual"] == tried["small-dense"] == [(0.8, 0), (0.8, 1), (0.8, 2), (0.8, 3)]
    *aimed, last = tried["grda"]  # its strength at the other sparsity is sought with the best settings alone
    assert aimed == [(0.8, 0), (0.8, 1), (0.8, 2)]
    grda = read_trials(folder, "grda")
    assert last == (0.5, best(grda[:3], 0.8).group)


def test_a_method_keeps_its_settings_at_every_sparsity(compared):
    """Tuned at the middle one, whether it is told the sparsity or not; only a strength differs."""
    _, choices = compared
    for method in PROTOCOL.methods:
        own = [choice for choice in choices if choice.method == method]
        strength = METHODS[method].facts.strength
        settings = [{k: v for k, v in c.candidate.values.items() if k != strength} for c in own]
        assert settings == [settings[0]] * len(own)
        assert len({choice.trial.group for choice in own}) == 1


def test_settings_are_chosen_at_the_middle_sparsity(tmp_path, monkeypatch):
    """One setting is best at 0.5, another at 0.8, where all are tuned."""

    def results(comparison, _, configs):
        done = {}
        for config in configs:
            first = config.lr == CONFIG.lr
            sparsity, accuracy = (0.5, 0.99) if first else (0.8, 0.9)
            done[comparison._name(config)] = {"sparsity": sparsity, "test_accuracy": accuracy, "seconds": 1.0}
        return done

    monkeypatch.setattr(Comparison, "_train", results)
    monkeypatch.setattr("dirprune.compare.search.PRICE", 0.2)
    protocol = replace(PROTOCOL, methods=("grda",), trials=3, sparsities=(0.5, 0.8))
    choices = Comparison(protocol, runner(tmp_path)).run()
    assert {choice.candidate.values["lr"] == CONFIG.lr for choice in choices} == {False}


def test_one_of_a_kind_is_singular():
    words = " ".join(replace(PROTOCOL, trials=1, seeds=1, config=replace(CONFIG, epochs=1)).words())
    assert re.findall(r"\b1 (trial|seed|epoch)\b", words) == ["trial", "seed", "epoch"]


def test_a_trial_of_several_seeds_is_their_mean(tmp_path):
    protocol = replace(PROTOCOL, methods=("sgd",), trials=2, trial_seeds=2, seeds=1)
    assert protocol.runs == (4, 1)
    assert "2 trials, each the mean over 2 seeds." in protocol.words()[0]
    (choice,) = Comparison(protocol, runner(tmp_path)).run()
    assert [RunFolder(tmp_path / name).config()["seed"] for name in choice.runs] == [2]
    for trial in read_trials(tmp_path, "sgd"):
        runs = [RunFolder(tmp_path / "trials" / name) for name in trial.runs]
        assert [run.config()["seed"] for run in runs] == [0, 1]
        accuracies = [run.result()["test_accuracy"] for run in runs]
        assert accuracies[0] != accuracies[1]
        assert trial.accuracy == pytest.approx(np.mean(accuracies))
        assert trial.seconds == pytest.approx(sum(run.result()["seconds"] for run in runs))


def test_a_trial_whose_second_seed_diverged_is_not_chosen(tmp_path, monkeypatch):
    """The first trial would be the most accurate."""

    def results(comparison, _, configs):
        good = {"sparsity": 0.0, "test_accuracy": 0.99 if configs[0].lr == CONFIG.lr else 0.5, "seconds": 1.0}
        lost = {"seconds": 1.0} if configs[0].lr == CONFIG.lr else good
        return {comparison._name(c): lost if c.seed else good for c in configs}

    monkeypatch.setattr(Comparison, "_train", results)
    protocol = replace(PROTOCOL, methods=("sgd",), trials=3, trial_seeds=2, seeds=2)
    (choice,) = Comparison(protocol, runner(tmp_path)).run()
    first, *_ = read_trials(tmp_path, "sgd")
    assert first.accuracy is None
    assert choice.candidate.values["lr"] != CONFIG.lr


def test_a_wanted_sparsity_is_that_of_the_weights_that_are_pruned(tmp_path, monkeypatch):
    """What a run tells is the sparsity of all parameters."""

    def results(comparison, _, configs):
        done = {"sparsity": 0.6, "test_accuracy": 0.9, "seconds": 1.0}
        return {comparison._name(config): done for config in configs}

    monkeypatch.setattr(Comparison, "_train", results)
    for prunable, among_them in ((1.0, 0.6), (0.75, 0.8), (0.5, 1.0)):
        protocol = replace(PROTOCOL, methods=("grda",), sparsities=(0.8,), prunable=prunable)
        Comparison(protocol, runner(tmp_path)).run()
        assert [trial.sparsity for trial in read_trials(tmp_path, "grda")] == [pytest.approx(among_them)] * 4
        assert json.loads((tmp_path / "comparison.json").read_text())["prunable"] == prunable
    assert "50.00 % of all parameters" in protocol.words()[-1]
    with pytest.raises(UsageError, match=r"must be in \(0, 1\]"):
        replace(PROTOCOL, prunable=1.5)


def test_the_strength_is_corrected_for_the_steps_that_all_images_add(compared):
    folder, choices = compared
    tried, space = read_trials(folder, "grda"), Space("grda", CONFIG)
    for choice in choices:
        if choice.method == "grda":
            as_tried = space.corrected(choice.trial, choice.target, tried).values["c"]
            assert choice.candidate.values["c"] == pytest.approx(as_tried * 0.8**0.6, rel=1e-3)
            assert RunFolder(folder / choice.runs[0]).config()["c"] == choice.candidate.values["c"]


def test_what_is_reported_was_trained_on_everything_with_equal_budgets(compared):
    folder, choices = compared
    assert len(choices) == CELLS
    held = [RunFolder(folder / name) for choice in choices for name in choice.runs]
    assert len(held) == 2 * CELLS == PROTOCOL.runs[1]
    assert {run.result()["measured_on"] for run in held} == {"test"}
    assert {run.result()["steps"] for run in held} == {2 * math.ceil(1437 / 128)}
    tried = {run.config()["seed"] for run in find_runs(folder / "trials")}
    assert tried == {0}
    for seed in (1, 2):  # new ones
        alike = [
            run for run in held if run.config()["seed"] == seed and run.config()["method"] != "small-dense"
        ]
        assert len({run.result()["initial_weights"] for run in alike}) == 1
        assert len({run.metrics()[0]["data_order"] for run in alike}) == 1


def test_the_same_call_trains_nothing_again(compared, monkeypatch):
    folder, choices = compared
    before = {path: path.read_bytes() for path in folder.rglob("*.json")}
    monkeypatch.setattr(Trainer, "_train", lambda *_: pytest.fail("trained again"))
    assert Comparison(PROTOCOL, runner(folder)).run() == choices
    assert before == {path: path.read_bytes() for path in folder.rglob("*.json")}


def test_an_interrupted_comparison_goes_on(compared, tmp_path, monkeypatch):
    """Stopped in the middle, then started again: the same trials, choices and weights."""
    folder, choices = compared
    protocol = replace(PROTOCOL, methods=("grda",))
    train, left = Trainer._train, [3]

    def stopping(self, stop):
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        train(self, stop)

    monkeypatch.setattr(Trainer, "_train", stopping)
    with pytest.raises(KeyboardInterrupt):
        Comparison(protocol, runner(tmp_path)).run()
    again = Comparison(protocol, runner(tmp_path)).run()
    assert [c.candidate for c in again] == [c.candidate for c in choices if c.method == "grda"]
    for name in (name for choice in again for name in choice.runs):
        model = "model.sparse.safetensors"
        assert (tmp_path / name / model).read_bytes() == (folder / name / model).read_bytes()


def test_another_machine_goes_on_from_the_archive(compared, tmp_path, monkeypatch):
    """All but two runs are in the archive: those alone are trained again, and the page is the same."""
    folder, choices = compared
    archive = tmp_path / "runs.jsonl"
    assert save_runs(folder, archive) == len(list(folder.rglob("result.json"))) > 20
    head, *lines = archive.read_text().splitlines()
    lost = [choices[1].runs[0], f"trials/{choices[2].trial.runs[0]}"]
    kept = [line for line in lines if json.loads(line)["run"] not in lost]
    assert len(kept) == len(lines) - 2
    archive.write_text("\n".join([head, *kept, ""]))
    trained, train = [], Trainer._train
    monkeypatch.setattr(
        Trainer, "_train", lambda self, stop: (trained.append(self._folder.path.name), train(self, stop))[1]
    )
    elsewhere = tmp_path / "elsewhere"
    assert Comparison(PROTOCOL, runner(elsewhere), archive).run() == [
        replace(choice, trial=again.trial)  # the seconds of a trial that was made again differ
        for choice, again in zip(choices, Comparison(PROTOCOL, runner(elsewhere)).run(), strict=True)
    ]
    assert sorted(trained) == sorted(Path(name).name for name in lost)
    assert archive.read_text().count("\n") == len(lines) + 1
    for name in (*lost, *choices[0].runs):
        here, there = RunFolder(folder / name), RunFolder(elsewhere / name)
        assert here.config() == there.config()
        assert here.metrics() == there.metrics()
    tables = [
        [replace(row, seconds=0, peak_bytes=0) for row in read_comparison(path).rows]
        for path in (folder, elsewhere)
    ]
    assert repr(tables[0]) == repr(tables[1])  # NaN is not equal to itself


def test_the_archive_of_another_experiment_is_refused_and_left_alone(compared, tmp_path):
    folder, _ = compared
    archive = tmp_path / "runs.jsonl"
    save_runs(folder, archive, folder.name)
    before = archive.read_bytes()
    with pytest.raises(RunFolderError, match=r"keeps the runs of runs, not of other: name another file"):
        Comparison(PROTOCOL, runner(tmp_path / "other"), archive).run()
    assert archive.read_bytes() == before
    assert not (tmp_path / "other").exists()
    assert restore_runs(archive, tmp_path / "anywhere") > 20


def test_what_another_machine_adds_meanwhile_stays_in_the_archive(compared, tmp_path, monkeypatch):
    folder, _ = compared
    archive, train = tmp_path / "runs.jsonl", TrialRunner.train

    def beside_another(self, *arguments, **options):
        if not archive.exists():
            save_runs(folder, archive)
        return train(self, *arguments, **options)

    monkeypatch.setattr(TrialRunner, "train", beside_another)
    alone = replace(PROTOCOL, methods=("sgd",), seeds=1, trials=1)
    Comparison(alone, runner(tmp_path / "elsewhere"), archive).run()
    kept = {json.loads(line)["run"] for line in archive.read_text().splitlines()[1:]}
    assert kept >= {str(path.parent.relative_to(folder)) for path in folder.rglob("result.json")}


def test_numbers_of_the_table(compared):
    """Means, deviations and the paired interval against NumPy and SciPy, from the runs' own files."""
    folder, choices = compared
    results = read_comparison(folder)
    rows = {(row.method, row.target): row for row in results.rows}
    assert len(rows) == CELLS
    assert results.targets == [0.5, 0.8]
    outcome = {(c.method, c.target): [RunFolder(folder / name).result() for name in c.runs] for c in choices}
    for cell, row in rows.items():
        accuracies = [result["test_accuracy"] for result in outcome[cell]]
        assert row.accuracy.mean == pytest.approx(np.mean(accuracies))
        assert row.accuracy.std == pytest.approx(np.std(accuracies, ddof=1))
        assert row.seeds == (2, 2)
    ours, theirs = (
        [result["test_accuracy"] for result in outcome[name, 0.8]] for name in ("grda", "gradual")
    )
    interval = ttest_rel(theirs, ours).confidence_interval(0.95)
    difference = rows["gradual", 0.8].difference
    assert (difference.low, difference.high) == pytest.approx((interval.low, interval.high))
    assert rows["grda", 0.8].difference is None
    assert rows["sgd", None].difference is None


def test_any_method_may_be_the_reference(compared, tmp_path):
    """The dense network too, beside which every sparsity is held."""
    folder, _ = compared
    shutil.copytree(folder, tmp_path / "runs", ignore=shutil.ignore_patterns("trials"))
    content = json.loads((folder / "comparison.json").read_text())
    for reference in ("gradual", "sgd"):
        (tmp_path / "runs" / "comparison.json").write_text(json.dumps({**content, "reference": reference}))
        results = read_comparison(tmp_path / "runs")
        rows = {(row.method, row.target): row for row in results.rows}
        paired_with = rows.get((reference, 0.8)) or rows[reference, None]
        expected = rows["grda", 0.8].accuracy.mean - paired_with.accuracy.mean
        assert rows["grda", 0.8].difference.mean == pytest.approx(expected)
        assert paired_with.difference is None
        (page,) = comparison_sections(results)
        assert all(f"to {paired_with.title}, points (95 %)" in table.head for table in page.tables[:3])


def test_the_reference_is_grda_or_the_first():
    assert PROTOCOL.paired_with == "grda"
    assert replace(PROTOCOL, methods=("gradual", "sgd")).paired_with == "gradual"
    assert replace(PROTOCOL, reference="small-dense").paired_with == "small-dense"


def test_sparsity_is_counted_in_the_full_network(compared):
    folder, _ = compared
    rows = {(row.method, row.target): row for row in read_comparison(folder).rows}
    parameters, weights = 50_610, 50_200
    assert rows["gradual", 0.8].sparsity.mean == pytest.approx(0.8 * weights / parameters, abs=1e-9)
    # The small dense network has no zeros, but as few weights: to within a unit of its layers.
    assert rows["small-dense", 0.8].sparsity.mean == pytest.approx(0.8, abs=0.02)
    assert rows["small-dense", 0.8].macs < 0.3 * rows["sgd", None].macs
    assert not any(rows["small-dense", 0.8].layers.values())
    assert rows["gradual", 0.8].layers.keys() == {"fc1.weight", "fc2.weight", "fc3.weight"}


def test_the_page_and_the_terminal_show_every_method(compared, tmp_path):
    folder, _ = compared
    results = read_comparison(folder)
    console = Console(record=True, width=160, file=(tmp_path / "terminal").open("w"))
    print_comparison(results, console)
    page = write_report(folder).read_text()
    said = console.export_text()
    for title in ("dense SGD", "gRDA", "small dense", "magnitude, gradual"):
        assert title in page
        assert title in said
    assert "Accuracy against sparsity" in page
    assert page.count("<svg") >= 1
    assert "The course of training" not in page
    assert len(results.protocol) > 3
    assert all(sentence.split("'")[0][:60] in page for sentence in results.protocol)
    path = write_results(folder, results, {"command": "test"})
    assert len(json.loads(path.read_text())["rows"]) == CELLS


def test_a_damaged_comparison_is_named(compared, tmp_path):
    (tmp_path / "comparison.json").write_text('{"choices": 3}')
    with pytest.raises(RunFolderError):
        read_comparison(tmp_path)
    folder, _ = compared
    whole = (folder / "comparison.json").read_text()
    try:
        for damage in ('{"choices": 3}', "[]", whole[: len(whole) // 2]):
            (folder / "comparison.json").write_text(damage)
            with pytest.raises(RunFolderError, match="run `dirprune compare` again"):
                read_comparison(folder)
    finally:
        (folder / "comparison.json").write_text(whole)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"format": 9}',
        '{"format": 1, "config": {}, "environments": []}\n{"run": "a"}',
        '{"format": 1, "config": {}, "environments": [{}]}\n'
        '{"run": "../a", "config": {}, "environment": 0, "metrics": {}, "result": {}}',
    ],
)
def test_a_damaged_archive_is_refused_and_makes_no_run(tmp_path, content):
    (tmp_path / "runs.jsonl").write_text(content)
    with pytest.raises(RunFolderError, match=r"runs\.jsonl"):
        restore_runs(tmp_path / "runs.jsonl", tmp_path / "folder")
    assert not list(tmp_path.rglob("config.json"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ("grda", "rigel")}, "unknown method"),
        ({"sparsities": (0.9, 0.9)}, "nothing twice"),
        ({"sparsities": (1.0,)}, r"in \(0, 1\)"),
        ({"reference": "rigl"}, "`reference` must be among the methods"),
        ({"trials": 0}, "`trials` must be >= 1"),
        ({"config": replace(CONFIG, prune="all")}, "`prune` must be weights"),
        ({"config": replace(CONFIG, settings=("drop=0.5",))}, "are searched here"),
        ({"config": replace(CONFIG, validation=0.0)}, "`validation` must be > 0"),
        ({"config": replace(CONFIG, lr=0.0)}, "`lr` must be > 0"),
        ({"config": replace(CONFIG, c=0.0)}, "`c` must be > 0"),
        ({"methods": ("rda",), "config": replace(CONFIG, beta2=0.999)}, "rda has no form with Adam's"),
        ({"config": replace(CONFIG, penalty="l0")}, "are methods of their own"),
    ],
)
def test_bad_requests(changes, message):
    with pytest.raises(UsageError, match=message):
        replace(PROTOCOL, **changes)
