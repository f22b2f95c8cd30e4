"""Variants against figures worked out by hand or by the statistics module."""

import statistics

import pytest

from dirprune.errors import RunFolderError
from dirprune.report.summary import Spread, summarise, variant_labels
from tests.report.conftest import DIVERGED, Experiment


def test_means_deviations_and_paired_differences(experiment: Experiment) -> None:
    dense, pruned, losses = [0.970, 0.980, 0.975], [0.972, 0.971, 0.969], [0.01, 0.02, 0.06]
    for seed in range(3):
        experiment.pair(seed, dense[seed], pruned[seed], train_loss=losses[seed], seconds=10 + seed)
    sgd, grda = summarise(experiment.path)
    assert (sgd.label, grda.label) == ("SGD", "gRDA c=5e-4 mu=0.6")
    assert sgd.finished == grda.finished == (0, 1, 2)
    gaps = [b - a for a, b in zip(dense, pruned, strict=True)]
    for spread, values in (
        (sgd.test_accuracy, dense),
        (grda.test_accuracy, pruned),
        (grda.train_loss, losses),
        (grda.seconds, [10, 11, 12]),
        (grda.sparse_bytes, [1800] * 3),
        (grda.difference, gaps),
    ):
        assert spread is not None
        assert spread.mean == pytest.approx(statistics.mean(values))
        assert spread.sd == pytest.approx(statistics.stdev(values))
    assert sgd.difference is None
    assert grda.twin is sgd


def test_one_value_has_no_deviation_and_none_has_no_mean() -> None:
    assert Spread.of([0.5]) == Spread(0.5, None, (0.5,))
    assert Spread.of([]) is None


def test_only_seeds_that_both_finished_are_paired(experiment: Experiment) -> None:
    experiment.pair(0, 0.90, 0.93)
    experiment.add("sgd-1", {"seed": 1}, DIVERGED)
    experiment.add("sgd-2", {"seed": 2})
    for seed in (1, 2):
        experiment.add(f"grda-{seed}", {"seed": seed, "method": "grda", "c": 0.0005}, {"test_accuracy": 0.5})
    sgd, grda = summarise(experiment.path)
    assert (sgd.finished, sgd.diverged, sgd.unfinished) == ((0,), (1,), (2,))
    assert grda.difference is not None
    assert grda.difference.values == (pytest.approx(0.03),)


def test_runs_from_other_initial_weights_are_no_pair(experiment: Experiment) -> None:
    experiment.pair(0, 0.90, 0.93, initial_weights="other")
    assert summarise(experiment.path)[1].difference is None


def test_runs_whose_initial_weights_are_not_known_are_no_pair(experiment: Experiment) -> None:
    experiment.add("sgd", {}, {"initial_weights": None})
    experiment.add("grda", {"method": "grda", "c": 0.0005}, {"initial_weights": None})
    assert [row.difference for row in summarise(experiment.path)] == [None, None]


def test_runs_of_other_settings_are_no_pair(experiment: Experiment) -> None:
    experiment.add("sgd", {"lr": 0.2}, {})
    experiment.add("grda", {"method": "grda", "c": 0.0005}, {})
    sgd, grda = summarise(experiment.path)
    assert (sgd.label, grda.label) == ("SGD lr=0.2", "gRDA c=5e-4 mu=0.6 lr=0.1")
    assert grda.twin is None
    assert grda.difference is None


def test_an_sgd_run_serves_every_c_mu_and_choice_of_parameters(experiment: Experiment) -> None:
    experiment.add("sgd", {"mu": 0.4}, {"test_accuracy": 0.9})
    for mu, prune in ((0.51, "all"), (0.6, "weights")):
        config = {"method": "grda", "c": 0.005, "mu": mu, "prune": prune}
        experiment.add(f"grda-{mu}", config, {"test_accuracy": 0.8, "sparsity": mu})
    labels = ["SGD", "gRDA c=5e-3 mu=0.51 prune=all", "gRDA c=5e-3 mu=0.6 prune=weights"]
    summaries = summarise(experiment.path)
    assert [summary.label for summary in summaries] == labels
    assert [s.difference.mean for s in summaries[1:] if s.difference] == pytest.approx([-0.1, -0.1])


