"""The numbers in README.md are those of the committed results."""

import json
import re
from dataclasses import replace

import pytest

from dirprune.export.inference_bench import DENSE
from dirprune.methods import METHODS
from dirprune.recipes import get_recipe
from dirprune.report.summary import variant_labels
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
    ("Fashion-MNIST, LeNet-5", "lenet5-fashion_mnist"),
    ("CIFAR-10, VGG16, first epoch", "vgg16-cifar10-epoch1"),
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
        assert f"| {shown} % |" in row
        assert f"| {100 * sparsity['mean']:.2f} % |" in row
        size = variant["sparse_bytes"]["mean"]
        shown = f"{size / 2**20:.1f} MiB" if size >= 2**20 else f"{size / 2**10:.0f} KiB"
        assert f"| {shown} |" in row


def test_where_the_step_loses_agrees_with_the_results():
    ratios = {
        table["parameters"]: [
            table["times"]["gRDA"]["median"] / table["times"][base]["median"]
            for base in ("SGD, fused", "SGD with momentum, fused")
        ]
        for table in measured("step_scaling")["sizes"]
    }
    small = [ratio for size, ratio in ratios.items() if size <= 3_000_000]
    large = [ratio for size, ratio in ratios.items() if size >= 10_000_000]
    assert len(small) + len(large) == len(ratios)
    assert max(ratios, key=lambda size: ratios[size]) == 100_000
    told = [
        " to ".join(f"{limit(pair[base] for pair in part):.2f}" for limit in (min, max))
        for part in (small, large)
        for base in (0, 1)
    ]
    words = " ".join(README.split())
    assert f"takes {told[0]} times as long as with `SGD(fused=True)` and {told[1]} times as with mom" in words
    assert f"from 10 million on it is {told[2]} and {told[3]} times" in words


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
    told = " ".join(
        README[README.index("On the networks of 15 to 36") : README.index("On an AMD EPYC")].split()
    )
    networks = measured("step")["networks"]
    large = {name: table for name, table in networks.items() if table["parameters"] >= 1e6}
    sizes = [table["parameters"] / 1e6 for table in large.values()]
    assert f"networks of {min(sizes):.0f} to {max(sizes):.0f} million parameters" in told
    ratios = {
        base: [table["ratios"]["gRDA"][base] for table in large.values()]
        for base in ("SGD, fused", "SGD with momentum, fused")
    }
    sgd, momentum = (f"{min(each):.2f} to {max(each):.2f} times as long" for each in ratios.values())
    assert f"a step takes {sgd} as SGD's and {momentum} as with momentum" in told
    assert f"{networks['lenet5']['ratios']['gRDA']['SGD, foreach']:.2f} times as long as with `SGD(f" in told
    scaling = measured("step_scaling")
    by_tensors = {table["tensors"]: table["ratios"]["gRDA"] for table in scaling["tensors"]}
    assert f"10,000 tensors of 100 elements {by_tensors[10_000]['SGD, foreach']:.2f} times" in told
    each = [
        table["nanoseconds_per_parameter"]["gRDA"] for table in scaling["sizes"] if table["parameters"] >= 1e6
    ]
    assert f"the same within {100 * (max(each) / min(each) - 1):.0f} %" in told
    means = {name: found["mean"] for name, found in measured("accumulator_dtype")["optimisers"].items()}
    half, whole = (
        f"{means[name]['test_accuracy']:.2f} % at {means[name]['sparsity']:.2f} %"
        for name in ("gRDA, bfloat16 accumulator", "gRDA")
    )
    assert f"({half}, against {whole})" in told


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


