"""The documentation is built without a warning, and holds what it is made from elsewhere."""

import importlib
import json
import re
import runpy

import pytest

from dirprune.cli import COMMANDS
from dirprune.cli.bench import BENCHMARKS
from dirprune.cli.landscape import TOPICS
from dirprune.methods import METHODS
from tests.pages.blocks import PAGES, ROOT

OURS = [path.removeprefix("docs/").removesuffix(".md") for path in PAGES if path.startswith("docs/")]
DOCUMENTED = ("dirprune", "dirprune.landscape", "dirprune.methods", "dirprune.train", "dirprune.tune")


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
            assert f'id="{name}.{public}"' in pages, public


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
