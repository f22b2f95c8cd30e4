"""A recipe picks precision and layout once: recorded, kept by every repetition, told by folder and config."""

import json
from dataclasses import replace

import pytest

from dirprune.bench import TrainingTable, measure_training
from dirprune.bench.interleave import Timing
from dirprune.cli import compute, main
from dirprune.errors import UsageError
from dirprune.recipes import get_recipe
from dirprune.runs import find_runs
from dirprune.train import Execution, TrainConfig, build
from dirprune.train.environment import bf16_hardware

QUICK = [
    *("--seeds", "1", "--epochs", "1", "--threads", "1", "--jobs", "1", "--methods", "grda"),
    *("--compute", "auto"),
]
FAST = {"float32": 1.0, "channels_last": 0.9, "bf16": 0.6, "bf16, channels_last": 0.4}


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.accelerator.is_available", lambda: False)


@pytest.fixture
def machine(monkeypatch):
    """Make this a machine where steps take given times; the names of what was timed are returned."""

    def is_one_with(times, hardware="avx512_bf16"):
        timed = []

        def measured(build, shape, num_classes, *, batch_size, names, **options):
            timed.extend(names)
            all_times = {name: Timing(times[name], 0, 0, 3) for name in ["float32", *names]}
            return TrainingTable(batch_size, "cpu", 1, all_times, {})

        monkeypatch.setattr(compute, "measure_training", measured)
        monkeypatch.setattr(compute, "bf16_hardware", lambda _: hardware)
        return timed

    return is_one_with


def trained(capsys, *options):
    code = main(["train", "digits", *QUICK, *options])
    out, error = capsys.readouterr()
    assert code == 0, error
    return out


def test_the_fastest_is_taken_recorded_and_told(machine, tmp_path, capsys):
    machine(FAST)
    out = trained(capsys)
    assert "computes in bf16, channels_last: the fastest here (avx512_bf16 found; times of a step" in out
    assert "bf16, channels_last 0.40); --precision and --channels-last say it by hand" in out
    folder = tmp_path / "runs" / "digits-epochs1-precisionbf16-channels-lastTrue"
    record = json.loads((folder / "compute.json").read_text())
    assert (record["precision"], record["channels_last"], record["hardware"]) == ("bf16", True, "avx512_bf16")
    assert record["ratios"] == pytest.approx(FAST)
    (run,) = find_runs(folder)
    assert (run.config()["precision"], run.config()["channels_last"]) == ("bf16", True)


def test_a_repetition_keeps_to_the_record_whatever_the_machine_has_become(machine, tmp_path, capsys):
    machine(FAST)
    trained(capsys)
    (run,) = find_runs(tmp_path / "runs" / "digits-epochs1-precisionbf16-channels-lastTrue")
    before = (run.path / "result.json").stat().st_mtime_ns
    timed = machine(dict.fromkeys(FAST, 1.0), hardware=None)
    out = trained(capsys)
    assert timed == []
    assert (run.path / "result.json").stat().st_mtime_ns == before
    assert "computes in bf16, channels_last: as chosen before" in out
    assert "no instructions for bf16 and computes it slowly" in out
    trained(capsys, "--seeds", "2")  # a seed more belongs to the same experiment
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [run.path.parent.name]


@pytest.mark.parametrize("by_hand", [["--precision", "no"], ["--no-channels_last"], ["--precision=no"]])
def test_said_by_hand_nothing_is_chosen(by_hand, machine, tmp_path, capsys):
    timed = machine(FAST)
    assert "computes in" not in trained(capsys, *by_hand)
    assert timed == []
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["digits-epochs1"]
    assert not list(tmp_path.rglob("compute.json"))


def test_a_small_gain_leaves_float32_and_is_recorded_too(machine, tmp_path, capsys):
    machine({**dict.fromkeys(FAST, 1.0), "channels_last": 0.85})
    assert "computes in float32: nothing is worth it here" in trained(capsys)
    assert (tmp_path / "runs" / "digits-epochs1" / "compute.json").is_file()
    machine(FAST)
    assert "computes in float32: as chosen before" in trained(capsys)


def test_without_instructions_bf16_is_not_timed(machine, tmp_path, capsys):
    timed = machine({**FAST, "channels_last": 0.7}, hardware=None)
    assert "computes in channels_last" not in (out := trained(capsys))
    assert "computes in float32, channels_last: the fastest here (no instructions for bf16 found" in out
    assert timed == ["channels_last"]
    assert (tmp_path / "runs" / "digits-epochs1-channels-lastTrue" / "compute.json").is_file()


def test_runs_that_were_begun_without_a_choice_go_on_as_they_are(machine, tmp_path, capsys):
    machine(FAST)
    trained(capsys, "--precision", "no")
    timed = machine(FAST)
    trained(capsys)
    assert timed == []
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["digits-epochs1"]


def test_a_dry_run_writes_nothing(machine, tmp_path, capsys):
    machine(FAST)
    assert "computes in bf16, channels_last" in trained(capsys, "--dry-run")
    assert list(tmp_path.iterdir()) == []