def test_words_on_inference_agree_with_the_results():
    tables = [
        (result["network"], table["batch"], {each["name"]: each for each in table["timings"]})
        for result in measured("inference")["results"]
        for table in result["tables"]
    ]
    gains, timed_in = {}, {}
    bf16_wins = []
    for _, batch, timings in tables:
        times = {name: each["milliseconds"] for name, each in timings.items()}
        best = min(DENSE & times.keys(), key=times.__getitem__)
        assert batch > 1 or best in ("OpenVINO", "onnxruntime")
        if best == "torch bf16":
            bf16_wins.append(timings[best]["difference"])
        for name in times.keys() - {*DENSE}:
            gains.setdefault((name, batch), []).append(times[best] / times[name])
            timed_in[name] = timed_in.get(name, 0) + 1
    ours = {batch: gains.pop(("sparse (ours)", batch)) for batch in (1, 64)}
    smaller = [many < one for one, many in zip(ours[1], ours[64], strict=True)]
    assert sum(smaller) > len(smaller) / 2
    assert max(gain for several in gains.values() for gain in several) < 1.04
    assert timed_in["torch CSR linear, input first"] == timed_in["torch CSR linear, weight first"]
    off = [
        100 * timings["torch bf16"]["difference"] for network, _, timings in tables if network == "resnet50"
    ]
    assert_told(
        passage("images of 32 pixels, ResNet50 of 224.", "scattered zeros leave").partition("At 64 images")[
            2
        ],
        [
            f"the gain is mostly smaller: {min(ours[64]):.1f} to {max(ours[64]):.1f} times,",
            f"in {len(bf16_wins)} of {len(ours[64])} tables over torch in bf16,",
            f"off by {100 * min(bf16_wins):.1f} to {100 * max(bf16_wins):.1f} % of the greatest output",
            f"by {min(off):.0f} to {max(off):.0f} % on ResNet50.",
            "Where they were timed, nothing else gains more than 4 % over the fastest dense program:",
            f"OpenVINO's sparse setting in {timed_in['OpenVINO, sparse setting']} of {len(tables)} tables,",
            f"CSR linear layers in {timed_in['torch CSR linear, input first']},",
            f"slim in torch in {timed_in['slim, torch']}",
            f"and in onnxruntime in {timed_in['slim, onnxruntime']};",
        ],
    )


def test_short_training_of_vgg16_agrees_with_the_results():
    results = ROOT / "src" / "dirprune" / "recipes" / "results" / "vgg16-width0.25-cifar10.json"
    runs = {run["name"]: run["result"] for run in json.loads(results.read_text())["runs"]}
    told = README[README.index("A short training does not reach") : README.index("**A step**")]
    accuracy = {name: f"{100 * result['test_accuracy']:.2f} %" for name, result in runs.items()}
    zeros = {name: f"{100 * result['sparsity']:.2f} %" for name, result in runs.items()}
    assert accuracy["sgd-seed0"] in told
    for name in ("grda-c0.002-mu0.6-seed0", "grda-c0.004-mu0.6-seed0"):
        assert accuracy[name] in told
        assert zeros[name] in told
    assert accuracy["grda-c0.004-mu0.7-seed0"] == "10.00 %"  # of ten classes: nothing was learnt


def test_a_file_of_the_present_format_is_told():
    runs = {run["name"]: run["result"] for run in measured("lenet5-fashion_mnist-l0")["runs"]}
    result = runs["grda-l0-c0.00012-mu1-seed0"]
    older = {run["name"]: run["result"] for run in measured("lenet5-fashion_mnist")["runs"]}
    assert abs(result["zeros"] / older["grda-c0.004-mu0.6-seed0"]["zeros"] - 1) < 0.01
    assert f"of the present one, has {result['sparse_bytes'] / 1024:.0f} KiB" in README


def test_pair_of_the_evidence_agrees_with_the_results():
    pair = measured("evidence-lenet5-fashion_mnist")["pair"]
    sgd, grda = pair["sgd"]["result"], pair["grda"]["result"]
    config = pair["grda"]["config"]
    assert config["schedule"] == "half-linear"
    _, c, _ = variant_labels([config])[0].split()
    lost = sgd["test_accuracy"] - grda["test_accuracy"]
    assert_told(
        passage("far above that of SGD.", "(`benchmarks/results/evidence-lenet5-fashion_mnist.json`)"),
        [
            f"After {grda['epochs']} epochs in {config['precision']}",
            "with a rate that falls in the second half",
            f"it loses {100 * lost:.1f}:",
            f"SGD {100 * sgd['test_accuracy']:.2f} %",
            f"gRDA ({c}) {100 * grda['test_accuracy']:.2f} % at {100 * grda['sparsity']:.2f} % zeros",
        ],
    )


def test_pair_of_the_hard_threshold_agrees_with_the_results():
    pair, soft = (measured(f"evidence-lenet5-fashion_mnist{more}")["pair"] for more in ("-l0", ""))
    assert pair["sgd"] == soft["sgd"]  # the same twin, told just before
    config, result = pair["grda"]["config"], pair["grda"]["result"]
    recipe = get_recipe("lenet5-fashion_mnist-l0").config
    # Laid out for 60 epochs either way.
    trained = replace(TrainConfig.from_json(config), recipe=recipe.recipe, schedule_epochs=None)
    assert trained == recipe
    assert_told(
        passage("fashion_mnist.json`). With the hard threshold", "zeros."),
        [
            f'(`penalty="{config["penalty"]}"`, mu={config["mu"]:g},',
            f"c={config['c']:.1e};".replace("e-0", "e-"),
            "recipe `lenet5-fashion_mnist-l0`)",
            f"{100 * result['test_accuracy']:.2f} % at {100 * result['sparsity']:.2f} %",
        ],
    )


