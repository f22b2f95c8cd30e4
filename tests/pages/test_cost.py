"""What the pages say of time and size is what the committed results hold."""

import json
import re

import pytest

from dirprune.cli.tune import TuneOptions
from dirprune.errors import UsageError
from dirprune.export.contenders import DENSE
from dirprune.recipes import get_recipe
from dirprune.tune import c_for_sparsity
from tests.results import ROOT, assert_told, measured, told_on


def test_words_on_every_program_agree_with_the_results():
    page = told_on("docs/deployment.md")
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
    assert "all other programs are off by no more than 0.002 %" in told


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
    page = told_on("docs/deployment.md")
    assert_told(
        page.partition("With 64 images the gain")[2].partition("scattered zeros leave")[0],
        [
            f"is mostly smaller: {min(ours[64]):.1f} to {max(ours[64]):.1f} times.",
            f"In {len(bf16_wins)} of these {len(ours[64])} tables",
            "the fastest dense program is torch in bf16.",
            f"off by {100 * min(bf16_wins):.1f} to {100 * max(bf16_wins):.1f} % of the largest output,",
            f"by {min(off):.0f} to {max(off):.0f} % on ResNet50.",
            "gains more than 4 % over the fastest dense program:",
            f"OpenVINO's sparse setting (timed in all {timed_in['OpenVINO, sparse setting']} tables),",
            f"CSR (compressed sparse row) linear layers (in {timed_in['torch CSR linear, input first']}),",
            f"slim in torch (in {timed_in['slim, torch']}),",
            f"slim in onnxruntime (in {timed_in['slim, onnxruntime']});",
        ],
    )
    assert timed_in["OpenVINO, sparse setting"] == len(tables)
    one = f"(deployment.md#run-by-the-non-zeros) is {min(ours[1]):.1f} to {max(ours[1]):.1f} times as fast"
    assert one in told_on("docs/when-not.md")


def test_words_on_linear_layers_agree_with_the_results():
    gains = {1: [], 64: []}
    for result, percent in zip(measured("inference-linear")["results"], ("90%", "95%"), strict=True):
        assert (result["network"], percent in result["weights"]) == ("lenet-300-100", True)
        for table in result["tables"]:
            times = {each["name"]: each["milliseconds"] for each in table["timings"]}
            best = min(times[name] for name in DENSE & times.keys())
            gains[table["batch"]].append(best / times["sparse (ours)"])
    assert_told(
        told_on("docs/deployment.md").partition("Linear layers alone gain")[2].partition("### Every")[0],
        [
            "LeNet-300-100",
            "| | 90 % zeros | 95 % zeros |",
            "| one image | {:.2f} | {:.2f} |".format(*gains[1]),
            "| 64 images | {:.2f} | {:.2f} |".format(*gains[64]),
        ],
    )


def test_words_on_the_step_agree_with_the_results():
    told = told_on("docs/results.md")
    networks, scaling = measured("step")["networks"], measured("step_scaling")
    by_tensors = {table["tensors"]: table["ratios"]["gRDA"] for table in scaling["tensors"]}
    means = {name: found["mean"] for name, found in measured("accumulator_dtype")["optimisers"].items()}
    half, whole = (
        f"{means[name]['test_accuracy']:.2f} % at {means[name]['sparsity']:.2f} %"
        for name in ("gRDA, bfloat16 accumulator", "gRDA")
    )
    for sentence in (
        f"the same within {spread(scaling):.0f} % from one million",
        f"takes {networks['lenet5']['ratios']['gRDA']['SGD, foreach']:.2f} times as long as with `SGD(f",
        f"10,000 tensors of 100 elements it takes {by_tensors[10_000]['SGD, foreach']:.2f} times",
        f"where they were: {half}, against {whole}.",
    ):
        assert sentence in told, sentence


