"""The page: well-formed, self-contained, complete, and deaf to what strangers write into a configuration."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from dirprune.errors import RunFolderError
from dirprune.report import write_report
from tests.report.conftest import DIVERGED, ENVIRONMENT, FINISHED, Experiment

VOID = {"meta", "link", "img", "br", "hr", "input"}
LOADING = {"src", "href", "srcset", "xlink:href", "data", "action", "poster", "background"}


class Page(HTMLParser):
    """Checks that tags nest, and collects them, their attributes and the text."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs)
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert "svg" in self.open or tag in VOID
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)


def page(experiment: Experiment) -> Page:
    path = write_report(experiment.path)
    assert path == experiment.path / "report.html"
    html = path.read_text(encoding="utf-8")
    assert not re.search(r"@import|url\((?!#)", html)
    parsed = Page(html)
    assert {"script", "link", "iframe", "object", "embed", "form", "base"}.isdisjoint(
        t for t, _ in parsed.tags
    )
    for _, attributes in parsed.tags:
        assert all((value or "#").startswith("#") for name, value in attributes.items() if name in LOADING)
        assert not any(name.startswith("on") for name in attributes)
    ids = [attributes["id"] for _, attributes in parsed.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in parsed.tags:
        assert attributes.get("aria-labelledby") is None or attributes["aria-labelledby"] in ids
    return parsed


def layers(count: int, zeros: int) -> list[dict[str, object]]:
    """Tensors of 10 elements, in blocks of four."""
    return [
        {"name": f"block{i // 4}.part{i % 4}.weight", "shape": [5, 2], "zeros": zeros} for i in range(count)
    ]


@pytest.fixture
def three_seeds(experiment: Experiment) -> Experiment:
    tensors = layers(5, 9)
    for seed, (sgd, grda) in enumerate(((0.970, 0.972), (0.980, 0.971), (0.970, 0.970))):
        experiment.pair(seed, sgd, grda, layers=tensors)
    return experiment


def test_the_page_is_complete(three_seeds: Experiment) -> None:
    parsed = page(three_seeds)
    figures = [a for tag, a in parsed.tags if tag == "div" and a.get("role") == "img"]
    assert len(figures) == 3
    assert all(figure["aria-label"] for figure in figures)
    assert parsed.count("figure") == parsed.count("figcaption") == 4
    assert parsed.count("h1") == 1
    for text in (
        "gRDA removed 90.0\u00a0% of the weights",
        "97.33 ± 0.58",
        "\u22120.23 ± 0.59",
        "5.0x smaller",
        "3/3",
        "block1.part0.weight",
        "dirprune train digits",
        "dirprune 0.1.0, torch 2.14.1",
        "grda-2",
    ):
        assert text in parsed.text, text
    assert parsed.text.count("\u22120.23 ± 0.59") == 2  # in words and in the table


def test_equal_folders_give_an_equal_page(three_seeds: Experiment) -> None:
    first = write_report(three_seeds.path).read_bytes()
    assert write_report(three_seeds.path).read_bytes() == first


def test_bars_are_as_long_as_the_sparsity(experiment: Experiment) -> None:
    for seed, zeros in enumerate((6, 7)):
        result = {"sparsity": 0.65, "layers": layers(1, zeros)}
        experiment.add(f"{seed}", {"method": "grda", "seed": seed}, result)
    parsed = page(experiment)
    assert "65.0 %of 10" in parsed.text
    assert ("span", {"class": "bar series-1", "style": "width:65.00%"}) in parsed.tags


@pytest.mark.parametrize(
    ("tensors", "shown", "details"), [(40, 40, False), (160, 40, True), (164, 1, True), (60, 15, True)]
)
def test_many_tensors_are_added_up_to_modules(
    experiment: Experiment, tensors: int, shown: int, details: bool
) -> None:
    content = layers(tensors, 5)
    if shown < 40:
        content = [layer | {"name": f"net.{layer['name']}"} for layer in content]
    experiment.add("a", {"method": "grda"}, {"sparsity": 0.5, "layers": content})
    parsed = page(experiment)
    assert (f"All {tensors} tensors" in parsed.text) == details
    rows = parsed.text.count("50.0 %of ")
    assert rows == shown + details * tensors
    if shown == 1:
        assert "50.0 %of 1,640" in parsed.text


def test_networks_that_do_not_agree_are_refused(experiment: Experiment) -> None:
    for seed in (0, 1):
        result = {"sparsity": 0.5, "layers": layers(2 + seed, 5)}
        experiment.add(f"{seed}", {"method": "grda", "seed": seed}, result)
    with pytest.raises(RunFolderError, match="networks of different layers"):
        write_report(experiment.path)
    assert not (experiment.path / "report.html").exists()


ATTACKS = [
    "<script>alert(1)</script>",
    '"><img src=http://x.example/a onerror=alert(1)>',
    "{{ 7*7 }}",
    "\ud800\x00",
]


@pytest.mark.parametrize("attack", ATTACKS)
def test_strings_from_files_stay_strings(experiment: Experiment, attack: str) -> None:
    config = {"recipe": attack, "model": attack, attack: attack, "schedule": attack}
    environment = ENVIRONMENT | {"command": attack, attack: attack, "versions": {attack: attack}}
    tensors = [{"name": attack, "shape": [2], "zeros": 1}]
    experiment.add("a", config, {"layers": tensors}, environment=environment)
    result = {"layers": tensors, "sparsity": 0.5, "initial_weights": attack}
    experiment.add("<b>", config | {"method": "grda", attack: 1}, result, environment=environment)
    experiment.add("c", config | {"method": attack}, DIVERGED | {"message": attack}, environment=environment)
    parsed = page(experiment)
    assert parsed.count("img") == parsed.count("b") == 0
    assert "<b>" in parsed.text
    shown = attack if attack.isprintable() else ascii(attack)
    assert parsed.text.count(shown) >= 10


STRANGE: dict[str, list[tuple[dict[str, object], dict[str, object] | None, list[object] | None]]] = {
    "one seed": [({"method": "grda"}, {"sparsity": 0.5}, None)],
    "only SGD": [({}, {}, None), ({"seed": 1}, {}, None)],
    "only diverged": [({"method": "grda"}, DIVERGED, None), ({"method": "grda", "seed": 1}, DIVERGED, [])],
    "zero epochs": [({"method": "grda"}, None, [])],
    "a figure that is no number": [
        ({}, FINISHED | {"train_loss": float("nan"), "test_accuracy": None}, None)
    ],
    "a network without tensors": [({"method": "grda"}, {"sparsity": 0.5, "layers": []}, None)],
    "an empty tensor": [
        ({"method": "grda"}, {"sparsity": 0.5, "layers": [{"name": "a", "shape": [0], "zeros": 0}]}, None)
    ],
}


@pytest.mark.parametrize("runs", STRANGE.values(), ids=STRANGE)
def test_strange_experiments_have_a_page(experiment: Experiment, runs: list[tuple]) -> None:  # type: ignore[type-arg]
    for index, (config, result, metrics) in enumerate(runs):
        experiment.add(f"{index}", config, result, metrics=metrics)
    parsed = page(experiment)
    assert parsed.count("h1") == 1
    assert "Every run" in parsed.text


def test_a_diverged_run_gives_its_reason_and_an_unfinished_one_its_place(experiment: Experiment) -> None:
    experiment.add("a", {}, DIVERGED)
    experiment.add("b", {"seed": 1, "epochs": 40})
    parsed = page(experiment)
    assert "loss is nan at step 90" in parsed.text
    assert "3 of 40" in parsed.text


def test_dates_and_machines_of_several_runs(experiment: Experiment) -> None:
    for seed in range(5):
        environment = {"date": f"2026-03-0{5 - seed}", "cores": seed}
        experiment.add(f"{seed}", {"seed": seed}, {}, environment=environment)
    text = page(experiment).text
    assert "2026-03-01 to 2026-03-05" in text
    assert "0; 1; 2; and 2 more" in text


def test_resumes_are_counted(experiment: Experiment) -> None:
    resumed = [{"date": "2026-03-02", "cores": 2}, {"date": "2026-03-04", "cores": 2}]
    experiment.add("a", {}, {}, environment={"date": "2026-03-01", "resumed": resumed})
    text = page(experiment).text
    assert "2 times, last 2026-03-04" in text
    assert "{" not in text


def test_the_template_is_part_of_the_package() -> None:
    import dirprune.report

    templates = Path(dirprune.report.__file__).parent / "templates"
    assert {path.name for path in templates.iterdir()} == {
        "section.html.jinja",
        "report.html.jinja",
        "report.css",
    }