def test_a_step_is_timed_on_what_a_process_takes_at_once_and_on_less_where_memory_ends(tmp_path):
    tried = []

    def measure(images):
        tried.append(images)
        if images > 10:
            raise compute.torch.OutOfMemoryError
        return images

    assert compute._timed(measure, 32) == 8
    assert tried == [32, 16, 8]
    with pytest.raises(compute.torch.OutOfMemoryError):
        compute._timed(lambda images: measure(images + 10), 4)


@pytest.mark.parametrize(("accumulation", "images"), [(1, 8), (16, 2)])
def test_accumulation_leaves_fewer_images_at_once(accumulation, images, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(compute, "_timed", lambda _, images: seen.append(images) or 1 / 0)
    asked = replace(get_recipe("digits"), compute="auto")
    with pytest.raises(ZeroDivisionError):
        compute.choose(asked, lambda _: tmp_path, [], execution=Execution(accumulation=accumulation))
    assert seen == [images]


@pytest.mark.parametrize("command", ["tune", "compare"])
def test_tune_and_compare_compute_as_train_does(command, machine, monkeypatch, tmp_path, capsys):
    """What they train in short is what the line they print will train."""
    machine(FAST)
    recipe = replace(get_recipe("digits"), compute="auto")
    monkeypatch.setattr(f"dirprune.cli.{command}.get_recipe", lambda _: recipe)
    options = {
        "tune": ["--target-sparsity", "0.5", "--trial-epochs", "4"],
        "compare": ["--methods", "grda", "--sparsities", "0.5", "--trials", "1", "--seeds", "1"],
    }
    words = [command, "digits", "--epochs", "4", "--threads", "1", "--jobs", "1", *options[command]]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "computes in bf16, channels_last: the fastest here" in said
    runs = [json.loads(path.read_text()) for path in tmp_path.rglob("config.json")]
    assert {(run["precision"], run["channels_last"]) for run in runs} == {("bf16", True)}
    if command == "tune":
        assert "--precision bf16 --channels-last" in said.replace("\n", " ")


@pytest.mark.parametrize(
    "content",
    [
        "{",
        '{"precision": "bf17", "channels_last": false, "why": ""}',
        '{"precision": "no", "channels_last": "no", "why": ""}',
    ],
)
def test_a_damaged_record_is_one_line(content, machine, tmp_path, capsys):
    (tmp_path / "runs" / "digits-epochs1").mkdir(parents=True)
    (tmp_path / "runs" / "digits-epochs1" / "compute.json").write_text(content)
    assert main(["train", "digits", *QUICK]) == 2
    error = capsys.readouterr().err
    assert "compute.json cannot be read" in error
    assert error.count("\n") == 1


def test_this_machine_is_timed_as_it_is(monkeypatch, tmp_path):
    recipe = get_recipe("digits")
    asked = replace(recipe, compute="auto")
    calls = []
    monkeypatch.setattr(
        compute, "measure_training", lambda *given, **options: calls.append(options) or measure_training(
            *given, **options
        ),
    )  # fmt: skip
    chosen, notes = compute.choose(asked, lambda config: tmp_path / config.experiment_name(recipe.config), [])
    (record,) = tmp_path.glob("*/compute.json")
    held = json.loads(record.read_text())
    assert record.parent.name == chosen.config.experiment_name(recipe.config)
    assert (held["precision"], held["channels_last"]) == (
        chosen.config.precision,
        chosen.config.channels_last,
    )
    assert set(held["times"]) == {"float32", *calls[0]["names"]}
    assert ("bf16" in held["times"]) == (bf16_hardware(compute.torch.device("cpu")) is not None)
    assert len(notes) == 1


def test_recipes_of_large_networks_choose_and_small_ones_are_the_same_everywhere():
    kinds = {name: get_recipe(name).compute for name in ("digits", "lenet5-fashion_mnist", "vgg16-cifar10")}
    assert list(kinds.values()) == ["fixed", "fixed", "auto"]
    assert {get_recipe(name).compute for name in ("wrn10x1-cifar100", "resnet50-imagenet")} == {"auto"}


def test_a_device_without_bf16_refuses_a_run_in_bf16(monkeypatch):
    config = TrainConfig(recipe="mine", dataset="digits", model="lenet-300-100", precision="bf16")
    monkeypatch.setattr(build, "is_bf16_available", lambda: False)
    with pytest.raises(UsageError, match="cannot compute in bf16"):
        build.make_accelerator(config)
    build.make_accelerator(replace(config, precision="no"))


def test_what_linux_says_of_the_processor_decides(monkeypatch):
    device = compute.torch.device("cpu")
    for flags, found in [
        ("flags : fpu avx512_bf16 amx_bf16", "amx_bf16"),
        ("flags : fpu avx512_bf16", "avx512_bf16"),
        ("Features : fp asimd bf16", "bf16"),
        ("flags : fpu avx512f", None),
    ]:
        monkeypatch.setattr("pathlib.Path.is_file", lambda _: True)
        monkeypatch.setattr("pathlib.Path.read_text", lambda _, text=flags: f"model name : X\n{text}\n")
        assert bf16_hardware(device) == found
