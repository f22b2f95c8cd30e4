import json
import math
import re

import pytest
import torch

from dirprune.errors import RunFolderError
from dirprune.landscape import (
    Agreement,
    Connection,
    Norms,
    NormSeries,
    OneShot,
    Plane,
    Projection,
    ProjectionSeries,
    Theorem,
    Twin,
    Values,
)
from dirprune.report import write_report
from dirprune.report.landscape import landscape_sections
from dirprune.report.landscape_figures import Ground, Line, draw_ground, draw_lines

ENVIRONMENT = {"date": "2026-03-01", "command": "dirprune landscape <topic>"}
NONE = Values((), (), (), ())
ENDS = {"Training": "10,000 training images.", "Test": "5,000 test images."}


def agreement(rate, time, **changes):
    named = dict.fromkeys((field for field in Agreement.__dataclass_fields__), 0.5)
    return Agreement(**{**named, "rate": rate, "time": time, "steps": 10, "sharp": 3, **changes})


@pytest.fixture
def folder(experiment):
    """An experiment with every kind of result."""
    experiment.pair(0, 0.97, 0.96)
    out = experiment.path / "grda-0" / "landscape"
    curve = Values((0.2, 0.15, 0.1), (0.02, 0.01, 0.01), (0.5, 0.4, 0.45), (0.1, 0.1, 0.1))
    line = Values((0.2, 1.2345, 0.1), (0.02, 0.3, 0.01), (0.5, 2.0, 0.45), (0.1, 0.4, 0.1))
    bends = torch.zeros(1, 4)
    request = {"epochs": 3, "trained_on": {"samples": 60000}, "data": {"train": {"samples": 20000}}}
    Connection(request, (0.0, 0.5, 1.0), curve, line, (1.0, 0.2), False, bends).save(out, ENVIRONMENT)
    grid = Values(tuple(0.001234 * 3**i for i in range(9)), (), tuple(0.1 * i + 0.1 for i in range(9)), ())
    corners = ((0.0, 0.0), (1.0, 0.0), (2.0, 1.0))
    axis = (-1.0, 1.0, 3.0)
    data = {"train": {"samples": 10000}, "test": {"samples": 5000}}
    at_points = Values((0.2, 0.1, 0.1), (), (0.5, 0.4, 0.4), ())
    Plane({"size": 3, "data": data}, axis, axis, grid, corners, at_points, corners, 1e-7).save(
        out, ENVIRONMENT
    )
    steps = tuple(
        Projection(e, f, 3.0, 0.9, 0.1, 0.2, (4.0, 1.0), (4e-4, 3e-4), 0.9, 60, "a", "b")
        for e, f in ((0, None), (5, 0.04), (9, 0.0123))
    )
    ProjectionSeries({"k": 2, "data": data}, steps, 0.01).save(out, ENVIRONMENT)
    NormSeries({}, (0, 9), (Norms(9, 9.0, 3.0),) * 2, (Norms(9, 9.0, 3.0), Norms(1, 4.0, 3.5))).save(
        out, ENVIRONMENT
    )
    two = Values((0.1, 0.9), (), (0.5, 0.8), ())
    before = Values((0.01,), (), (0.4,), ())
    twin = Twin(0.7, Values((0.033,), (), (0.44,), ()))
    at, found = ((0.1, 0.5), (0.1, 0.5), (1.0, 2.0)), ((4.0, 2.0), (2e-4, 8e-4))
    OneShot({"k": 7, "data": data}, before, *at, two, two, two, 0.98, 0.01, twin, *found).save(
        experiment.path / "sgd-0" / "landscape", ENVIRONMENT
    )
    rows = (
        agreement(0.1, 10.0),
        agreement(0.1, 30.0, correlation=math.nan),
        agreement(0.01, 10.0, distance=0.123),
    )
    Theorem({"c": 0.02}, rows).save(experiment.path / "landscape" / "small", ENVIRONMENT)
    return experiment.path


def test_every_result_has_its_figures(folder):
    sections = landscape_sections(folder)
    assert [section.title for section in sections] == [
        "The landscape of the loss: grda-0",
        "The landscape of the loss: sgd-0",
        "The theorem, checked: small",
    ]
    assert [figure.title for section in sections for figure in section.figures] == [
        "Loss from gRDA to SGD",
        "Error from gRDA to SGD",
        "Training loss on the plane through both networks and the bend",
        "Test loss on the plane through both networks and the bend",
        "How much of the difference lies in the sharpest directions",
        "Norm ratio",
        "Training loss after one-shot pruning",
        "Test loss after one-shot pruning",
        "Distance from directional pruning",
        "Overlap of the zeros",
        "Effective scores and s",
    ]


def captions(folder):
    return {
        figure.title: figure.caption for section in landscape_sections(folder) for figure in section.figures
    }


