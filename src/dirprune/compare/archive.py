"""Finished runs in one small file, from which another machine goes on."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dirprune.core.atomic import write_json_lines
from dirprune.errors import RunFolderError
from dirprune.runs import RunFolder

_FORMAT = 1
_OF_A_MOMENT = ("date", "command", "resumed")
Json = Mapping[str, Any]


def save_runs(
    folder: str | os.PathLike[str], file: str | os.PathLike[str], experiment: str | None = None
) -> int:
    """Write what is known of every run that is over, except its weights.

    A line of JSON for each, by the run's path, after one that holds what they share: the settings that all
    have in common, and the environments they were trained in, without command lines, which name folders.

    Args:
        folder: Holds the runs, at any depth.
        file: Is replaced.
        experiment: A name of what they belong to, to be kept with them.

    Returns:
        The number of runs.

    Raises:
        RunFolderError: A run's file is damaged.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as path:
        ...     save_runs(path, f"{path}/runs.jsonl")
        0
    """
    folder = Path(folder)
    runs = {str(path.parent.relative_to(folder)): RunFolder(path.parent) for path in _results(folder)}
    configs = {name: run.config() for name, run in runs.items()}
    shared = dict.fromkeys(next(iter(configs.values()), {}))
    for key in list(shared):
        values = [config.get(key) for config in configs.values()]
        shared[key] = values[0]
        if any(key not in config for config in configs.values()) or values.count(values[0]) < len(values):
            del shared[key]
    environments: list[Json] = []
    lines: list[Json] = []
    for name in sorted(runs):
        run = runs[name]
        held = run.environment() if (run.path / "environment.json").is_file() else {}
        environment = {key: value for key, value in held.items() if key not in _OF_A_MOMENT}
        if environment not in environments:
            environments.append(environment)
        own = {key: value for key, value in configs[name].items() if key not in shared}
        lines.append(
            {
                "run": name,
                "config": own,
                "environment": environments.index(environment),
                "date": held.get("date"),
                "result": run.result(),
                "metrics": _columns(run.metrics()),
            }
        )
    head = {"format": _FORMAT, "config": shared, "environments": environments}
    if experiment is not None:
        head["experiment"] = experiment
    write_json_lines(file, [head, *lines])
    return len(lines)


def restore_runs(
    file: str | os.PathLike[str], folder: str | os.PathLike[str], experiment: str | None = None
) -> int:
    """Make the small files of saved runs again: settings, environment, metrics and result.

    Args:
        file: From :func:`save_runs`.
        folder: Where the runs are to be; a run that is there already is left alone.
        experiment: What the runs must belong to, where the file tells that; None: any.

    Returns:
        The number of runs that were made.

    Raises:
        RunFolderError: The file is not of this format, of another experiment, or damaged.
    """
    file, folder, made = Path(file), Path(folder), 0
    try:
        head, *lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        if head["format"] != _FORMAT:
            raise RunFolderError(f"{file} has format {head['format']!r}; this version reads {_FORMAT}")
        if experiment not in (None, kept := head.get("experiment", experiment)):
            raise RunFolderError(f"{file} keeps the runs of {kept}, not of {experiment}: name another file")
        for line in lines:
            path = folder / line["run"]
            if not path.resolve().is_relative_to(folder.resolve()):
                raise RunFolderError(f"{file} names a run outside its folder: {line['run']!r:.80}")
            run = RunFolder(path)
            if (path / "config.json").is_file():
                continue
            path.mkdir(parents=True, exist_ok=True)
            run.write_environment({"date": line["date"], **head["environments"][line["environment"]]})
            run.write_metrics(_records(line["metrics"]))
            run.write_result(line["result"])
            run.write_config({**head["config"], **line["config"]})  # last: without it there is no run
            made += 1
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise RunFolderError(
            f"{file} cannot be read ({type(error).__name__}: {error}): restore it, or delete it to start anew"
        ) from None
    return made


def _results(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("result.json") if (path.parent / "config.json").is_file()]


def _columns(records: Sequence[Json]) -> dict[str, list[Any]]:
    """Turn records with the same keys into columns: half the size."""
    return {key: [record[key] for record in records] for key in (records[0] if records else {})}


def _records(columns: Mapping[str, Sequence[Any]]) -> list[Json]:
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
