"""The documentation is built without a warning, and holds what it is made from elsewhere."""

import importlib
import json
import re
import runpy
from html import unescape

import numpy as np
import pytest
from scipy.stats import ttest_rel

import dirprune
from dirprune.cli import COMMANDS
from dirprune.cli.bench import BENCHMARKS
from dirprune.cli.landscape import TOPICS
from dirprune.methods import METHODS
from tests.pages.blocks import PAGES, ROOT

OURS = [path.removeprefix("docs/").removesuffix(".md") for path in PAGES if path.startswith("docs/")]
DOCUMENTED = (
    *("dirprune", "dirprune.export", "dirprune.landscape", "dirprune.methods", "dirprune.train"),
    "dirprune.tune",
)


def measured(name):
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())


def table_rows(page):
    """The texts of the cells of every row."""
    return [
        [re.sub("<[^>]+>", "", cell) for cell in re.findall(r"<t[hd]\b[^>]*>(.*?)</t[hd]>", row, re.DOTALL)]
        for row in re.findall(r"<tr>(.*?)</tr>", page, re.DOTALL)
    ]


def test_the_build_says_nothing_amiss(site):
    assert "WARNING" not in site.said
    assert "ERROR" not in site.said


@pytest.mark.parametrize("page", OURS)
def test_no_page_asks_another_host(site, page):
    html = (site.path / f"{page}.html").read_text()
    loaded = re.findall(r"<(?:script|link|img|iframe|source)\b[^>]*?(?:src|href)=\"?([^\" >]+)", html)
    assert loaded
    assert not [address for address in loaded if re.match(r"(\w+:)?//", address)]


def test_equations_are_mathml(site):
    for page in ("choosing", "evidence", "api/index", "api/landscape", "api/methods"):
        html = (site.path / f"{page}.html").read_text()
        assert '<math xmlns="http://www.w3.org/1998/Math/MathML" display="block">' in html
    for page in OURS:
        html = (site.path / f"{page}.html").read_text()
        assert ":math:" not in html
        assert "math::" not in html
        assert "\\frac" not in html


def test_roles_became_links(site):
    for page in OURS:
        html = (site.path / f"{page}.html").read_text()
        assert not re.search(r":(class|func|data|meth|mod|attr):", html)
    reference = (site.path / "api" / "index.html").read_text()
    link = r'<a class="[^"]*autorefs-internal"[^>]* href="(?:index\.html)?#dirprune\.prunable_groups">'
    assert re.search(link, reference)


@pytest.mark.parametrize("name", DOCUMENTED)
def test_every_public_name_is_in_the_reference(site, name):
    pages = "".join(path.read_text() for path in (site.path / "api").glob("*.html"))
    for public in importlib.import_module(name).__all__:
        if public != "__version__" and public not in ("METHODS", "TWINS"):
            home = "dirprune" if public in dirprune.__all__ else name
            own_module = f"{home}.{public}.{public}"  # hides the function where both have one name
            assert any(f'id="{place}"' in pages for place in (f"{home}.{public}", own_module)), public


def test_every_command_has_its_help(site):
    html = (site.path / "command-line.html").read_text()
    parts = [*COMMANDS, *(f"bench {name}" for name in BENCHMARKS), *(f"landscape {name}" for name in TOPICS)]
    for part in parts:
        if part not in ("bench", "landscape"):
            assert re.search(rf"<summary>dirprune {part}( digits)?</summary>", html), part
    assert "--target-sparsity" in html
    assert not re.search("[╭╮╰╯│]|-----", html)


def test_every_method_is_in_the_table(site):
    html = (site.path / "comparison.html").read_text()
    for name, entry in METHODS.items():
        assert f"<code>{name}</code>" in html
        assert entry.facts.paper.split(",")[0] in html


def test_sizes_are_those_that_were_measured(site):
    rows = table_rows((site.path / "deployment.html").read_text())
    results = measured("sizes")["results"]
    for kind in results[0]["bytes"]:
        assert [kind, *(f"{result['bytes'][kind]:,}" for result in results)] in rows


