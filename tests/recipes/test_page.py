"""The page of the measured experiments says what the files beside it say."""

import json

import pytest

import recipes_cost
import recipes_page
from dirprune.report.wording import NOTHING
from record import RECIPE_RESULTS
from tests.results import assert_told, measured

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


def test_rows_of_several_precisions_say_which_run_has_which(tmp_path):
    kept = {"environment": ENVIRONMENT, "result": {"status": "finished"}, "epochs": {}}
    runs = [
        {"name": f"grda-seed{seed}", "config": {**VGG, "seed": seed, "precision": precision}, **kept}
        for seed, precision in enumerate(("bf16", "no", "bf16", "no"))
    ]
    content = {"summary": [], "runs": runs}
    told = "A row has its seeds whatever their precision: precision=no of grda-seed1, grda-seed3; else bf16."
    for pooled in ([], ["precision"]):
        (tmp_path / "vgg.json").write_text(json.dumps({**content, "pooled": pooled}))
        assert (told in recipes_page.page(tmp_path)) == bool(pooled)


def test_of_several_machines_each_names_its_runs(tmp_path):
    other = {**ENVIRONMENT, "cpu": "Another CPU", "date": "2026-01-05T00:00:00+00:00"}
    environments = {
        "sgd-seed0": other,
        "grda-seed0": ENVIRONMENT,
        "grda-seed1": {**ENVIRONMENT, "resumed": [ENVIRONMENT, other]},  # begun on one, ended on the other
    }
    runs = [
        {"name": name, "config": VGG, "environment": environment, "result": None, "epochs": {}}
        for name, environment in environments.items()
    ]
    (tmp_path / "vgg.json").write_text(json.dumps({"summary": [], "runs": runs}))
    lines = recipes_page.page(tmp_path).splitlines()
    told = {cpu: [line for line in lines if f"on {cpu}, 2 cores" in line] for cpu in ("A CPU", "Another CPU")}
    assert [line.rpartition("dirprune 0.1; ")[2] for line in told["A CPU"]] == [
        "2026-01-02: grda-seed0, grda-seed1"
    ]
    assert [line.rpartition("dirprune 0.1; ")[2] for line in told["Another CPU"]] == [
        "2026-01-05: sgd-seed0, grda-seed1"
    ]


def section_of(page, head):
    """What the page says under a heading, in one line."""
    return " ".join(page.partition(f"\n## {head}\n")[2].partition("\n## ")[0].split())


