"""The numbers in README.md are those of the committed results."""

import json
import re
from dataclasses import replace

import pytest
import yaml

from dirprune import __version__
from dirprune.export.contenders import DENSE
from dirprune.recipes import get_recipe
from dirprune.train import TrainConfig
from tests.results import ROOT, assert_told, measured

README = (ROOT / "README.md").read_text()
WORDS = {10: "ten"}


def passage(start, end):
    """What README tells between two places, in one line."""
    _, found, rest = " ".join(README.split()).partition(start)
    told, stopped, _ = rest.partition(end)
    assert found
    assert stopped
    return told


RESULTS = [
    ("digits, LeNet-300-100", "digits"),
    ("Fashion-MNIST, LeNet-5", "lenet5-fashion_mnist-l0"),
]


@pytest.mark.parametrize(("start", "name"), RESULTS, ids=[name for _, name in RESULTS])
def test_table_agrees_with_the_results(start, name):
    summary = measured(name)["summary"]
    rows = [line for line in README.splitlines() if line.startswith(f"| {start}")]
    assert len(rows) == len(summary)
    for row, variant in zip(rows, summary, strict=True):
        accuracy, sparsity = variant["test_accuracy"], variant["sparsity"]
        shown = f"{100 * accuracy['mean']:.2f}"
        if accuracy["sd"] is not None:
            shown += f" ± {100 * accuracy['sd']:.2f}"
        assert row.startswith(f"| {start}, {variant['label']} |")
        assert f"| {shown} % |" in row
        assert f"| {100 * sparsity['mean']:.2f} % |" in row
        size = variant["sparse_bytes"]["mean"]
        shown = f"{size / 2**20:.1f} MiB" if size >= 2**20 else f"{size / 2**10:.0f} KiB"
        assert f"| {shown} |" in row


def test_table_of_the_step_agrees_with_the_results():
    networks = measured("step")["networks"]
    columns = ("SGD, fused", "SGD with momentum, fused", "Adam, fused", "gRDA", "gRDA, plain operations")
    rows = {line.split("|")[1].split(",")[0].strip(): line for line in README.splitlines() if " M | " in line}
    assert set(rows) == {"LeNet-5", "VGG16", "ResNet50", "WRN28x10"}
    for name, row in rows.items():
        times = networks[name.lower().replace("-", "")]["times"]
        assert [cell.strip() for cell in row.split("|")[2:-1]] == [
            f"{1e3 * times[column]['median']:.2f}" for column in columns
        ]


def test_words_on_the_step_agree_with_the_results():
    networks = measured("step")["networks"]
    large = {name: table for name, table in networks.items() if table["parameters"] >= 1e6}
    epyc = measured("step-epyc")["networks"]
    sizes = [table["parameters"] / 1e6 for table in large.values()]

    def times(tables, base):
        each = [tables[name]["ratios"]["gRDA"][base] for name in large]
        return f"{min(each):.2f} to {max(each):.2f}"

    assert_told(
        passage("| WRN28x10, 36 M |", "The state is one buffer").partition("With ")[2],
        [
            f"{min(sizes):.0f} to {max(sizes):.0f} million parameters",
            f"a step takes {times(large, 'SGD, fused')} times as long as SGD's",
            f"and {times(large, 'SGD with momentum, fused')} times as long as with momentum;",
            f"on an AMD EPYC {times(epyc, 'SGD, fused')}",
            f"and {times(epyc, 'SGD with momentum, fused')} times.",
        ],
    )
    peak, there = (
        {name: (each["peak"] - held["SGD"]["peak"]) / each["parameters"] for name, each in held.items()}
        for held in (measured("step_memory")["bytes"], measured("step_memory-epyc")["bytes"])
    )
    assert_told(
        passage("The state is one buffer", "<!-- --8<-- [end:step]"),
        [
            f"VGG16 is {peak['gRDA']:.2f} such buffers",
            f"with momentum {peak['SGD with momentum']:.2f};",
            f"on the EPYC {there['gRDA']:.2f} and {there['SGD with momentum']:.2f}",
        ],
    )


def test_table_of_inference_agrees_with_the_results():
    results = measured("inference")["results"]
    for result in results:
        level = "90 %" if "90%" in result["weights"] else "95 %"
        (row,) = [
            line for line in README.splitlines() if line.startswith(f"| {result['network']}, {level} |")
        ]
        tables = {table["threads"]: table["timings"] for table in result["tables"] if table["batch"] == 1}
        expected = []
        for threads in (1, 2):
            timed = {each["name"]: each["milliseconds"] for each in tables[threads] if each["milliseconds"]}
            expected += [min(timed[name] for name in DENSE if name in timed), timed["sparse (ours)"]]
        assert [cell.strip() for cell in row.split("|")[2:-1]] == [f"{time:.2f}" for time in expected]