def test_words_on_epochs_memory_and_plain_operations_agree_with_the_results():
    told = told_on("docs/results.md")
    here, epyc = ([measured(f"{name}{at}")["networks"] for name in ("epoch", "step")] for at in ("", "-epyc"))
    lenet5, vgg16 = (here[0][name]["gRDA_over_SGD"] for name in ("lenet5", "vgg16 at width 0.25"))
    batches = [here[0][name]["batches"] for name in ("lenet5", "vgg16 at width 0.25")]
    small = epyc[0]["lenet5"]["gRDA_over_SGD"]
    memory = measured("step_memory")
    peaks = {name: f"{taken['peak'] / 1e6:.0f} MB" for name, taken in memory["bytes"].items()}
    half, plain = (
        [
            {
                name: times[way]["median"] / times["gRDA"]["median"]
                for name, each in steps.items()
                if (times := each["times"])
            }
            for _, steps in (here, epyc)
        ]
        for way in ("gRDA, bfloat16 accumulator", "gRDA, plain operations")
    )
    large = [100 * (ratio - 1) for name, ratio in half[0].items() if name != "lenet5"]
    gains = [100 * (1 - ratio) for ratio in half[1].values()]
    for sentence in (
        f"An epoch of synthetic images ({batches[0]} and {batches[1]} batches of 64) took "
        f"{100 * (lenet5['epoch'] - 1):.1f} % longer than with SGD for LeNet-5 and "
        f"{100 * (1 - vgg16['epoch']):.1f} % less for VGG16 at a quarter",
        f"{100 * (small['epoch'] - 1):.1f} % more for an epoch "
        f"({100 * (small['median_batch'] - 1):.1f} % by the median batch)",
        f"Peak memory of training VGG16 (batch {memory['batch']};",
        "| SGD | SGD with momentum | gRDA | gRDA, bfloat16 accumulator | |---|---|---|---| "
        f"| {peaks['SGD']} | {peaks['SGD with momentum']} | {peaks['gRDA']} | "
        f"{peaks['gRDA, bfloat16 accumulator']} |",
        f"{min(large):.0f} to {max(large):.0f} % of a step of VGG16, WRN28x10 and ResNet50, and "
        f"{100 * (half[0]['lenet5'] - 1):.0f} % of LeNet-5's. On the EPYC it saves "
        f"{min(gains):.0f} to {max(gains):.0f} %",
        "plain operations take {:.1f} to {:.1f} times as long as gRDA on the Xeon, "
        "and {:.1f} to {:.1f} times".format(
            *(limit(each.values()) for each in plain for limit in (min, max))
        ),
    ):
        assert sentence in told, sentence


def spread(scaling):
    """By how much the time for each parameter of gRDA differs from a million of them on, in percent."""
    large = [table for table in scaling["sizes"] if table["parameters"] >= 1e6]
    each = [table["nanoseconds_per_parameter"]["gRDA"] for table in large]
    return 100 * (max(each) / min(each) - 1)


def test_words_on_the_step_on_the_epyc_agree_with_the_results():
    told = told_on("docs/results.md")
    scaling = measured("step_scaling-epyc")
    (whole,) = [table["ratios"]["gRDA"] for table in scaling["tensors"] if table["tensors"] == 1]
    sgd, momentum = (whole[base] for base in ("SGD, fused", "SGD with momentum, fused"))
    lenet5 = measured("step-epyc")["networks"]["lenet5"]["ratios"]["gRDA"]
    for sentence in (
        f"take {sgd:.2f} times as long as with `SGD(fused=True)` and {momentum:.2f} times as long as with "
        "momentum",
        f"varies by {spread(scaling):.0f} % from one million up",
        f"LeNet-5 takes {lenet5['SGD, foreach']:.2f} times as long as `SGD(foreach=True)`",
    ):
        assert sentence in told, sentence


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
    words = told_on("docs/results.md")
    assert "| parameters | times as long as `SGD(fused=True)` | as the same with momentum |" in words
    assert f"| 10,000 to 3 million | {told[0]} | {told[1]} |" in words
    assert f"| from 10 million on | {told[2]} | {told[3]} |" in words


def test_where_the_sparse_runtime_gains_nothing_agrees_with_the_results():
    slower, faster = set(), set()
    for network in measured("group_penalty")["networks"]:
        times = {(row["name"], row["batch"]): row["milliseconds"] for row in network["timings"]}
        for batch in (1, 64):
            gains = times["sparse (ours)", batch] < times["onnxruntime", batch]
            (faster if gains else slower).add(network["sparsity"])
    assert max(slower) < min(faster)
    few = f"At {100 * max(slower):.0f} % zeros and fewer"
    told = f"{few}, the sparse runtime is slower here than the dense network in"
    assert told in told_on("docs/deployment.md")


def test_words_on_sizes_agree_with_the_results():
    page = told_on("docs/deployment.md")
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
            f"| with Zstandard | {span('sparse, zstd')} |",
            f"| with two-byte values | {span('sparse, bf16', 'sparse, fp16')} |",
            f"| with both | {span('sparse, bf16, zstd', 'sparse, fp16, zstd')} |",
        ],
    )


