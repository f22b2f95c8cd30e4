"""The page of the measured experiments says what the files beside it say."""

import json

import recipes_page
from dirprune.report.wording import NOTHING
from record import RECIPE_RESULTS

VGG = {
    "recipe": "vgg16-cifar10", "dataset": "cifar10", "model": "vgg16", "width": 0.25, "method": "grda",
    "lr": 0.1, "c": 5e-4, "mu": 0.6, "momentum": 0.0, "weight_decay": 0.0, "prune": "all", "batch_size": 128,
    "epochs": 2, "schedule": "half-linear", "schedule_epochs": 600, "crop_padding": 4, "flip": True,
    "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "precision": "no", "seed": 0,
}  # fmt: skip
ENVIRONMENT = {
    "date": "2026-01-02T03:04:05+00:00", "command": "dirprune train vgg16-cifar10 --width 0.25",
    "versions": {"torch": "2.9", "dirprune": "0.1"}, "cpu": "A CPU", "cores": 2, "threads": 1,
    "device": "cpu",
}  # fmt: skip


def test_the_page_is_made_from_the_files_beside_it():
    made = recipes_page.page(RECIPE_RESULTS)
    assert recipes_page.PAGE.read_text(encoding="utf-8") == made, "python benchmarks/recipes_page.py"


def test_a_file_of_runs_is_a_section_with_its_table_commands_machine_and_failures(tmp_path):
    row = {
        "label": "gRDA c=5e-4 mu=0.6", "finished": [0, 1], "diverged": [2], "failed": [], "unfinished": [],
        "fit_loss": {"mean": 0.0123, "sd": 0.001}, "fit_accuracy": {"mean": 0.99, "sd": 0.002},
        "test_accuracy": {"mean": 0.88, "sd": 0.01}, "sparsity": {"mean": 0.9, "sd": 0.0},
    }  # fmt: skip
    lost = {"status": "diverged", "message": "the loss is not finite in epoch 2"}
    runs = [
        {
            "name": "grda-seed0", "config": VGG, "environment": ENVIRONMENT, "result": {"status": "finished"},
            "epochs": {
                "epoch": [1, 2], "train_loss": [2.218, 2.0], "test_accuracy": [0.2175, 0.3],
                "sparsity": [0.025, 0.05],
            },
        },
        {
            "name": "grda-seed2", "config": {**VGG, "seed": 2}, "environment": ENVIRONMENT, "result": lost,
            "epochs": {},
        },
    ]  # fmt: skip
    (tmp_path / "vgg.json").write_text(json.dumps({"summary": [row], "runs": runs}))
    page = recipes_page.page(tmp_path)
    assert "## VGG16 at width 0.25 on CIFAR-10, the first 2 of 600 epochs" in page
    assert "Recipe `vgg16-cifar10` with width=0.25, epochs=2; [vgg.json](results/vgg.json)." in page
    cells = "0.012 ± 0.001 | 99.00 ± 0.20 | 88.00 ± 1.00 | 90.00 ± 0.00 | 2 finished, 1 diverged"
    assert f"| gRDA c=5e-4 mu=0.6 | {cells} |" in page
    assert page.count("`dirprune train vgg16-cifar10 --width 0.25`") == 1
    assert "on A CPU, 2 cores, 1 thread on the cpu, torch 2.9, dirprune 0.1; 2026-01-02" in page
    assert "- grda-seed2: diverged, the loss is not finite in epoch 2" in page
    assert "| epoch | gRDA c=5e-4 mu=0.6, seed 0 | gRDA c=5e-4 mu=0.6, seed 2 |" in page
    assert f"| 1 | 2.22, 21.75 (2.50) | {NOTHING} |\n| 2 | 2.00, 30.00 (5.00) | {NOTHING} |" in page
    assert "first steps" not in page


def test_a_whole_training_is_not_told_epoch_by_epoch(tmp_path):
    config = {**VGG, "epochs": 600}
    run = {"name": "r", "config": config, "environment": ENVIRONMENT, "result": None, "epochs": {}}
    (tmp_path / "vgg.json").write_text(json.dumps({"summary": [], "runs": [run]}))
    page = recipes_page.page(tmp_path)
    assert "CIFAR-10, 600 epochs" in page
    assert "| epoch |" not in page


def test_first_steps_are_a_section_for_each_recipe(tmp_path):
    wrn = {**VGG, "recipe": "wrn28x10-cifar100", "dataset": "cifar100", "model": "wrn28x10", "width": 1.0}
    points = {"step": [10, 20], "train_loss": [4.61234, 4.5], "sparsity": [0.01, 0.0225]}
    short = {key: values[:1] for key, values in points.items()}
    sgd = {**wrn, "method": "sgd", "c": 0.0, "mu": 1.0}
    runs = {
        "wrn/grda-c0.0005-mu0.6-seed0": {"config": wrn, "environment": ENVIRONMENT, "points": short},
        "wrn/sgd-seed0": {"config": sgd, "environment": ENVIRONMENT, "points": points},
    }
    (tmp_path / "first-steps.json").write_text(json.dumps({"interval": 10, "runs": runs}))
    page = recipes_page.page(tmp_path)
    assert "## Wide ResNet 28-10 on CIFAR-100, the first 20 steps" in page
    assert "| steps | SGD | gRDA c=5e-4 mu=0.6 |\n" in page
    assert f"| 10 | 4.6123 (1.00) | 4.6123 (1.00) |\n| 20 | 4.5000 (2.25) | {NOTHING} |\n" in page
