"""What the pages say of the landscape is what the committed results hold."""

import math

from dirprune.recipes import get_recipe
from dirprune.recipes.recommended import recommended
from tests.results import measured, told_on


def test_words_on_the_signs_of_the_theorem_agree_with_the_results():
    page = told_on("docs/evidence.md")
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


def test_page_of_the_evidence_tells_what_more_images_gave():
    evidence = measured("evidence-lenet5-fashion_mnist")
    by_chance = evidence["project"]["by_chance"]
    (last,) = evidence["project_more_images"]["steps"]
    page = told_on("docs/evidence.md")
    assert f"is {100 * last['fraction']:.2f} %, twice that of a random direction" in page
    assert 1.9 < last["fraction"] / by_chance < 2.1


def test_what_agrees_with_the_paper_agrees_with_the_results():
    pairs = [measured(f"evidence-lenet5-{name}") for name in ("fashion_mnist", "cifar10")]
    told = (
        told_on("docs/evidence.md").partition("What agrees with the paper:")[2].partition("No more than")[0]
    )
    curve, line = ([pair["connect"][f"barrier_{path}"] for pair in pairs] for path in ("curve", "line"))
    parts = [100 * step["fraction"] for pair in pairs for step in pair["project"]["steps"]]
    chance = [100 * pair["project"]["by_chance"] for pair in pairs]
    error = 100 * max(each["test_error"]["height"] for each in curve)
    lost = (
        pairs[1]["pair"]["sgd"]["result"]["test_accuracy"]
        - pairs[1]["pair"]["grda"]["result"]["test_accuracy"]
    )
    last = 100 * pairs[1]["project"]["steps"][-1]["fraction"]
    (fashion, cifar), (fashion_line, cifar_line) = (
        [each["train_loss"]["height"] for each in path] for path in (curve, line)
    )
    error_line = 100 * line[1]["test_error"]["height"]
    sparse, *_, dense = pairs[1]["connect"]["curve"]["test_loss"]
    assert dense > sparse
    assert line[1]["test_loss"]["height"] == 0
    assert max(each["test_loss"]["height"] for each in (curve[0], line[0])) == 0
    for piece in (
        f"| along the trained curve | {fashion:.4f} | {cifar:.3f} |",
        f"| along the straight line | {fashion_line:.3f} | {cifar_line:.2f} |",
        f"by more than {error:.2f} points; on the line of CIFAR-10 it rises by {error_line:.1f}",
        f"{min(parts):.1f} to {max(parts):.1f} % of its length",
        f"a random direction has {min(chance):.1f} to {max(chance):.1f} %",
        f"is {last / chance[1]:.1f} times a random direction's",
        f"gRDA loses {100 * lost:.1f} points there",
        f"is SGD's ({dense:.2f}, gRDA's is {sparse:.2f}), rises along the curve by "
        f"{curve[1]['test_loss']['height']:.3f} and on the line not at all",
    ):
        assert piece in told, piece
    assert [pair["connect"]["converged"] for pair in pairs] == [True, False]


def test_evidence_of_the_recommended_setting_agrees_with_the_results():
    evidence = measured("evidence-lenet-300-100-recommended")
    told = told_on("docs/frontier.md").partition("**The whole setting that we recommend,**")[2]
    told = told.partition("than by chance.")[0]
    config = evidence["pair"]["grda"]["config"]
    recipe = get_recipe("lenet5-fashion_mnist-recommended").config
    names = ("lr", "momentum", "nesterov", "schedule", "penalty", "mu", "c", "prune", "epochs")
    assert [config[name] for name in names] == [getattr(recipe, name) for name in names]
    result = {name: run["result"] for name, run in evidence["pair"].items()}
    sparse = result["grda"]
    curve, line = (evidence["connect"][f"barrier_{path}"]["train_loss"] for path in ("curve", "line"))
    steps = {step["epoch"]: 100 * step["fraction"] for step in evidence["project"]["steps"]}
    late = [part for epoch, part in steps.items() if epoch >= 15]
    early = [part for epoch, part in steps.items() if epoch < 15]
    for piece in (
        f"LeNet-300-100, {sparse['epochs']} epochs.",
        f"| recommended | {100 * sparse['sparsity']:.2f} % | {100 * sparse['test_accuracy']:.2f} % | "
        f"{100 * result['sgd']['test_accuracy']:.2f} % | {line['height']:.3f} | 0 |",
        f"| recommended | {min(early):.1f} to {max(early):.1f} % | {min(late):.1f} to {max(late):.1f} % from "
        f"the fifteenth epoch on | {100 * evidence['project']['by_chance']:.1f} % |",
    ):
        assert piece in told, piece
    assert curve["height"] == 0
    ends = f"{100 * sparse['sparsity']:.2f} %"
    assert f"c = {config['c']:.3g} for {sparse['epochs']} epochs at {ends}".replace("0.00133", "1.33e-3") in (
        told_on("docs/choosing.md")
    )
    assert f"for {sparse['epochs']} epochs, at {ends}" in " ".join(recommended.__doc__.split())


