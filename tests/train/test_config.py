"""Configurations and durations: names, twins, and refused values."""

import hashlib
from dataclasses import replace

import pytest

from dirprune.errors import UsageError
from dirprune.train import Duration, Execution, Experiment, TrainConfig

BASE = TrainConfig(recipe="mine", dataset="digits", model="lenet-300-100")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("c", -1.0, "`c` must be a finite number >= 0, got -1.0"),
        ("c", float("nan"), "`c` must be"),
        ("mu", 0.0, r"`mu` must be in \(0, 1\], got 0.0"),
        ("mu", 1.5, "`mu` must be"),
        ("penalty", "l2", "`penalty` must be one of l1, l0, group, rescaled, got l2"),
        ("lr", -0.1, "`lr` must be"),
        ("lr", float("inf"), "`lr` must be"),
        ("lr", 1e39, "`lr` must be"),
        ("momentum", 1.0, "`momentum` must be"),
        ("nesterov", True, "`nesterov` must be used together with `momentum` > 0"),
        ("weight_decay", -1.0, "`weight_decay` must be"),
        ("prune", "some", "`prune` must be all or weights, got some"),
        ("precision", "bf17", "`precision` must be one of no, bf16, fp16, got bf17"),
        ("batch_size", 0, "`batch_size` must be >= 1, got 0"),
        ("epochs", 0, "`epochs` must be"),
        ("schedule_epochs", -5, "`schedule_epochs` must be >= 1, got -5"),
        ("width", 0.0, "`width` must be"),
        ("crop_padding", -1, "`crop_padding` must be"),
        ("mean", (0.1, 0.2), "`mean` must be as long as `std`"),
        ("std", (0.0,), "`std` must be > 0"),
        ("validation", 1.0, "`validation` must be"),
        ("seed", -1, "`seed` must be"),
    ],
)
def test_refused_values(field, value, message):
    with pytest.raises(UsageError, match=message):
        replace(BASE, **{field: value})


def test_an_unknown_way_to_divide_a_run_is_refused():
    with pytest.raises(UsageError, match="`parallel` must be ddp or fsdp2, got dp"):
        Execution(parallel="dp")


def test_a_schedule_is_at_least_as_long_as_the_training_and_a_constant_one_has_no_end():
    with pytest.raises(UsageError, match="`schedule_epochs` must be at least `epochs`, which is 100, got 99"):
        replace(BASE, schedule="half-linear", schedule_epochs=99)
    assert replace(BASE, schedule_epochs=99).rate_factor(100) == 1


def test_runs_of_an_experiment_are_paired_by_seed():
    runs = Experiment(config=replace(BASE, c=1e-3, mu=0.51, seed=5), seeds=2).runs()
    assert [run.run_name for run in runs] == [
        "sgd-seed5",
        "grda-c0.001-mu0.51-seed5",
        "sgd-seed6",
        "grda-c0.001-mu0.51-seed6",
    ]
    # One dense twin serves every c and mu.
    assert runs[0] == replace(BASE, c=2e-3, mu=0.6, seed=5).with_method("sgd")


def test_experiments_of_nothing_are_refused():
    with pytest.raises(UsageError, match="`seeds`"):
        Experiment(config=BASE, seeds=0)
    with pytest.raises(UsageError, match="`methods`"):
        Experiment(config=BASE, methods=())


@pytest.mark.parametrize("penalty", ["l0", "rescaled"])
def test_a_form_of_grda_is_run_by_its_penalty_to_which_c_and_mu_belong(penalty):
    with pytest.raises(
        UsageError, match=f"must name grda with `penalty` {penalty}, `c` and `mu`: grda-{penalty} is known"
    ):
        Experiment(config=BASE, methods=("sgd", f"grda-{penalty}"), c=(1e-3, 2e-3))


def test_folder_names_say_what_was_changed():
    assert replace(BASE, mu=0.7, c=1e-3, seed=3).experiment_name(BASE) == "mine"
    changed = replace(BASE, epochs=5, weight_decay=1e-4, mean=(0.1, 0.2), std=(1.0, 1.0))
    assert changed.experiment_name(BASE) == "mine-weight-decay0.0001-epochs5-mean0.1_0.2-std1_1"


def test_a_long_name_is_cut_and_ends_in_a_hash_of_the_whole():
    """File systems take 255 bytes; names of up to 200 stay as they are, for runs that are there already."""
    means = replace(BASE, mean=(0.1,) * 45, std=(0.5,) * 3 + (0.25,) * 42)
    whole = "mine-mean" + "_".join(["0.1"] * 45) + "-std0.5_0.5_0.5_" + "_".join(["0.25"] * 42)
    digest = hashlib.sha256(whole.encode()).hexdigest()[:12]
    assert means.experiment_name(BASE) == f"{whole[:187]}-{digest}"
    assert means.experiment_name(BASE) != replace(means, std=(0.25,) * 45).experiment_name(BASE)

    for length in (199, 200, 201, 900):
        long = replace(BASE, recipe="x" * length)
        assert len(long.experiment_name(long)) == min(length, 200)
        assert (long.experiment_name(long) == long.recipe) == (length <= 200)


def test_a_long_name_of_a_run_keeps_its_seed():
    settings = tuple(f"drop={'9' * 30}{number}" for number in range(9))
    runs = [replace(BASE, method="sgd", settings=settings, seed=seed) for seed in (0, 2**63 - 1)]
    heads, seeds = zip(*(run.run_name.rsplit("-", 1) for run in runs), strict=True)
    assert seeds == ("seed0", "seed9223372036854775807")
    assert heads[0] == heads[1]
    assert len(heads[0]) == 200
    assert replace(runs[0], settings=settings[::-1]).run_name != runs[0].run_name
    wide = replace(BASE, method="sgd", settings=(f"drop={'ü' * 200}",)).run_name  # two bytes each
    assert len(wide.encode()) <= 206


def test_the_penalty_is_of_a_run_and_of_grda_alone():
    group = replace(BASE, penalty="group")
    assert group.experiment_name(BASE) == "mine"
    assert group.run_name == "grda-group-c0.0005-mu0.6-seed0"
    assert group.with_method("sgd") == BASE.with_method("sgd")
    assert group.with_method("grda").penalty == "group"
    assert replace(BASE, penalty="l0").run_name == "grda-l0-c0.0005-mu0.6-seed0"
    assert BASE.run_name == "grda-c0.0005-mu0.6-seed0"


@pytest.mark.parametrize(("text", "iterations"), [("1ep", 391), ("160ep", 62560), ("2000it", 2000)])
def test_duration(text, iterations):
    duration = Duration.parse(text)
    assert duration.iterations(391) == iterations
    assert str(duration) == text


@pytest.mark.parametrize("text", ["", "5", "0ep", "-1ep", "5 ep", "5epochs", "1.5ep", "ep"])
def test_duration_without_a_unit_is_refused(text):
    with pytest.raises(UsageError, match="such as '1ep' or '500it'"):
        Duration.parse(text)