SMALL_PAPER = {"VGG16, CIFAR-10": "vgg16-width0.25-cifar10", "WRN10x4, CIFAR-100": "wrn10x4-cifar100"}


def kept(name):
    """What `src/dirprune/recipes/results` holds of a recipe."""
    return json.loads((ROOT / "src" / "dirprune" / "recipes" / "results" / f"{name}.json").read_text())


def test_table_of_the_papers_networks_agrees_with_the_results():
    """All settings of WRN10x4 are in it; of VGG16 SGD, the sparsest that is level, and one that is not."""

    def percent(spread):
        shown = f"{100 * spread['mean']:.2f}"
        return shown if spread["sd"] is None else f"{shown} ± {100 * spread['sd']:.2f}"

    expected = []
    for start, name in SMALL_PAPER.items():
        summary = kept(name)["summary"]
        assert not any(variant["diverged"] or variant["failed"] for variant in summary)
        shown = summary if name.startswith("wrn") else told_of_vgg16(summary)
        for variant in shown:
            figures = (variant["test_accuracy"], variant["sparsity"], variant["fit_accuracy"])
            cells = [f"{start}, {variant['label']}", *map(percent, figures)]
            expected.append(f"| {' | '.join(cells)} | {len(variant['finished'])} |")
    assert [x for x in README.splitlines() if x.startswith(("| VGG16, CIFAR", "| WRN10x4, "))] == expected


def told_of_vgg16(summary):
    """SGD; the sparsest with several seeds, of those that fit their images, and that has learnt anything."""
    several = [variant for variant in summary if len(variant["finished"]) > 1]
    fitted = [variant for variant in summary if variant["fit_accuracy"]["mean"] > 0.99]
    learnt = [variant for variant in summary if variant["test_accuracy"]["mean"] > 0.11]
    found = (several, fitted, learnt)
    return [summary[0], *(max(variants, key=lambda v: v["sparsity"]["mean"]) for variants in found)]


def test_words_on_the_papers_networks_are_of_their_runs():
    vgg16, wrn = (kept(name)["runs"] for name in SMALL_PAPER.values())
    for runs, values in ((vgg16, (0.25, 40, None)), (wrn, (1.0, 30, 16))):
        configs = [run["config"] for run in runs]
        keys = ("width", "epochs", "image_size")
        assert {tuple(config[key] for key in keys) for config in configs} == {values}
        assert {(config["crop_padding"], config["flip"]) for config in configs} == {(0, False)}
        assert all(config["precision"] == ("no" if config["seed"] == 2 else "bf16") for config in configs)
    assert_told(
        passage("Smaller and shorter, without augmentation:", "| network |"),
        [
            "VGG16 at a quarter of its width for 40 epochs,",
            "WRN10x4 at 16 \N{MULTIPLICATION SIGN} 16 pixels for 30, in bf16 (seed 2 in float32).",
        ],
    )
    small, tall = ({v["label"]: v for v in kept(name)["summary"]} for name in SMALL_PAPER.values())
    dense, sparse = tall["SGD"], tall["gRDA c=8e-3 mu=0.7"]
    level = [v for v in small.values() if len(v["finished"]) > 1 and v is not small["SGD"]]
    for variant in level:
        assert abs(variant["difference_to_sgd"]["mean"]) < small["SGD"]["test_accuracy"]["sd"]
    behind = small["gRDA c=1e-3 mu=0.75"]
    assert len(behind["finished"]) == 1
    collapsed = [v for v in small.values() if v["sparsity"]["mean"] > 0.9]
    assert [v["label"] for v in collapsed] == ["gRDA c=4e-3 mu=0.6", "gRDA c=4e-3 mu=0.7"]
    assert all(v["fit_accuracy"]["mean"] < 0.4 for v in collapsed)
    assert len(sparse["finished"]) == 1
    assert sparse["fit_accuracy"]["mean"] < dense["fit_accuracy"]["mean"]
    zeros = sorted(v["sparsity"]["mean"] for v in small.values())
    assert_told(
        passage("| 87.04 | 1 |", "<!-- --8<-- [end:paper]"),
        [
            "VGG16 is within SGD's standard deviation up to "
            f"{100 * max(v['sparsity']['mean'] for v in level):.2f} % zeros;",
            f"at {100 * behind['sparsity']['mean']:.2f} % it is "
            f"{-100 * behind['difference_to_sgd']['mean']:.2f} points behind, in one seed.",
            f"Between {100 * zeros[-3]:.2f} and {100 * zeros[-2]:.2f} % nothing was run,",
            f"at {100 * collapsed[0]['sparsity']['mean']:.2f} % it has not learnt its training images;",
            "the paper's 90 % took 600 epochs",
            "WRN10x4 is "
            f"{100 * sparse['difference_to_sgd']['mean']:.2f} points above SGD at "
            f"{100 * sparse['sparsity']['mean']:.2f} % zeros, in one seed and with fewer of the training",
        ],
    )


