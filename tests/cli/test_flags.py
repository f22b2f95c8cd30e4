"""The library names settings as in Python, the command line by its flags."""

import re
from dataclasses import fields

import pytest

from dirprune.cli import main
from dirprune.cli.flags import as_flags, take
from dirprune.train import TrainConfig


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