def test_captions_say_the_numbers(folder):
    said = captions(folder)
    loss = said["Loss from gRDA to SGD"]
    assert (
        "training 0 on the curve, 1.03 on the straight line; test 0 on the curve, 1.5 on the straight" in loss
    )
    assert "Above gRDA and above SGD: training 0 and 0.1 on the curve, 1.03 and 1.13 on the straight" in loss
    assert "trained on 60,000 training images, measured on 20,000 of them" in loss
    assert "had not settled" in loss
    assert "training 0 on the curve, 28 on the straight line" in said["Error from gRDA to SGD"]
    projection = said["How much of the difference lies in the sharpest directions"]
    assert "At the last epoch 1.2 %" in projection
    assert "top 2 Hessian eigenvectors" in projection
    assert "gRDA 0.875" in said["Norm ratio"]
    pruned = said["Training loss after one-shot pruning"]
    assert "mean score 0.980" in pruned
    assert "gRDA, trained to 70.0 % sparsity: 0.033. Measured on 10,000 training images." in pruned
    assert said["Test loss after one-shot pruning"].endswith(" Measured on 5,000 test images.")
    assert projection.endswith("eigenvalues 4 to 1. Measured on 10,000 training images.")
    on_plane = [said[f"{split} loss on the plane through both networks and the bend"] for split in ENDS]
    assert "The line is the trained curve. At the points: gRDA 0.2" in on_plane[0]
    assert [caption.rpartition(" Measured on ")[2] for caption in on_plane] == list(ENDS.values())


@pytest.mark.parametrize(
    ("outside", "words"),
    [
        (0.25, "curve, projected: it lies up to 0.25 away from the plane."),
        (None, "projected onto the plane."),
    ],
)
def test_a_curve_that_is_not_in_the_plane_is_said_to_be_projected(folder, outside, words):
    path = folder / "grda-0" / "landscape" / "plane.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "outside": outside}))
    assert words in captions(folder)["Training loss on the plane through both networks and the bend"]


def test_all_norms_are_in_a_table(folder):
    (table,) = landscape_sections(folder)[0].tables
    assert len(table.head) == 9
    assert table.rows[1] == ("9", "9", "9", "3", "0.333", "1", "4", "3.5", "0.875")


def test_a_plane_and_a_line_that_are_not_finite_are_shown(folder):
    out = folder / "grda-0" / "landscape"
    for name, changes in (
        ("connect", {"line": {"train_loss": [0.2, None, 0.1], "test_loss": [None] * 3}}),
        ("plane", {"grid": {"train_loss": [None] * 9}, "at_points": {"train_loss": [0.2, None, 0.1]}}),
    ):
        content = json.loads((out / f"{name}.json").read_text())
        for field, values in changes.items():
            content[field] |= values
        (out / f"{name}.json").write_text(json.dumps(content))
    said = captions(folder)
    assert "training 0 on the curve, not finite on the straight line" in said["Loss from gRDA to SGD"]
    plane = said["Training loss on the plane through both networks and the bend"]
    assert "gRDA 0.2, bend not finite, SGD 0.1" in plane
    assert "nan" not in "".join(said.values())


def test_results_of_before_still_load(folder):
    """Without what later versions have added."""
    out = folder / "grda-0" / "landscape"
    for name, late in (
        ("connect", ("barriers",)),
        ("plane", ("outside",)),
        ("directional", ("twin", "eigenvalues", "residuals")),
    ):
        path = (folder / "sgd-0" / "landscape" if name == "directional" else out) / f"{name}.json"
        path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k not in late}))
    for name, field, late in (("norms", "sgd", "ratio"), ("project", "steps", "loss_hessian")):
        content = json.loads((out / f"{name}.json").read_text())
        content[field] = [{k: v for k, v in row.items() if k != late} for row in content[field]]
        (out / f"{name}.json").write_text(json.dumps(content))
    assert len(landscape_sections(folder)) == 3
    assert NormSeries.load(out).sgd[0].ratio == pytest.approx(1 / 3)
    assert ProjectionSeries.load(out).steps[0].loss_hessian is None


def test_values_of_contours_keep_clear_of_points_and_names():
    """Level lines from left to right, with points at their left ends, where the first place of each is."""
    axis = [0.1 * i for i in range(-20, 21)]
    values = [math.exp(y) for y in axis for _ in axis]
    points = [(name, -1.85, y) for name, y in (("gRDA", 0.85), ("bend", 0.19), ("SGD", -1.12))]
    svg = draw_ground(
        Ground(axis, axis, values, points, [(-1.85, 0.85), (-1.85, -1.12)]), name="x", unit="distance"
    )
    places = {text: (float(x), float(y)) for text, x, y in texts(svg)}
    names = {label: places.pop(label) for label, _, _ in points}
    numbers = [place for text, place in places.items() if re.fullmatch(r"\d\.?\d*", text) and "." in text]
    assert len(numbers) >= 3
    for x, y in numbers:
        for label, (left, base) in names.items():
            beside = max(left - x, x - left - 6 * len(label), 0), max(y - base, base - 7 - y, 0)
            assert math.hypot(*beside) > 6, label
            assert math.hypot(x - (left - 6), y - (base + 5)) > 10, label
    assert svg.count("paint-order: stroke") == 3


