"""Collected runs: their table is theirs, runs of another machine stay, nobody's folders are named."""

import json
import statistics
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional

import collect
from dirprune.core.sparsity import sparsity_of
from dirprune.data import load_dataset
from dirprune.export import load_sparse
from dirprune.models import create_model
from dirprune.runs import RunFolder
from dirprune.train import TrainConfig, Trainer
from record import public_command

CONFIG = TrainConfig(
    recipe="digits", dataset="digits", model="lenet-300-100", c=5e-3, mu=0.6, batch_size=256, epochs=1
)
COMMAND = "dirprune train digits --data-dir /home/me/data --out=/home/me/my-runs"
RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


def trained(folder, **changes):
    config = replace(CONFIG, **changes)
    run = RunFolder(folder / config.run_name)
    Trainer(config, load_dataset("digits"), run, command=COMMAND).run()
    return run


@pytest.fixture(scope="module")
def machines(tmp_path_factory):
    """Folders of two machines: gRDA with seeds 0 and 1, and with seeds 1 and 2, of which one diverged."""
    folders = [tmp_path_factory.mktemp(name) for name in ("first", "second")]
    for folder, seeds in zip(folders, ((0, 1), (1, 2)), strict=True):
        for seed in seeds:
            trained(folder, seed=seed)
    lost = RunFolder(folders[1] / "grda-c0.005-mu0.6-seed3")
    lost.path.mkdir()
    lost.prepare({**RunFolder(folders[1] / "grda-c0.005-mu0.6-seed2").config(), "seed": 3})
    lost.write_environment(RunFolder(folders[1] / "grda-c0.005-mu0.6-seed2").environment())
    lost.write_result({"status": "diverged", "message": "the loss is not finite", "epochs": 0})
    return folders


def collected(folder, output, *options):
    assert collect.main([str(folder), "--output", str(output), *options]) == 0
    return json.loads(output.read_text())


@pytest.mark.parametrize("name", ["digits", "lenet5-fashion_mnist", "lenet5-fashion_mnist-l0"])
def test_the_table_of_runs_that_are_only_in_a_file_is_the_same(name):
    content = json.loads((RESULTS / f"{name}.json").read_text())
    again = json.loads(json.dumps(collect.collected(collect.merged(content["runs"], []), {})))
    for before, after in zip(content["summary"], again["summary"], strict=True):
        assert {key: after[key] for key in before} == before


def test_mean_and_deviation_are_those_of_the_runs():
    content = json.loads((RESULTS / "digits.json").read_text())
    runs = [run["result"] for run in content["runs"] if run["config"]["method"] == "grda"]
    figures = {
        key: [100 * run[key] for run in runs] for key in ("test_accuracy", "sparsity")
    }  # statistics.stdev divides by n - 1
    shown = [f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}" for values in figures.values()]
    table = collect.markdown(collect.collected(collect.merged(content["runs"], []), {})["summary"])
    assert f"| {shown[0]} | {shown[1]} | {len(runs)} finished |" in table


def test_runs_of_another_machine_stay_and_the_table_is_of_all(machines, tmp_path, capsys):
    output = tmp_path / "results.json"
    collected(machines[0], output, "--fit")
    content = collected(machines[1], output, "--merge", "--fit")
    runs = {run["name"][-1]: run for run in content["runs"]}
    assert sorted(runs) == ["0", "1", "2", "3"]
    (row,) = content["summary"]
    assert (row["finished"], row["diverged"]) == ([0, 1, 2], [3])
    accuracies = [runs[seed]["result"]["test_accuracy"] for seed in "012"]
    assert row["test_accuracy"]["mean"] == pytest.approx(statistics.mean(accuracies))
    assert row["test_accuracy"]["sd"] == pytest.approx(statistics.stdev(accuracies))
    assert sorted(name[-1] for name in content["training_set"]) == ["0", "1", "2"]
    assert "| 3 finished, 1 diverged |" in capsys.readouterr().out
    assert "/home/me" not in output.read_text()
    assert runs["0"]["environment"]["command"] == "dirprune train digits --data-dir DATA --out=runs"


def test_seeds_of_another_precision_are_a_row_of_their_own_unless_they_are_pooled(machines, tmp_path):
    output = tmp_path / "results.json"
    other = tmp_path / "other"
    trained(other, seed=4, precision="bf16")
    folders = [str(machines[0]), str(other)]
    assert collect.main([*folders, "--output", str(output)]) == 0
    assert [row["finished"] for row in json.loads(output.read_text())["summary"]] == [[4], [0, 1]]
    assert collect.main([*folders, "--output", str(output), "--any-precision"]) == 0
    content = json.loads(output.read_text())
    (row,) = content["summary"]
    assert row["finished"] == [0, 1, 4]
    assert content["pooled"] == ["precision"]
    assert [run["config"]["precision"] for run in content["runs"]] == ["no", "no", "bf16"]


def test_without_merge_the_file_is_of_the_folder_alone(machines, tmp_path):
    output = tmp_path / "results.json"
    collected(machines[0], output)
    content = collected(machines[1], output)
    assert [run["name"][-1] for run in content["runs"]] == ["1", "2", "3"]


def test_an_unfinished_run_does_not_take_the_place_of_a_finished_one(machines, tmp_path):
    output = tmp_path / "results.json"
    before = collected(machines[0], output)
    begun = RunFolder(tmp_path / "begun" / "grda-c0.005-mu0.6-seed0")
    begun.path.mkdir(parents=True)
    begun.prepare(RunFolder(machines[0] / begun.path.name).config())
    begun.write_environment(RunFolder(machines[0] / begun.path.name).environment())
    assert collected(tmp_path / "begun", output, "--merge") == before
    (begun.path / "config.json").unlink()
    begun.prepare({**before["runs"][0]["config"], "lr": 0.2})
    assert collect.main([str(tmp_path / "begun"), "--output", str(output), "--merge"]) == 2


def test_the_fit_is_the_loss_of_the_deployed_network_on_all_training_images(machines, tmp_path):
    run = RunFolder(machines[0] / "grda-c0.005-mu0.6-seed0")
    content = collected(run.path, tmp_path / "results.json", "--fit")
    digits = load_dataset("digits").train
    model = create_model("lenet-300-100", num_classes=10, in_channels=1, image_size=8)
    model.load_state_dict(load_sparse(run.sparse_file))
    assert sparsity_of(dict(model.named_parameters())).sparsity > 0
    with torch.no_grad():
        logits = model.eval()((digits.images / 255 - 0.5) / 0.5)
    known = content["training_set"][run.path.name]
    assert known["loss"] == pytest.approx(functional.cross_entropy(logits, digits.labels).item(), rel=1e-5)
    assert known["accuracy"] == pytest.approx((logits.argmax(1) == digits.labels).double().mean().item())
    (row,) = content["summary"]
    assert row["fit_loss"] == {"mean": known["loss"], "sd": None}


def test_a_command_names_no_folders():
    assert public_command("python /a/b/collect.py '/my runs/x' --out /x --data-dir=/y --mu 0.6") == (
        "python collect.py x --out runs --data-dir=DATA --mu 0.6"
    )