def kept(name):
    return json.loads((RECIPE_RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def test_time_and_memory_are_those_of_the_benchmarks_losses_too():
    told = section_of(recipes_page.PAGE.read_text(encoding="utf-8"), "Time and memory")
    for name, shown in (("lenet5", "LeNet-5"), ("vgg16 at width 0.25", "VGG16 at width 0.25")):
        cells = []
        for content in (measured("epoch"), measured("epoch-epyc")):
            network = content["networks"][name]
            ratios = (
                network[key]["gRDA"] / network[key]["SGD"]
                for key in ("epoch_seconds", "median_batch_seconds")
            )
            cells.append("{:.3f} ({:.3f})".format(*ratios))
        batches = f"{network['batches']} batches of {network['batch']}"
        assert f"| {shown}, {batches} | {' | '.join(cells)} |" in told
    longer = {
        (name, content["environment"]["cpu"]): network["epoch_seconds"]["gRDA"]
        / network["epoch_seconds"]["SGD"]
        for content in (measured("epoch"), measured("epoch-epyc"))
        for name, network in content["networks"].items()
    }
    assert [where for where, ratio in longer.items() if ratio > 1.03] == [("lenet5", "AMD EPYC")]
    lost = 100 * (longer["lenet5", "AMD EPYC"] - 1)
    words = f"The aim is 3 % more time at most. Over it: LeNet-5 on AMD EPYC, {lost:.1f} % longer than SGD."
    assert words in told
    here, epyc = (
        {name: (each["peak"] - taken["SGD"]["peak"]) / each["parameters"] for name, each in taken.items()}
        for taken in (measured("step_memory")["bytes"], measured("step_memory-epyc")["bytes"])
    )
    for name in here.keys() - {"SGD"}:
        assert f"| {name} | {here[name]:.3f} | {epyc[name]:.3f} |" in told
    assert epyc["gRDA"] < 1 < here["gRDA"]
    over = f"Over it: gRDA on Intel(R) Xeon(R) Processor, by {here['gRDA'] - 1:.3f}."
    assert f"The aim is one buffer more at most. {over}" in told


def test_the_pipeline_is_told_with_its_load_and_of_which_step_it_is():
    content = measured("pipeline")
    assert "cuda" not in content["environment"]["device"]
    told = section_of(recipes_page.PAGE.read_text(encoding="utf-8"), "Time and memory")
    step, (alone, one, two) = content["step_images_per_second"], content["pipeline"]
    rates = [row["images_per_second"] for row in (alone, one, two)]
    assert_told(
        told.partition("Images a second")[2].partition("[pipeline.json]")[0],
        [
            f"of ResNet50 (batch {content['batch_size']}, AMD EPYC) takes {step:.2f}:",
            *(
                f"{rate:.1f} with {workers}, {rate / step:.0f} times the step"
                for rate, workers in zip(rates, ("0 workers", "1 worker", "2 workers"), strict=True)
            ),
            f"a load of {content['load_average'][0]:.2f} on {content['environment']['cores']} cores",
            "holds for this CPU's step; of a GPU's it says nothing",
        ],
    )


@pytest.mark.parametrize(
    ("ratio", "told"),
    [(1.05, "Over it: LeNet-5 on A, 5.0 % longer than SGD."), (1.02, "None is over it.")],
)
def test_an_epoch_over_the_aim_is_named(tmp_path, ratio, told):
    over = {"epoch": ratio, "median_batch": 1.01}
    networks = {"lenet5": {"batches": 9, "batch": 64, "gRDA_over_SGD": over}}
    for name in ("step_memory", "step_memory-epyc", "pipeline"):
        (tmp_path / f"{name}.json").write_text(json.dumps(measured(name)))
    for name, cpu, found in (("epoch", "A", networks), ("epoch-epyc", "B", measured("epoch")["networks"])):
        content = {"environment": {"cpu": cpu}, "networks": found}
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    assert told in recipes_cost.section(tmp_path)


def test_what_is_not_shown_follows_from_the_kept_runs():
    steps, small, tall = (
        kept(name) for name in ("first-steps", "vgg16-width0.25-cifar10", "wrn10x4-cifar100")
    )
    begun = {
        (run["config"]["recipe"], run["config"]["method"], run["config"]["seed"])
        for run in steps["runs"].values()
    }
    assert begun == {
        ("wrn28x10-cifar10", "grda", 0),
        ("wrn28x10-cifar100", "grda", 0),
        ("wrn28x10-cifar100", "sgd", 0),
    }
    assert {run["points"]["step"][-1] for run in steps["runs"].values()} == {100}
    first = {
        tuple(run["config"][key] for key in ("epochs", "schedule_epochs", "seed"))
        for run in kept("vgg16-cifar10")["runs"]
    }
    assert first == {(2, 600, 0)}
    recipes = {run["config"]["recipe"] for run in (*steps["runs"].values(), *small["runs"], *tall["runs"])}
    assert "resnet50-imagenet" not in recipes

    def learnt(content):
        right = [content["training_set"][run["name"]]["accuracy"] for run in content["runs"]]
        return sum(each > 0.999 for each in right), len(right)

    def far(content):
        """Training accuracy and zeros of gRDA's networks with less than 99 % of their images right."""
        found = [
            (run["result"]["sparsity"], content["training_set"][run["name"]]["accuracy"])
            for run in content["runs"]
            if run["config"]["method"] == "grda"
        ]
        return ", ".join(
            f"{100 * right:.2f} % at {100 * zeros:.2f} % zeros"
            for zeros, right in sorted(found)
            if right < 0.99
        )

    seeds = {}
    for run in small["runs"]:
        config = run["config"]
        seeds.setdefault((config["method"], config["c"], config["mu"]), set()).add(config["seed"])
    counts = [len(of_it) for of_it in seeds.values()]
    accuracy = {run["name"]: run["result"]["test_accuracy"] for run in small["runs"]}
    paired = {}  # zeros and difference to SGD of the same seed, by setting
    for run in small["runs"]:
        if run["config"]["method"] == "grda":
            gap = accuracy[run["name"]] - accuracy[f"sgd-seed{run['config']['seed']}"]
            setting = run["name"].rpartition("-")[0]
            paired.setdefault(setting, []).append((run["result"]["sparsity"], gap))
    means = [[sum(column) / len(runs) for column in zip(*runs, strict=True)] for runs in paired.values()]
    sparsest = max(zeros for zeros, gap in means if gap > -0.01)
    zeros = sorted(run["result"]["sparsity"] for run in small["runs"])
    below, above = max(z for z in zeros if z < 0.9), min(z for z in zeros if z > 0.9)
    assert {run["config"]["seed"] for run in tall["runs"]} == {0}
    assert_told(
        section_of(recipes_page.PAGE.read_text(encoding="utf-8"), "Not shown here"),
        [
            "- Wide ResNet 28-10 on CIFAR-10: what follows the first 100 steps; more than 1 seed; "
            "SGD beside gRDA.",
            "- Wide ResNet 28-10 on CIFAR-100: what follows the first 100 steps; more than 1 seed.",
            "- VGG16 on CIFAR-10: what follows the first 2 of 600 epochs; more than 1 seed of a setting.",
            "- VGG16 at width 0.25 on CIFAR-10: "
            f"more than {max(counts)} seeds of a setting ({counts.count(1)} of {len(counts)} settings "
            "have 1). {} of {} runs have more than 99.9 % of the training images right. ".format(
                *learnt(small)
            )
            + f"gRDA with less than 99 % of them right: {far(small)}. "
            "No network with 90 % zeros or more is within a point of SGD's test accuracy: the sparsest that "
            f"is has {100 * sparsest:.2f} %, and nothing was run between {100 * below:.2f} and "
            f"{100 * above:.2f} %.",
            "- Wide ResNet 10-4 on CIFAR-100: more than 1 seed of a setting. "
            "{} of {} runs has more than 99.9 % of the training images right. ".format(*learnt(tall))
            + f"gRDA with less than 99 % of them right: {far(tall)}.",
            "- ResNet50 on ImageNet: not run.",
        ],
    )


def test_what_was_run_is_not_said_to_be_missing(tmp_path):
    """Fully trained, three seeds, accurate at many zeros, all images right: one sentence less for each."""
    names = [f"{method}-seed{seed}" for method in ("sgd", "grda") for seed in range(3)]
    runs = [
        {
            "name": name, "config": {**VGG, "epochs": 600, "method": name.partition("-")[0]},
            "environment": ENVIRONMENT, "result": {"status": "finished", "sparsity": 0.95}, "epochs": {},
        }
        for name in names
    ]  # fmt: skip
    row = {
        "label": "gRDA", "finished": [0, 1, 2], "diverged": [], "failed": [], "unfinished": [],
        "fit_loss": None, "fit_accuracy": None, "test_accuracy": None, "sparsity": {"mean": 0.95, "sd": 0.0},
        "difference_to_sgd": {"mean": -0.002, "sd": 0.0},
    }  # fmt: skip
    training_set = {name: {"loss": 0.0, "accuracy": 1.0} for name in names}
    content = {"summary": [row], "runs": runs, "training_set": training_set}
    (tmp_path / "vgg.json").write_text(json.dumps(content))
    told = section_of(recipes_page.page(tmp_path), "Not shown here")
    assert (
        "- VGG16 at width 0.25 on CIFAR-10: more than 3 seeds of a setting. 6 of 6 runs have more than "
        "99.9 % of the training images right. - " in told
    )
    assert "- Wide ResNet 28-10 on CIFAR-100: not run." in told


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