def test_words_on_the_table_are_of_its_runs():
    configs = {run["name"]: run["config"] for run in measured("lenet5-fashion_mnist-l0")["runs"]}
    assert {(c["epochs"], c["schedule"], c["precision"], c["seed"]) for c in configs.values()} == {
        (60, "half-linear", "bf16", 0)
    }
    recipe = get_recipe("lenet5-fashion_mnist-l0").config
    hard = configs["grda-l0-c0.00012-mu1-seed0"]
    # Laid out for 60 epochs either way.
    assert replace(TrainConfig.from_json(hard), recipe=recipe.recipe, schedule_epochs=None) == recipe
    digits = measured("digits")["runs"]
    right = {
        round(360 * run["result"]["test_accuracy"]) for run in digits if run["config"]["method"] == "grda"
    }
    assert_told(
        passage("| 93.89 % | 122 KiB |", "With 30 epochs at a constant"),
        [
            "of seeds 0 to 2 (all three gRDA runs",
            f"have {right.pop()} of 360 right)",
            "Fashion-MNIST: one seed, 60 epochs in bf16, with a learning rate that falls in the second half.",
        ],
    )
    assert not right


def test_the_shorter_training_of_lenet5_agrees_with_the_results():
    runs = {run["name"]: run for run in measured("lenet5-fashion_mnist")["runs"]}
    told = passage("falls in the second half. With", "(c=0.0055).")
    configs = [run["config"] for run in runs.values()]
    assert {(config["epochs"], config["schedule"], config["seed"]) for config in configs} == {
        (30, "constant", 0)
    }
    expected = ["30 epochs at a constant learning rate (recipe `lenet5-fashion_mnist`) gRDA loses more:"]
    for name, words in (
        ("sgd-seed0", "SGD has {:.2f} %,"),
        ("grda-c0.004-mu0.6-seed0", "gRDA {:.2f} % at {:.2f} % zeros (c=0.004)"),
        ("grda-c0.0055-mu0.6-seed0", "and {:.2f} % at {:.2f} %"),
    ):
        result = runs[name]["result"]
        expected.append(words.format(100 * result["test_accuracy"], 100 * result["sparsity"]))
    assert_told(told, expected)


def test_evidence_agrees_with_the_results():
    evidence = measured("evidence-lenet5-fashion_mnist")
    curve, line = (evidence["connect"][f"barrier_{path}"]["train_loss"] for path in ("curve", "line"))
    counts = evidence["connect"]["images"]["train"], evidence["connect"]["settings"]["trained_on"]["samples"]
    assert counts == (20_000, 60_000)
    kept = {run["name"]: run["config"] for run in measured("lenet5-fashion_mnist-l0")["runs"]}
    assert evidence["pair"]["grda"]["config"] == kept["grda-c0.0045-mu0.6-seed0"]
    projection = evidence["project"]
    sharpest = WORDS[projection["settings"]["k"]]
    fractions = [100 * step["fraction"] for step in projection["steps"]]
    assert_told(
        passage("**The evidence.**", "([all pairs]").partition("Measured for")[2],
        [
            "LeNet-5 above with the soft threshold,",
            f"on {counts[0]:,} of the training images: along the trained curve",
            f"the training loss rises by {curve['height']:.4f} above its higher end,",
            f"on the straight line by {line['height']:.3f};",
            f"{min(fractions):.1f} to {max(fractions):.1f} % lies in the {sharpest} sharpest",
            f"of a random direction {100 * projection['by_chance']:.1f} %",
        ],
    )