def test_a_legend_lies_on_the_colour_of_the_page():
    lines = [Line(f"line {i}", [0, 1], [1, 0.9], i) for i in range(3)]
    svg = draw_lines(lines, name="figure", xlabel="epoch", ylabel="loss", from_zero=True)
    (ground,) = re.findall(r'<path d="([^"]*)"[^>]*style="fill: var\(--paper\)[^"]*"', svg)
    xs, ys = zip(*re.findall(r"(-?[\d.]+) (-?[\d.]+)", ground), strict=True)
    names = [(float(x), float(y)) for text, x, y in texts(svg) if text.startswith("line")]
    assert len(names) == 3
    for x, y in names:
        assert min(map(float, xs)) < x < max(map(float, xs))
        assert min(map(float, ys)) < y < max(map(float, ys))
    assert "var(--rule)" not in svg[svg.index(ground) :]  # the rules are beneath it


def texts(svg):
    """Words of a figure and where they begin, or have their middle."""
    where = r'(?:x="|translate\()([\d.]+)(?:" y="| )([\d.]+)'
    return [
        (words, *re.search(where, tag).groups())
        for tag, words in re.findall(r"<text([^>]*)>([^<>]+)</text>", svg)
    ]


def test_the_table_of_the_theorem(folder):
    section = landscape_sections(folder)[-1]
    (table,) = section.tables
    assert len(table.rows) == 3
    assert all(len(row) == len(table.head) for row in table.rows)
    assert table.rows[2][0] == "0.01, 10"
    assert "0.123" in table.rows[2]
    assert (
        "smallest \N{GREEK SMALL LETTER GAMMA} = 0.01 and t = 10 the distance is 0.12, against 0.50"
        in section.meaning
    )


def test_the_evidence_is_on_the_page(folder):
    evidence, pruned = (section.evidence for section in landscape_sections(folder)[:2])
    assert evidence["project: residuals"] == "greatest |Hu - λu| / λ 0.0003"
    assert pruned["directional: residuals"] == "greatest |Hu - λu| / λ 0.0004"
    assert evidence["connect: converged"] == "False"
    page = write_report(folder).read_text()
    assert "dirprune landscape &lt;topic&gt;" in page
    assert write_report(folder).read_text() == page


def test_figures_take_their_colours_from_the_page_and_keep_their_labels_whole(folder):
    for section in landscape_sections(folder):
        for figure in section.figures:
            assert "#0303" not in figure.svg
            assert "var(--series-1)" in figure.svg
    plane = landscape_sections(folder)[0].figures[2].svg
    for label in ("gRDA", "bend", "SGD"):
        assert f"{label}</text>" in plane
    assert re.search(r">0\.00\d+</text>", plane)  # a contour that two decimals would make 0.00


def test_a_page_without_results_has_no_such_section(experiment):
    experiment.pair(0, 0.97, 0.96)
    assert landscape_sections(experiment.path) == []
    assert "landscape" not in write_report(experiment.path).read_text()


def test_values_that_are_missing_draw_nothing(folder):
    path = folder / "grda-0" / "landscape" / "connect.json"
    content = json.loads(path.read_text())
    for name in ("curve", "line"):
        content[name] |= {"train_error": [], "test_error": [], "test_loss": []}
    path.write_text(json.dumps(content))
    said = captions(folder)
    assert "Error from gRDA to SGD" not in said
    assert "; test" not in said["Loss from gRDA to SGD"]


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("grda-0/landscape/connect.json", {"t": [0.0, 1.0]}),
        ("grda-0/landscape/plane.json", {"x": [0.0, 1.0]}),
        ("grda-0/landscape/plane.json", {"environment": 3}),
        ("grda-0/landscape/project.json", {"steps": []}),
        ("grda-0/landscape/norms.json", {"sgd": []}),
        ("grda-0/landscape/project.json", {"by_chance": 10**400}),
        ("sgd-0/landscape/directional.json", {"request": {}}),
        ("landscape/small/theorem.json", {"rows": []}),
        ("landscape/small/theorem.json", {"rows": 3}),
    ],
)
def test_a_result_that_cannot_be_shown_is_named(folder, file, changes):
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(RunFolderError, match=re.escape(str(path))) as caught:
        landscape_sections(folder)
    assert "delete that file to make it anew" in str(caught.value)