def test_evidence_agrees_with_the_results():
    evidence = measured("evidence-lenet5-fashion_mnist")
    curve, line = (evidence["connect"][f"barrier_{path}"]["train_loss"] for path in ("curve", "line"))
    counts = evidence["connect"]["images"]["train"], evidence["connect"]["settings"]["trained_on"]["samples"]
    assert counts == (20_000, 60_000)
    projection = evidence["project"]
    sharpest = WORDS[projection["settings"]["k"]]
    fractions = [100 * step["fraction"] for step in projection["steps"]]
    assert_told(
        passage("**The evidence.**", "**Files and speed.**").partition("Measured for")[2],
        [
            f"the {evidence['pair']['grda']['result']['epochs']} epochs of LeNet-5 above",
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
    times = {row["name"]: row["milliseconds"] for row in slimmest["timings"] if row["batch"] == 1}
    assert times["slim, onnxruntime"] / times["onnxruntime"] == pytest.approx(0.5, abs=0.1)
    assert_told(
        passage("train with `--penalty group` to have some.", "([table](docs/deployment.md#slim))"),
        [
            f"LeNet-5 on Fashion-MNIST, {longest} epochs, one seed:",
            f"{after['channels']} of {before['channels']} channels",
            f"{after['parameters']:,} of {before['parameters']:,} parameters",
            f"{100 * slimmest['accuracy']:.2f} % (SGD: {100 * sgd['accuracy']:.2f} %)",
            "one image takes half the time in onnxruntime",
        ],
    )


def test_ladder_agrees_with_the_results():
    variants = {each["name"]: each["accuracy"] for each in measured("frontier")["variants"]}

    def at(name):
        return " and ".join(f"{100 * variants[name][target]['mean']:.2f}" for target in ("0.95", "0.98"))

    told = passage("mean of three seeds, accuracy in %", "and both are told the sparsity")
    assert_told(
        told,
        [
            "at 95 and 98 % zeros:",
            f"as published {at('published')};",
            f"with momentum and rate {at('rate')};",
            f"with the schedule {at('half-linear')};",
            f"with mu=1 {at('linear growth')};",
            f"with the hard threshold {at('hard')}.",
            f"gradual magnitude pruning has {at('gradual')},",
            f"ST-3 {at('ST-3')},",
        ],
    )
    for name in ("published", "rate", "half-linear", "linear growth", "hard", "gradual", "ST-3"):
        for row in variants[name].values():
            assert len(row["seeds"]) == 3
            assert None not in row["seeds"]  # a mean of three


def test_comparison_agrees_with_the_results():
    told = passage("at the same sparsity. Others win here too:", "(all methods: `benchmarks/README.md`)")
    comparison = measured("compare-lenet-300-100-momentum")
    (level,) = re.findall(r"at (\d+) %", told)
    rows = [row for row in comparison["rows"] if row["target"] == int(level) / 100]
    accuracy = {row["method"]: 100 * row["accuracy"]["mean"] for row in rows if row["accuracy"]}
    gradual = max(accuracy[name] for name in accuracy if name.startswith("gradual"))
    assert min(accuracy["st3"], gradual) > accuracy["grda"]
    (searched,) = [row["settings"] for row in rows if row["method"] == "grda-l0"]
    mu = searched.get("mu", METHODS["grda-l0"].settings.mu)
    (epochs,) = re.findall(r"--epochs (\d+)", comparison["environment"]["command"])
    assert_told(
        told,
        [
            f"LeNet-300-100 on Fashion-MNIST, {WORDS[int(epochs)]} epochs, at {level} %:",
            f"ST-3 {accuracy['st3']:.2f}",
            f"gradual magnitude pruning {gradual:.2f}",
            f"gRDA {accuracy['grda']:.2f}",
            f'`penalty="l0"` and mu={mu:g} {accuracy["grda-l0"]:.2f}',
        ],
    )


def test_comparison_with_other_seeds_agrees_with_the_results():
    told = passage("With five other seeds and other trials:", "What a short search finds")
    rows = [r for r in measured("compare-lenet-300-100-rescaled")["rows"] if r["target"] == 0.95]
    accuracy = {row["method"]: 100 * row["accuracy"]["mean"] for row in rows}
    gradual = max(accuracy["gradual"], accuracy["gradual-erk"])
    expected = [accuracy["st3"], gradual, accuracy["grda"], accuracy["grda-l0"]]
    assert re.findall(r"\d+\.\d+", told) == [f"{value:.2f}" for value in expected]
