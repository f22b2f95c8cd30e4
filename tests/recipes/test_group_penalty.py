"""The runs that slim was measured on: the commands in the script's docstring make them."""

import json
import re
import shlex
from pathlib import Path

import group_penalty
from dirprune.cli.arguments import parse
from dirprune.cli.train import TrainOptions
from dirprune.recipes import get_recipe
from dirprune.train import TrainConfig

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


def test_the_commands_make_the_measured_runs():
    made = {}
    for line in re.findall("dirprune train .+", group_penalty.__doc__.replace("\\\n", "")):
        _, _, name, *words = shlex.split(line)
        options = parse(TrainOptions, words, prog="", default=TrainOptions(experiment=get_recipe(name)))
        for config in options.experiment.runs():
            made[config.experiment_name(get_recipe(name).config), config.run_name] = config
    measured = json.loads((RESULTS / "group_penalty.json").read_text())["networks"]
    assert made == {
        (each["experiment"], each["run"]): TrainConfig.from_json(each["config"]) for each in measured
    }