def test_programs_are_those_that_were_measured(site):
    page = unescape((site.path / "deployment.html").read_text())
    off = {}
    for result in measured("inference")["results"]:
        part = page.partition(f"<summary>{result['network']}</summary>")[2].partition("</details>")[0]
        head, *rows = table_rows(part)
        columns = {name: {row[0]: cell for row, cell in zip(rows, cells, strict=True) if cell}
                   for name, *cells in zip(head, *rows, strict=True)}  # fmt: skip
        percent = re.search(r"(\d+)%", result["weights"])[1]
        for table in result["tables"]:
            assert f"<code>{table['environment']['command']}</code>" in part
            threads = {1: "1 thread", 2: "2 threads"}[table["threads"]]
            shown = columns[f"{percent} %, batch {table['batch']}, {threads}"]
            (verdict,) = table["verdict"]
            gain = re.search(r"is (\S+ x) as fast as the fastest dense program, (.+) \(", verdict)
            assert shown.pop("ours against the fastest dense") == " ".join(gain.groups())
            assert shown == {each["name"]: f"{each['milliseconds']:,.2f}" for each in table["timings"]}
            for each in table["timings"]:
                off.setdefault((result["network"], each["name"]), []).append(each["difference"])
    for (network, name), differences in off.items():
        part = page.partition(f"<summary>{network}</summary>")[2].partition("</details>")[0]
        (row,) = [row for row in table_rows(part) if row[0] == name]
        assert row[-1] == f"{max(differences):.1e}"


def test_rows_of_the_theorem_are_those_that_were_measured(site):
    rows = table_rows((site.path / "evidence.html").read_text())
    content = measured("theorem")
    for name, found in content.items():
        for rate in (0.1, 0.003):  # the greatest and the least
            for row in (row for row in found["rows"] if row["rate"] == rate and row["time"] in (30, 300)):
                keys = ("overlap", "overlap_plain", "signs", "distance", "distance_plain", "correlation")
                cells = [f"{row[key]:.2f}" for key in keys]
                assert [name.replace("-", " "), f"{rate:g}", f"{row['time']:g}", *cells] in rows
    kept = (ROOT / "benchmarks" / "results" / "theorem.md").read_text().splitlines()
    whole = [[cell.strip() for cell in line.split("|")[1:-1]] for line in kept if line.startswith("| 0")]
    assert len(whole) == sum(len(found["rows"]) for found in content.values())
    assert all(row in rows for row in whole)


def test_what_was_tried_is_in_the_table_as_it_was_measured(site):
    """Mean at each sparsity, and the difference to the hard threshold, whose interval SciPy gives."""
    cells = table_rows(unescape((site.path / "frontier.html").read_text()))
    rows = {row[0]: row[1:] for row in reversed(cells) if len(row) == 4}  # the first table is the one
    variants = {variant["name"]: variant for variant in measured("frontier")["variants"]}
    hard = variants["hard"]["accuracy"]
    for name, variant in variants.items():
        expected = []
        for target, found in variant["accuracy"].items():
            mean = f"{100 * found['mean']:.2f}"
            if name != "hard":
                pair = found["seeds"], hard[target]["seeds"]
                low, high = (100 * end for end in ttest_rel(*pair).confidence_interval())
                mean += f", {100 * np.mean(np.subtract(*pair)):+.2f} ({low:+.2f} to {high:+.2f})"
            expected.append(mean)
        assert rows[variant["change"]] == expected
        assert len(expected) == 3


def test_every_result_is_there_as_it_was_measured(site):
    html = (site.path / "results.html").read_text()
    for path in (ROOT / "benchmarks" / "results").glob("*.json"):
        assert (site.path / "results" / path.name).read_bytes() == path.read_bytes()
        assert f'href="results/{path.name}"' in html
    commands = json.loads((ROOT / "benchmarks" / "results" / "step.json").read_text())["environment"]
    assert f"<code>{commands['command']}</code>" in html


def test_docstrings_become_markdown():
    to_markdown = runpy.run_path(str(ROOT / "docs" / "docstrings.py"))["to_markdown"]

    class Scope:
        def resolve(self, name):
            return f"package.{name}"

    text = """One line.

.. math::
    a = b,
    c = d

.. math:: e = f

With :math:`x_n`, :class:`Thing` and :func:`~Thing.act`.

Example:
    >>> 1
"""
    assert (
        to_markdown(text, Scope())
        == """One line.

```math
a = b,
c = d
```

```math
e = f
```

With `#!math x_n`, <autoref identifier="package.Thing" optional>`Thing`</autoref> and \
<autoref identifier="package.Thing.act" optional>`act`</autoref>.

Examples:
    >>> 1
"""
    )
