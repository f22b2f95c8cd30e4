"""report.html in a browser, from file://: whole, quiet, readable by day and night, and on a phone."""

from dirprune.cli import main
from dirprune.report import write_report
from tests.browser.inspection import findings
from tests.report.conftest import DIVERGED

COMPARE = ["compare", "digits", "--methods", "sgd", "grda", "random", "--sparsities", "0.7"]
SHORT = [
    "--trials",
    "1",
    "--seeds",
    "2",
    "--epochs",
    "1",
    "--batch-size",
    "256",
    "--threads",
    "1",
    "--jobs",
    "1",
]


def test_a_report_with_evidence(browser, landscape_folder):
    assert findings(browser, write_report(landscape_folder)) == {}
    assert len(browser.driver.find_elements("css selector", "figure")) == 15


def test_a_report_of_many_runs_with_long_names_and_mishaps(browser, experiment):
    recipe = {"recipe": "wrn28x10-cifar100-of-somebody-who-likes-long-names", "model": "wrn28x10"}
    layer = {"shape": [640, 640, 3, 3], "zeros": 10**6}
    layers = [{"name": f"blocks.{i}.convolution.weight", **layer} for i in range(44)]
    for seed in range(3):
        shared = {"layers": layers, "initial_weights": f"w{seed}"}
        experiment.add(f"sgd-{seed}", recipe | {"seed": seed}, shared)
        for mu in (0.4, 0.501, 0.55, 0.6, 0.65, 0.7):
            changed = {"method": "grda", "seed": seed, "mu": mu, "c": 0.0005}
            result = {**shared, "sparsity": mu, "sparse_bytes": 10**7}
            experiment.add(f"grda-c0.0005-mu{mu}-schedule-epochs400-seed{seed}", recipe | changed, result)
    experiment.add("diverged", recipe | {"method": "grda", "mu": 0.9}, DIVERGED)
    experiment.add("unfinished", recipe | {"method": "grda", "mu": 0.8, "epochs": 40})
    assert findings(browser, write_report(experiment.path)) == {}


def test_a_report_of_a_comparison(browser, tmp_path, capsys):
    assert main([*COMPARE, *SHORT, "--jobs", "1", "--out", str(tmp_path)]) == 0, capsys.readouterr().err
    (report,) = tmp_path.glob("*/report.html")
    assert findings(browser, report) == {}


def test_a_page_with_every_fault_is_found_out(browser, tmp_path):
    page = tmp_path / "bad.html"
    page.write_text(
        "<!DOCTYPE html><meta name=viewport content='width=device-width'><title>bad</title>"
        "<script src='http://127.0.0.1:9/none.js'></script><script>missing()</script>"
        "<p style='color:#aaa'>faint</p><p style='width:500px;background:#eee;color:black'>wide</p>"
        "<img src=none.png><figure><svg width=300 height=200><path d='M0 0h300' stroke='#eee'/>"
        "<text y=9 font-size=6>small</text></svg></figure>"
        + "<p style='background:white;color:black'>and so on</p>"
        * 10
    )
    found = findings(browser, page)
    assert [words for _, _, words in found["faint by day"]] == ["faint", "small"]
    assert found["wider than a phone, by day"][0] > 0
    assert "none.png" in found["figures that cannot be seen"][0]
    assert "M0 0h300" in found["figures that cannot be read by day"][0]
    assert found["tiny on a phone"] == [[6, "small"]]
    assert [words for _, _, words in found["faint by night"]] == ["faint", "small"]
    assert any("missing is not defined" in said for said in found["console"])
    assert found["requests to elsewhere"] == ["http://127.0.0.1:9/none.js"]
