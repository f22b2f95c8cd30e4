"""The library names settings as in Python, the command line by its flags."""

import re
from dataclasses import fields

import pytest

from dirprune.cli import main
from dirprune.cli.flags import as_flags, take
from dirprune.runs import find_runs
from dirprune.train import TrainConfig

SHORT = ["train", "digits", "--seeds", "1", "--epochs", "1", "--threads", "1", "--jobs", "1"]


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_setting_in_backquotes_becomes_its_flag():
    take(["batch_size", "lr", "jobs", "out", "target_sparsity"])
    assert as_flags("`batch_size` must be >= 1: lower `lr`") == "--batch-size must be >= 1: lower --lr"
    assert as_flags("`at_once`, `folder`, `target`") == "--jobs, --out, --target-sparsity"


@pytest.mark.parametrize("text", ["`lr`", "batch_size", "`dirprune tune`", "`torch.compile`", "``batch`` `"])
def test_anything_else_is_left_as_it_is(text):
    take(["batch_size"])
    assert as_flags(text) == text


def test_the_settings_that_are_flags_are_those_in_the_help(capsys):
    with pytest.raises(SystemExit):
        main(["train", "digits", "--help"])
    offered = set(re.findall(r"--[\w-]+", capsys.readouterr().out))
    for name in (field.name for field in fields(TrainConfig)):
        flag = f"--{name.replace('_', '-')}"
        assert as_flags(f"`{name}`") == (flag if flag in offered else f"`{name}`")
    assert as_flags("`method` `methods` `checkpoint_every`") == "`method` --methods --checkpoint-every"


def test_advice_during_training_is_kept_as_in_python_and_printed_in_flags(tmp_path, capsys):
    assert main([*SHORT, "--methods", "grda", "--c", "1"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "the threshold has outgrown the weights; lower --mu, or --c, or" in said
    assert re.search(r"`\w+`", said) is None
    (run,) = find_runs(next((tmp_path / "runs").iterdir()))
    assert any("lower `mu`, or `c`, or" in warning["message"] for warning in run.warnings())

    assert main(["report", str(run.path.parent)]) == 0  # the advice is for the command that trains
    said = " ".join(capsys.readouterr().out.split())
    assert "lower --c or --mu" in said
    assert re.search(r"`\w+`", said) is None


def test_a_run_that_fails_is_told_in_flags(capsys):
    assert main([*SHORT, "--mean", "0.1", "0.2", "--std", "1", "1"]) == 2
    out, error = capsys.readouterr()
    assert "failed: --mean must have 1 value" in out
    assert error.startswith("dirprune: --mean must have 1 value")
