"""What the benchmarks share: a JSON file tells where it was made, and names nobody's folders."""

import json
import shlex
import sys
from pathlib import Path
from typing import Any

from dirprune.core.atomic import atomic_write
from dirprune.train.environment import describe_environment

RESULTS = Path(__file__).parent / "results"
# What was measured of the recipes lies beside them, for the page that shows it.
RECIPE_RESULTS = Path(__file__).parents[1] / "src" / "dirprune" / "recipes" / "results"
FIRST_STEPS = RECIPE_RESULTS / "first-steps.json"
# What stands for the folders of the machine that a result was made on.
_PLACES = {"--data-dir": "DATA", "--out": "runs"}


def public_command(command: str) -> str:
    """Return a command without the folders of the machine that it was given on.

    Example:
        >>> public_command("dirprune train digits --out /home/me/runs --data-dir=/data --mu 0.6")
        'dirprune train digits --out runs --data-dir=DATA --mu 0.6'
    """
    words, hidden = shlex.split(command), []
    for before, word in zip(["", *words], words, strict=False):
        option, equals, _ = word.partition("=")
        if before in _PLACES:
            word = _PLACES[before]
        elif equals and option in _PLACES:
            word = f"{option}={_PLACES[option]}"
        elif Path(word).is_absolute():
            word = Path(word).name
        hidden.append(word)
    return shlex.join(hidden)


def public_environment(environment: dict[str, Any]) -> dict[str, Any]:
    """Return a run's environment with the commands of its start and its resumes made public."""
    public = {**environment, "command": public_command(environment["command"])}
    if "resumed" in environment:
        public["resumed"] = [public_environment(each) for each in environment["resumed"]]
    return public


def own_command() -> str:
    """Return the command line of this script."""
    return shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])


def record(path: Path, content: dict[str, Any], device: str = "cpu") -> None:
    """Write a result beside its environment and the command that made it."""
    write(path, {"environment": describe_environment(public_command(own_command()), device), **content})


def write(path: Path, content: dict[str, Any], indent: int | None = 1) -> None:
    """Write JSON, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    separators = None if indent else (",", ":")
    with atomic_write(path) as file:
        file.write(json.dumps(content, indent=indent, separators=separators).encode() + b"\n")
    print(f"written: {path}")
