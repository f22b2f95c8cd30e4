"""The numbers in README.md are those of the committed results."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest

from dirprune.export.inference_bench import DENSE
from dirprune.methods import METHODS
from dirprune.recipes import RECIPES, get_recipe
from dirprune.report.summary import variant_labels
from dirprune.train import TrainConfig
from dirprune.train.schedules import half_linear

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
WORDS = {10: "ten"}


def measured(name):
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())


def passage(start, end):
    """What README tells between two places, in one line."""
    _, found, rest = " ".join(README.split()).partition(start)
    told, stopped, _ = rest.partition(end)
    assert found
    assert stopped
    return told


def assert_told(told, expected):
    """Every expected piece is told, and no number beside them."""
    for piece in expected:
        assert piece in told
        told = told.replace(piece, "", 1)
    assert not re.search(r"\d", told), told


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


def test_words_on_every_program_agree_with_the_results():
    page = " ".join((ROOT / "docs" / "deployment.md").read_text(encoding="utf-8").split())
    _, _, told = page.partition("### Every program")
    off = {"resnet50": [], "the other two": [], "all other programs": []}
    for result in measured("inference")["results"]:
        for each in (each for table in result["tables"] for each in table["timings"]):
            network = result["network"] if result["network"] in off else "the other two"
            kind = network if each["name"] == "torch bf16" else "all other programs"
            off[kind].append(100 * each["difference"])
    assert f"off by {min(off['resnet50']):.0f} to {max(off['resnet50']):.0f} % on ResNet50" in told
    others = off["the other two"]
    assert f"by {min(others):.1f} to {max(others):.1f} % on the other two" in told
    assert max(off["all other programs"]) < 0.002
    assert "all other programs by no more than 0.002 %" in told


def test_words_on_sizes_agree_with_the_results():
    page = " ".join((ROOT / "docs" / "deployment.md").read_text(encoding="utf-8").split())
    told = page.partition("### How small")[2].partition("(`benchmarks/results/sizes.json`).")[2]
    saved = {}  # of the plain file with gzip, in percent
    for result in measured("sizes")["results"]:
        sizes, where = result["bytes"], (result["network"], re.search(r"\d+%", result["weights"])[0])
        for kind, size in sizes.items():
            saved.setdefault(kind, {})[where] = 100 * (1 - size / sizes["dense, gzip"])

    def span(*kinds):
        values = [value for kind in kinds for value in saved[kind].values()]
        return f"{min(values):.0f} to {max(values):.0f} %"

    assert [where for where, value in saved["sparse"].items() if value < 0] == [("wrn16x4", "95%")]
    assert_told(
        told.partition("<!--")[0],
        [
            f"up to {max(saved['sparse'].values()):.0f} % smaller",
            f"on WRN16x4 at 95 % it is {-min(saved['sparse'].values()):.1f} % larger",
            f"With Zstandard it is {span('sparse, zstd')} smaller than gzip leaves the plain one",
            f"with two-byte values {span('sparse, bf16', 'sparse, fp16')},",
            f"with both {span('sparse, bf16, zstd', 'sparse, fp16, zstd')}.",
        ],
    )


def test_words_on_the_signs_of_the_theorem_agree_with_the_results():
    page = " ".join((ROOT / "docs" / "evidence.md").read_text(encoding="utf-8").split())
    signs = [
        (name, row["time"], row["signs"])
        for name, found in measured("theorem").items()
        for row in found["rows"]
        if row["signs"] < 1
    ]
    assert {name for name, _, _ in signs} == {"100-images", "100-images-batches"}
    assert min(time for _, time, _ in signs) == 100
    least = 100 * min(part for _, _, part in signs)
    assert f"but with 100 images at long times, where {least:.1f} % or more do" in page


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
    (last,) = evidence["project_more_images"]["steps"]
    page = " ".join((ROOT / "docs" / "evidence.md").read_text(encoding="utf-8").split())
    assert f"is {100 * last['fraction']:.2f} %, twice that of a random direction" in page
    assert 1.9 < last["fraction"] / projection["by_chance"] < 2.1


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


def test_third_judgement_agrees_with_the_results():
    page = " ".join((ROOT / "docs" / "frontier.md").read_text(encoding="utf-8").split())
    rows = {(r["method"], r["target"]): r for r in measured("compare-lenet-300-100-rescaled")["rows"]}
    targets = (0.9, 0.95, 0.98)
    others = {method for method, target in rows if target} - {"grda-l0"}

    def below(method, target):
        """How far a method is below the hard threshold as the page writes it; None if not told apart."""
        gap = rows[method, target]["difference"]
        if gap["high"] > 0:
            return None
        return f"{-100 * gap['mean']:.2f} ({-100 * gap['high']:.2f} to {-100 * gap['low']:.2f})"

    for target in targets:
        best = max(rows[method, target]["accuracy"]["mean"] for method in others)
        assert rows["grda-l0", target]["accuracy"]["mean"] > best
    assert f"above ST-3 by {below('st3', 0.9)} and {below('st3', 0.95)} at 90 and 95 %" in page
    gradual = f"{below('gradual', 0.95)} and {below('gradual', 0.98)} at 95 and 98 %"
    assert f"above global gradual pruning by {gradual}" in page
    assert not any(below(m, t) for m in ("gradual-erk", "grda-rescaled") for t in targets)
    fewer = [100 * rows["st3", t]["difference_in_sparsity"] for t in targets]
    assert f"with {min(fewer):.1f} to {max(fewer):.1f} points fewer zeros" in page


def test_second_judgement_agrees_with_the_results():
    page = " ".join((ROOT / "docs" / "frontier.md").read_text(encoding="utf-8").split())
    rows = {(r["method"], r["target"]): r for r in measured("compare-lenet-300-100-momentum")["rows"]}

    def points(method, target):
        """The difference to the hard threshold as the page writes it: how far it is from zero."""
        gap = rows[method, target]["difference"]
        low, high = sorted(abs(100 * gap[end]) for end in ("low", "high"))
        assert gap["low"] * gap["high"] > 0
        return f"{abs(100 * gap['mean']):.2f} ({low:.2f} to {high:.2f})"

    def told_apart(method, target):
        gap = rows[method, target]["difference"]
        return gap["low"] > 0 or gap["high"] < 0

    assert not any(told_apart(m, t) for m in ("gradual", "gradual-erk") for t in (0.9, 0.95))
    assert not told_apart("st3", 0.98)
    above = f"above both, by {points('gradual', 0.98)} and {points('gradual-erk', 0.98)} points"
    below = f"ST-3 stays above it by {points('st3', 0.9)} and {points('st3', 0.95)} at 90 and 95 %"
    sparser = [-100 * rows["gradual", target]["difference_in_sparsity"] for target in (0.9, 0.95)]
    zeros = f"with {sparser[0]:.1f} and {sparser[1]:.1f} points more zeros"
    assert all(rows[m, 0.98]["difference"]["mean"] < 0 for m in ("gradual", "gradual-erk"))
    assert all(rows["st3", target]["difference"]["mean"] > 0 for target in (0.9, 0.95))
    for sentence in (above, below, zeros):
        assert sentence in page


@pytest.mark.parametrize("name", ["digits", "lenet5-fashion_mnist", "vit2x64p7-fashion_mnist"])
def test_kept_runs_have_the_settings_of_their_recipe(name):
    """What docstrings and README tell of them is told of the recipe as it is."""
    recipe = get_recipe(name).config
    held = [TrainConfig.from_json(run["config"]) for run in measured(name)["runs"]]
    for config in held:
        told = replace(recipe, seed=config.seed, c=config.c, validation=config.validation)
        assert config == told.with_method(config.method)
    assert recipe.c in {config.c for config in held}


@pytest.mark.parametrize("name", ["lenet5-fashion_mnist-l0", "vit2x64p7-fashion_mnist"])
def test_recipe_expects_what_was_measured(name):
    """Every accuracy and sparsity that its docstring tells is that of a run, and every run is told."""
    expected = " ".join((RECIPES[name].__doc__ or "").partition("Expect")[2].split())
    percentages = set(re.findall(r"(\d+\.\d+) %", expected))
    found = set()
    for variant in measured(name)["summary"]:
        found.add(f"{100 * variant['test_accuracy']['mean']:.2f}")
        if variant["sparsity"]["mean"]:
            found.add(f"{100 * variant['sparsity']['mean']:.2f}")
    assert percentages == found


def test_page_of_the_hard_threshold_tells_what_was_measured():
    evidence, soft = (measured(f"evidence-lenet5-fashion_mnist{more}") for more in ("-l0", ""))
    page = " ".join((ROOT / "docs" / "frontier.md").read_text().split())
    _, _, rest = page.partition("Measured for the hard threshold:")
    told = rest.partition("![Loss on")[0]
    lines = [each["connect"]["barrier_line"]["train_loss"]["height"] for each in (evidence, soft)]
    assert f"rises by {lines[0]:.3f}, with the soft threshold by {lines[1]:.3f}" in told
    assert evidence["connect"]["barrier_curve"]["train_loss"]["height"] == 0
    trained_on, seen = evidence["connect"]["settings"]["trained_on"], evidence["connect"]["images"]
    assert f"trained on all {trained_on['samples']:,} images" in told
    assert f"on the {seen['train']:,} of them that were measured" in told
    heights = [evidence["connect"][f"barrier_{path}"]["test_error"]["height"] for path in ("curve", "line")]
    assert f"within {0.1 * math.ceil(1000 * max(heights)):.1f} points of the higher end" in told
    steps = {step["epoch"]: 100 * step["fraction"] for step in evidence["project"]["steps"]}
    later = [fraction for epoch, fraction in steps.items() if epoch >= 5]
    assert f"{min(later):.1f} to {max(later):.1f} % lies in the ten sharpest directions" in told
    assert f"{steps[1]:.1f} and {steps[2]:.1f} %" in told
    result = {name: run["result"] for name, run in evidence["pair"].items()}
    assert f"{100 * result['grda']['test_accuracy']:.2f} % on the test set" in told
    assert f"its SGD twin {100 * result['sgd']['test_accuracy']:.2f} %" in told
    assert {run["train_accuracy"] for run in result.values()} == {1.0}


def test_page_of_the_comparison_tells_what_the_wide_resnet_gave():
    rows = measured("compare-wrn10x1")["rows"]
    at = {(row["method"], row["target"]): row for row in rows}
    page = " ".join((ROOT / "docs" / "comparison.md").read_text(encoding="utf-8").split())
    told = page.partition("On the Wide ResNet,")[2].partition("All tables")[0]
    ranked = [row["method"] for row in rows if row["target"] == 0.9]
    assert ranked.index("grda") == 4
    own = 100 * at["grda", 0.9]["accuracy"]["mean"]
    gaps = []
    for target in (0.9, 0.95):
        gap = at["st3", target]["difference"]
        gaps.append(
            "{:.1f} points ({:.1f} to {:.1f})".format(*(100 * gap[k] for k in ("mean", "low", "high")))
        )
    assert f"gRDA as published is fifth of {len(ranked)} at 90 %, {own:.2f} %," in told
    assert f"behind ST-3 by {gaps[0]} and not told apart" in told
    assert f"at 95 % {gaps[1]} behind ST-3" in told
    for method in ("gradual", "gradual-erk"):
        gap = at[method, 0.9]["difference"]
        assert gap["low"] < 0 < gap["high"]
    free = [row for row in rows if row["target"] == 0.98 and not row["needs_target"]]
    reached = {row["method"] for row in free if row["sparsity"]["mean"] > 0.97}
    assert reached == {"variational-dropout", "str", "rda", "l1"}


def reasons(start, end):
    """What the page of the benchmarks takes for the reasons, of one part, in one line."""
    page = (ROOT / "benchmarks" / "results" / "compare-reasons.md").read_text(encoding="utf-8")
    _, found, rest = " ".join(page.split()).partition(start)
    assert found
    return rest.partition(end)[0]


def test_reasons_on_the_wide_resnet_tell_what_was_measured():
    rows = measured("compare-wrn10x1")["rows"]
    at = {(row["method"], row["target"]): row for row in rows}
    told = reasons("WRN10x1, all methods.", "Two runs collapsed")

    def accuracy(method, target, digits=1):
        return f"{100 * at[method, target]['accuracy']['mean']:.{digits}f}"

    def zeros(method, target=0.98, digits=1):
        return f"{100 * at[method, target]['sparsity']['mean']:.{digits}f}"

    def behind(method, target):
        gap = at[method, target]["difference"]
        return [f"{-100 * gap[k]:.1f}" for k in ("mean", "high", "low")]

    of_all = [zeros("gradual", target, 2) for target in (0.9, 0.95, 0.98)]
    ahead = 100 * at["st3", 0.95]["difference"]["mean"]
    fewer = 100 * at["st3", 0.95]["difference_in_sparsity"]
    more = 100 * at["grda-l0", 0.95]["difference_in_sparsity"]
    for sentence in (
        f"the dense network itself has only {accuracy('sgd', None)} %",
        "are {}, {} and {} % of all".format(*of_all),
        f"fifth of 22** at {accuracy('grda', 0.9, 2)} %",
        f"{ahead:.1f} points behind ST-3** with {fewer:.1f} points fewer zeros",
        f"The rescaled form has {accuracy('grda-rescaled', 0.95)} %, "
        f"but only {zeros('grda-rescaled', 0.95)} %",
        f"gRDA has {zeros('grda')} % zeros, its hard threshold {zeros('grda-l0')}, the rescaled form "
        f"{zeros('grda-rescaled')}, AdaBreg {zeros('adabreg')}, LinBreg {zeros('linbreg')}, L0 none",
        f"gradual pruning has {accuracy('gradual', 0.95)} and ST-3 {accuracy('st3', 0.95)} % "
        f"at {zeros('st3', 0.95)}",
        f"where gRDA has {accuracy('grda', 0.98)} % at {zeros('grda')}",
        "by {} ({} to {})".format(*behind("grda-l0", 0.9)),
        "and {} points ({} to {}; with".format(*behind("grda-l0", 0.95)) + f" {more:.1f} points more zeros)",
    ):
        assert sentence in told, sentence


def test_reasons_on_lenet5_tell_what_was_measured():
    rows = {(row["method"], row["target"]): row for row in measured("compare-lenet5")["rows"]}
    told = reasons("LeNet-5, all methods.", "LeNet-300-100, rescaled")

    def beaten(target):
        """Methods that gRDA is above, beyond the uncertainty of the difference."""
        gaps = {m: row["difference"] for (m, t), row in rows.items() if t == target}
        return {m for m, gap in gaps.items() if gap and gap["high"] < 0}

    at_90, at_95, at_98 = (beaten(target) for target in (0.9, 0.95, 0.98))
    others = len([m for m, t in rows if t == 0.9]) - 1
    assert f"wins against {len(at_90)} of the {others} others" in told
    assert {"gradual", "snip", "acdc", "variational-dropout", "adabreg"} <= at_90
    assert len(at_95) == 6
    assert "at 95 % against six" in told
    assert at_98 == at_95 | {"set"}
    assert f"third of {others + 1}**, at {100 * rows['grda', 0.9]['accuracy']['mean']:.2f} %" in told


def test_the_recommended_schedule_is_the_one_that_was_measured():
    page = (ROOT / "docs" / "frontier.md").read_text(encoding="utf-8")
    code = page.partition("## The setting that we recommend")[2].split("```python\n")[1].split("```")[0]
    names = {}
    exec(code, names)
    rates = []
    for _ in range(names["epochs"]):
        rates.append(names["optimizer"].param_groups[0]["lr"])
        names["optimizer"].step()
        names["scheduler"].step()
    expected = [0.05 * half_linear((epoch + 1) / len(rates)) for epoch in range(len(rates))]
    assert rates == pytest.approx(expected)
    options = names["optimizer"].param_groups[0]
    words = " ".join(page.split()).partition("On the command line: `")[2].partition("`")[0]
    assert [options[key] for key in ("penalty", "mu", "c", "momentum", "nesterov")] == [
        "l0",
        1,
        4e-3,
        0.9,
        True,
    ]
    for word in ("--penalty l0", "--mu 1", "--c 4e-3", "--lr 0.05", "--momentum 0.9", "--nesterov"):
        assert word in words