def test_sgd_first_then_from_dense_to_sparse_then_what_has_no_result(experiment: Experiment) -> None:
    for index, (mu, sparsity) in enumerate(((0.6, 0.9), (0.51, 0.6), (0.7, 0.97))):
        experiment.add(f"a{index}", {"method": "grda", "c": 0.01, "mu": mu}, {"sparsity": sparsity})
    experiment.add("b", {"method": "grda", "c": 0.01, "mu": 0.1})
    experiment.add("z", {}, {})
    mus = [summary.label.rpartition("=")[2] for summary in summarise(experiment.path)]
    assert mus == ["SGD", "0.51", "0.6", "0.7", "0.1"]


def test_a_setting_that_only_one_variant_has_is_in_its_label() -> None:
    plain, extra = {"method": "sgd", "lr": 0.1}, {"method": "sgd", "lr": 0.1, "flip": True}
    assert variant_labels([plain, extra]) == ["SGD", "SGD flip=true"]


@pytest.mark.parametrize("value", ["\x1b[31m", "\ud800", "a\nb"])
def test_labels_are_printable(value: str) -> None:
    labels = variant_labels([{"method": value, value: value}, {"method": "sgd"}])
    assert all(label.isprintable() for label in labels)


def test_held_back_data_is_named(experiment: Experiment) -> None:
    experiment.add("sgd", {"validation": 0.1}, {})
    experiment.add("grda", {"method": "grda"}, {})
    assert [summary.measured_on for summary in summarise(experiment.path)] == ["validation", "test"]


def test_a_run_that_counts_twice_is_refused(experiment: Experiment) -> None:
    experiment.add("one", {}, {})
    experiment.add("copy", {}, {})
    with pytest.raises(RunFolderError, match=r"copy and one are the same configuration and seed 0: move"):
        summarise(experiment.path)


def test_labels_leave_out_what_means_nothing_to_a_method():
    shared = {"model": "lenet5"}
    settings = [
        {"method": "grda", "c": 5e-4, "mu": 0.6, "sparsity": None, "settings": [], **shared},
        {"method": "rigl", "c": 0.0, "mu": 1.0, "sparsity": 0.9, "settings": ["drop=0.5"], **shared},
        {"method": "set", "c": 0.0, "mu": 1.0, "sparsity": 0.8, "settings": [], **shared},
    ]
    labels = ["gRDA c=5e-4 mu=0.6", "rigl sparsity=0.9 drop=0.5", "set sparsity=0.8"]
    assert variant_labels(settings) == labels


def test_another_penalty_is_named_and_runs_from_before_the_choice_count_as_l1(
    experiment: Experiment,
) -> None:
    grda = {"method": "grda", "c": 0.01, "mu": 0.6}
    experiment.add("sgd", {"penalty": "l1"}, {"test_accuracy": 0.9})
    experiment.add("old", {**grda, "seed": 1}, {"sparsity": 0.5})
    experiment.add("new", {**grda, "penalty": "l1"}, {"sparsity": 0.5, "test_accuracy": 0.8})
    experiment.add("l0", {**grda, "penalty": "l0"}, {"sparsity": 0.55, "test_accuracy": 0.85})
    experiment.add("group", {**grda, "penalty": "group"}, {"sparsity": 0.6, "test_accuracy": 0.7})
    summaries = summarise(experiment.path)
    grdas = [f"gRDA {penalty}c=0.01 mu=0.6" for penalty in ("", "l0 ", "group ")]
    assert [s.label for s in summaries] == ["SGD", *grdas]
    assert [s.finished for s in summaries] == [(0,), (0, 1), (0,), (0,)]
    assert [s.difference.mean for s in summaries[1:] if s.difference] == pytest.approx([-0.1, -0.05, -0.2])
