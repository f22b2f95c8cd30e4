"""The headline says what happened, and says it also when that is bad."""

import pytest

from dirprune.report import wording
from dirprune.report.summary import Spread, summarise
from tests.report.conftest import DIVERGED, Experiment


def spoken(experiment: Experiment) -> list[str]:
    found = wording.headline(summarise(experiment.path))
    return [text.replace("\u00a0", " ") for text in (found.sentence, *found.notes)]


def grda(mu: float = 0.6, seed: int = 0) -> dict[str, object]:
    return {"method": "grda", "c": 0.0005, "mu": mu, "seed": seed}


def test_a_pair_of_variants(experiment: Experiment) -> None:
    for seed, (sgd, pruned) in enumerate(((0.970, 0.972), (0.980, 0.971), (0.970, 0.970))):
        experiment.pair(seed, sgd, pruned, sparsity=0.913)
    assert spoken(experiment) == [
        "gRDA removed 91.3 % of the weights; "
        "test accuracy 97.1 ± 0.1 % against 97.3 ± 0.6 % for SGD (3 seeds).",
        "Paired by seed, the difference to SGD is \u22120.23 ± 0.59 points: "
        "better in 1, equal in 1, worse in 1 of 3 pairs.",
    ]


def test_a_loss_is_called_a_cost(experiment: Experiment) -> None:
    experiment.pair(0, 0.97, 0.83, sparsity=0.99)
    assert spoken(experiment) == [
        "gRDA removed 99.0 % of the weights at a cost of 14.0 points; "
        "test accuracy 83.0 % against 97.0 % for SGD (1 seed).",
        "The difference to SGD of the same seed is \u221214.00 points.",
    ]


def test_failed_runs_are_counted(experiment: Experiment) -> None:
    experiment.add("a", {}, failure="out of memory")
    experiment.add("b", {"seed": 1}, DIVERGED)
    experiment.add("c", {"seed": 2})
    assert spoken(experiment) == ["No run has finished: 1 diverged, 1 failed and 1 unfinished."]


def test_runs_that_diverged_or_were_interrupted_are_counted(experiment: Experiment) -> None:
    experiment.pair(0, 0.9, 0.9)
    experiment.add("sgd-1", {"seed": 1}, {"test_accuracy": 0.9})
    experiment.add("grda-1", grda(seed=1), DIVERGED)
    experiment.add("grda-2", grda(seed=2))
    sentence, _, note = spoken(experiment)
    assert "test accuracy 90.0 % (1 seed) against 90.0 ± 0.0 % for SGD (2 seeds)" in sentence
    assert note == "Of 5 runs: 1 diverged and 1 unfinished; means are over finished runs alone."


def test_of_several_the_sparsest_that_keeps_the_accuracy(experiment: Experiment) -> None:
    experiment.add("sgd", {}, {"test_accuracy": 0.95})
    for mu, accuracy, sparsity in (
        (0.5, 0.96, 0.6),
        (0.6, 0.945, 0.9),
        (0.65, 0.93, 0.95),
        (0.7, 0.951, 0.97),
    ):
        experiment.add(f"{mu}", grda(mu), {"test_accuracy": accuracy, "sparsity": sparsity})
    experiment.add("again", grda(0.7, seed=1), DIVERGED)
    sentence, rule, *_ = spoken(experiment)
    assert sentence.startswith("gRDA c=5e-4 mu=0.6 removed 90.0 %")
    assert rule == "It is the sparsest of 4 settings that stay within 1 point of SGD and never diverged."


def test_of_several_that_all_lose_the_closest(experiment: Experiment) -> None:
    experiment.add("sgd", {}, {"test_accuracy": 0.95})
    for mu, accuracy, sparsity in ((0.6, 0.93, 0.9), (0.7, 0.91, 0.97)):
        experiment.add(f"{mu}", grda(mu), {"test_accuracy": accuracy, "sparsity": sparsity})
    sentence, rule, *_ = spoken(experiment)
    assert sentence.startswith("gRDA c=5e-4 mu=0.6 removed 90.0 % of the weights at a cost of 2.0 points")
    assert rule.startswith("None of 2 settings")


def test_without_sgd(experiment: Experiment) -> None:
    experiment.add("grda", grda() | {"validation": 0.1}, {"test_accuracy": 0.9, "sparsity": 0.5})
    assert spoken(experiment) == [
        "gRDA removed 50.0 % of the weights and reached 90.0 % validation accuracy (1 seed); "
        "there is no finished SGD run of the same settings to compare it with."
    ]


def test_sgd_alone(experiment: Experiment) -> None:
    experiment.add("sgd", {}, {"test_accuracy": 0.9})
    experiment.add("grda", grda(), DIVERGED)
    sentence, note = spoken(experiment)
    assert sentence == (
        "SGD reached 90.0 % test accuracy (1 seed). There is no finished pruning run to compare with it."
    )
    assert note.startswith("Of 2 runs: 1 diverged;")


def test_no_result_at_all(experiment: Experiment) -> None:
    experiment.add("a", grda(), DIVERGED)
    experiment.add("b", grda(seed=1), metrics=[])
    assert spoken(experiment) == ["No run has finished: 1 diverged and 1 unfinished."]


def test_percentages_never_round_up_to_all() -> None:
    assert [wording.percent(x) for x in (0.0, 0.99994, 0.999996, 1.0)] == [
        "0.00",
        "99.99",
        "99.9996",
        "100.00",
    ]


@pytest.mark.parametrize(
    ("dense", "sparse", "words"),
    [
        (740, 100, "7.4x smaller"),
        (4900, 100, "49x smaller"),
        (100, 100, "as dense"),
        (100, 150, "1.5x larger"),
    ],
)
def test_factor_of_a_file(experiment: Experiment, dense: int, sparse: int, words: str) -> None:
    experiment.add("run", {}, {"dense_bytes": dense, "sparse_bytes": sparse})
    assert wording.factor(summarise(experiment.path)[0]) == words


def test_units() -> None:
    assert [wording.size(x) for x in (1, 1536, 150 * 1024, 2**20, 2.5 * 2**30)] == [
        "1 bytes",
        "1.5 KiB",
        "150 KiB",
        "1.0 MiB",
        "2.5 GiB",
    ]
    assert [wording.duration(x) for x in (0.04, 59.9, 59.96, 596, 598, 3599, 7200, 272520)] == [
        "0.0 s",
        "59.9 s",
        "1.0 min",
        "9.9 min",
        "10 min",
        "1.0 h",
        "2.0 h",
        "76 h",
    ]
    assert [wording.loss(x) for x in (2.298, 0.0123, 0.00012, 0.0, float("nan"))] == [
        "2.30",
        "0.012",
        "1.2e-4",
        "0",
        "nan",
    ]
    assert wording.points(Spread.of([-0.00001])) == "0.00"