def test_evidence_of_the_rescaled_form_agrees_with_the_results():
    evidence = measured("evidence-lenet-300-100-rescaled")
    told = told_on("docs/frontier.md").partition("**`rescaled`** in the same training, in float32")[2]
    config, before = (
        measured(f"evidence-lenet-300-100-{form}")["pair"]["grda"]["config"]
        for form in ("rescaled", "recommended")
    )
    changed = {name for name in config if name not in before or config[name] != before[name]}
    assert changed == {"penalty", "c", "precision", "schedule_epochs"}
    assert config["schedule_epochs"] == config["epochs"] == before["epochs"]
    assert (config["penalty"], config["precision"]) == ("rescaled", "no")
    dense, sparse = (evidence["pair"][name]["result"] for name in ("sgd", "grda"))
    heights = [evidence["connect"][f"barrier_{path}"]["train_loss"]["height"] for path in ("line", "curve")]
    assert f"by {heights[1]:.3f} on the curve and {heights[0]:.3f} on the line" in told_on("docs/evidence.md")
    steps = {step["epoch"]: 100 * step["fraction"] for step in evidence["project"]["steps"]}
    late = [part for epoch, part in steps.items() if epoch >= 15]
    early = [part for epoch, part in steps.items() if epoch < 15]
    for piece in (
        f"with c = {config['c']:.2e}. ".replace("e-0", "e-"),
        f"| `rescaled` | {100 * sparse['sparsity']:.2f} % | {100 * sparse['test_accuracy']:.2f} % | "
        f"{100 * dense['test_accuracy']:.2f} % | {heights[0]:.3f} | {heights[1]:.3f} |",
        f"| `rescaled` | {min(early):.1f} to {max(early):.1f} % | {min(late):.1f} to {max(late):.1f} % from "
        f"the fifteenth epoch on | {100 * evidence['project']['by_chance']:.1f} % |",
    ):
        assert piece in told, piece


def test_page_of_the_hard_threshold_tells_what_was_measured():
    evidence, soft = (measured(f"evidence-lenet5-fashion_mnist{more}") for more in ("-l0", ""))
    page = told_on("docs/frontier.md")
    _, _, rest = page.partition("- **The hard threshold:**")
    told = rest.partition("![Loss on")[0]
    lines = [each["connect"]["barrier_line"]["train_loss"]["height"] for each in (evidence, soft)]
    assert f"with the soft threshold the straight line rises by {lines[1]:.3f}" in told
    assert evidence["connect"]["barrier_curve"]["train_loss"]["height"] == 0
    trained_on, seen = evidence["connect"]["settings"]["trained_on"], evidence["connect"]["images"]
    assert f"trained on all {trained_on['samples']:,} images" in told
    assert f"the loss is measured on {seen['train']:,} of them" in told
    heights = [evidence["connect"][f"barrier_{path}"]["test_error"]["height"] for path in ("curve", "line")]
    assert f"within {0.1 * math.ceil(1000 * max(heights)):.1f} points of the higher end" in told
    steps = {step["epoch"]: 100 * step["fraction"] for step in evidence["project"]["steps"]}
    later = [fraction for epoch, fraction in steps.items() if epoch >= 5]
    assert (
        f"| hard threshold | {steps[1]:.1f} and {steps[2]:.1f} % in the first two epochs | "
        f"{min(later):.1f} to {max(later):.1f} % from the fifth epoch on | "
        f"{100 * evidence['project']['by_chance']:.1f} % |" in told
    )
    result = {name: run["result"] for name, run in evidence["pair"].items()}
    zeros, own, twin = (
        f"{100 * result[name][key]:.2f} %"
        for name, key in (("grda", "sparsity"), ("grda", "test_accuracy"), ("sgd", "test_accuracy"))
    )
    assert f"| hard threshold | {zeros} | {own} | {twin} | {lines[0]:.3f} | 0 |" in told
    assert {run["train_accuracy"] for run in result.values()} == {1.0}