def test_words_on_the_greatest_c_agree_with_the_results():
    """The committed runs are looked up again, one by one; the default margin is the one that is told."""
    kept = measured("tune_greatest")
    for pair in kept["pairs"]:
        path = next(ROOT.glob(f"*/**/results/{pair['file']}.json"))
        runs = {run["name"]: run["epochs"]["test_accuracy"] for run in json.loads(path.read_text())["runs"]}
        own, sgd = runs[pair["run"]], runs[f"sgd-seed{pair['run'][-1]}"]
        assert pair["early"] == own[kept["epochs"] - 1] - sgd[kept["epochs"] - 1]
        assert pair["end"] == own[-1] - sgd[-1]
    near, far, lost = [], [], []
    for pair in kept["pairs"]:
        group = near if pair["early"] >= -0.05 else far if pair["end"] > -0.1 else lost
        group.append((-100 * pair["early"], 100 * pair["end"]))
    digits = next(v for v in measured("digits")["summary"] if v["label"].startswith("gRDA"))
    chosen = {answer["margin"]: answer["train"] for answer in kept["answers"]}
    assert chosen == {
        5.0: ["dirprune train digits --c 0.01 --mu 0.6"],
        0.5: ["dirprune train digits --c 0.000178 --mu 0.6"],
    }
    assert TuneOptions.margin == 5
    assert get_recipe("digits").config.c == 0.01
    behind, ends = sorted(-end for _, end in far), [end for _, end in near]
    starts = [early for early, _ in far]
    assert kept["epochs"] == 3
    assert_told(
        told_on("docs/choosing.md").partition("has to be shown to be")[2].partition("## A sparsity")[0],
        [
            "by default 5 points",
            f"Of {len(kept['pairs'])} training runs",
            f"| at most 5 points | {len(near)} | "
            f"between {-min(ends):.2f} points behind and {max(ends):.2f} ahead |",
            f"| {min(starts):.2f} to {max(starts):.2f} points | {len(far)} | "
            f"{behind[0]:.2f} to {behind[-1]:.2f} points behind |",
            f"| {lost[0][0]:.2f} points | {len(lost)} | came to nothing |",
            "For the digits, the rule then gives c = 0.01,",
            f"{-100 * digits['difference_to_sgd']['mean']:.2f} points behind SGD at "
            f"{100 * digits['sparsity']['mean']:.2f} % zeros",
            "With `--margin 0.5` it gives c = 1.78e-4",
        ],
    )
    assert len({f"{early:.2f}" for early, _ in lost}) == 1


def test_words_on_the_search_for_a_sparsity_agree_with_the_results():
    """What it costs in short runs, and on which side of the target the hard threshold ended."""
    cases = [
        case for each in measured("tune_prediction")["sets"] for case in each["cases"] if "target" in case
    ]
    assert {case["recipe"] for case in cases} == {"digits"}
    assert {case["trial_epochs"] / case["epochs"] for case in cases} == {0.25}
    assert all(case["error"] == case["predicted"] - case["measured"] for case in cases)
    soft, hard, rescaled = (
        [case for case in cases if case.get("penalty", "l1") == penalty]
        for penalty in ("l1", "l0", "rescaled")
    )
    at = {target: [case for case in hard if case["target"] == target] for target in (0.9, 0.95)}
    denser = sorted(100 * case["error"] for case in at[0.9])
    sparser = sorted(-100 * case["error"] for case in at[0.95])
    assert min(denser[0], sparser[0]) > 0  # each to one side
    assert len(denser) == 3
    (most,) = {case["short_runs"] for case in at[0.9]}
    ended = [100 * case["measured"] for case in at[0.9]]

    def span(values, digits=0):
        return f"{min(values):.{digits}f} to {max(values):.{digits}f}"

    assert_told(
        told_on("docs/choosing.md").partition("Each c that is tried")[2].partition("## In Python")[0],
        [
            f"up to {most} are tried for each mu",
            f"| soft | {span([case['short_runs'] for case in soft])} |",
            f"| `rescaled` | {span([case['short_runs'] for case in rescaled])} |",
            f"| hard | {span([case['short_runs'] for case in hard])} |",
            f"The hard threshold ended at {span(ended, 2)} % where 90 % was asked for.",
            f"Where 95 % was asked for, it ended sparser than predicted, by {span(sparser, 2)} points",
        ],
    )
    by = "{:.2f}, {:.2f} and {:.2f} points".format(*denser)
    assert (
        f"denser than predicted on all three seeds of digits, by {by}, and finding its c took {most} short "
        f"runs, as long as {most / 4:g} whole ones" in told_on("README.md")
    )
    told = " ".join((TuneOptions.__doc__ or "").split()).partition("With --target-sparsity,")[2]
    assert_told(
        told,
        [
            "by default a quarter of the training;",
            f"up to {most} are tried for each mu, {most / 4:g} trainings before the one that counts",
            f"For 90 % with the hard threshold digits took all {most},",
            f"{span(denser, 2)} points denser than predicted",
        ],
    )


def test_a_search_for_a_sparsity_costs_no_more_than_is_said():
    """Where no c comes near the target, it ends after as many short runs as the pages say."""
    tried = []

    class TrialRunner:
        def train(self, configs, _):
            tried.extend(configs)
            return [Diverged() for _ in configs]

    class Diverged:
        def result(self):
            return {"status": "diverged"}

    config = get_recipe("digits").config
    with pytest.raises(UsageError, match="every short run diverged"):
        c_for_sparsity(config, (0.6,), 0.9, round(config.epochs / 4), TrialRunner())
    assert f"up to {len(tried)} are tried for each mu" in told_on("docs/choosing.md")