def test_slim_agrees_with_the_results():
    networks = measured("group_penalty")["networks"]
    longest = max(each["config"]["epochs"] for each in networks)
    networks = [each for each in networks if each["config"]["epochs"] == longest]
    assert {(each["measured_on"], each["config"]["seed"]) for each in networks} == {("test", 0)}
    (sgd,) = [each for each in networks if each["config"]["method"] == "sgd"]
    slimmest = min(networks, key=lambda each: each["after"]["parameters"])
    assert slimmest["config"]["penalty"] == "group"
    before, after = slimmest["before"], slimmest["after"]
    times = {(row["name"], row["batch"]): row["milliseconds"] for row in slimmest["timings"]}
    for batch, part in ((1, 0.5), (64, 0.75)):
        assert times["slim, onnxruntime", batch] / times["onnxruntime", batch] == pytest.approx(part, abs=0.1)
    assert_told(
        passage("train with `--penalty group` to have some.", "([table](docs/deployment.md#slim))"),
        [
            f"LeNet-5 on Fashion-MNIST, {longest} epochs with a learning rate that falls in the second half,",
            "bf16, one seed:",
            f"{after['channels']} of {before['channels']} channels",
            f"{after['parameters']:,} of {before['parameters']:,} parameters",
            f"{100 * slimmest['accuracy']:.2f} % (SGD: {100 * sgd['accuracy']:.2f} %)",
            "one image takes half the time in onnxruntime, 64 images three quarters",
        ],
    )


def test_prediction_agrees_with_the_results():
    cases = [case for each in measured("tune_prediction")["sets"] for case in each["cases"]]
    told = passage("predicts from the first quarter of a run.", "<!-- --8<-- [end:prediction]")
    searched = sorted({case["target"] for case in cases if "target" in case})

    def of(penalty, recipe):
        return [c for c in cases if (c.get("penalty", "l1"), c["recipe"]) == (penalty, recipe)]

    def worst(found):
        return f"{100 * max(abs(case['error']) for case in found):.2f}"

    soft = [case for case in cases if case.get("penalty", "l1") == "l1"]
    digits = {penalty: of(penalty, "digits") for penalty in ("l1", "l0", "rescaled")}
    lenet5 = {penalty: of(penalty, "lenet5-fashion_mnist") for penalty in ("l1", "l0")}
    (hard,), (rescaled,) = (of(p, "lenet5-fashion_mnist-recommended") for p in ("l0", "rescaled"))
    known = [*digits.values(), *lenet5.values(), [hard, rescaled]]
    assert sum(map(len, known)) == len(cases)
    inside = sum(case["within_interval"] for case in soft)
    assert_told(
        told,
        [
            f"at most {worst(soft)} points off ({len(digits['l1'])} runs of digits, searched from targets of",
            "{:g}, {:g} and {:g} %".format(*(100 * target for target in searched)),
            f"and {len(lenet5['l1'])} of LeNet-5, two",
            f"{inside} of {len(soft)} were within their interval",
            f"at most {worst(digits['l0'])} points off on digits ({len(digits['l0'])} runs, for the same",
            f"and {worst(lenet5['l0'])} on LeNet-5 ({len(lenet5['l0'])}).",
            told.partition("At 90 %")[1]
            + told.partition("At 90 %")[2].partition("whole ones.")[0],  # tests/pages/test_cost.py
            f"`rescaled`: at most {worst(digits['rescaled'])} on digits ({len(digits['rescaled'])})",
            f"LeNet-300-100, {hard['epochs']} epochs, one run each, ended sparser than predicted: by "
            f"{-100 * hard['error']:.2f} points (hard) and {-100 * rescaled['error']:.2f} (`rescaled`).",
        ],
    )
    assert all(case["within_interval"] for case in cases if case not in soft)
    whole = {run["name"]: run["config"] for run in measured("lenet-300-100-recommended")["runs"]}
    assert {(config["model"], config["epochs"]) for config in whole.values()} == {("lenet-300-100", 30)}


def test_citation_is_that_of_the_citation_file():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == __version__
    reference = citation["preferred-citation"]
    authors = [f"{author['family-names']}, {author['given-names']}" for author in reference["authors"]]
    fields = dict(re.findall(r"^  (\w+) += \{(.*)\}", README.partition("```bibtex")[2], flags=re.MULTILINE))
    assert fields == {
        "title": reference["title"],
        "author": " and ".join(authors),
        "booktitle": reference["collection-title"],
        "volume": str(reference["volume"]),
        "year": str(reference["year"]),
    }
