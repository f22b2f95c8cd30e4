"""The command line: `dirprune COMMAND`. Each command is a thin file; errors become one line here."""

import errno
import importlib
import io
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from dirprune import __version__
from dirprune.cli.flags import as_flags
from dirprune.errors import DirpruneError, UsageError, from_extra, out_of_memory, unknown

COMMANDS: dict[str, tuple[str, str]] = {
    "train": ("train RECIPE", "train a dense network and its sparse twin, end with a table and a report"),
    "tune": ("tune RECIPE", "choose c from short runs: by accuracy, or for a sparsity"),
    "compare": ("compare RECIPE", "compare pruning methods on equal terms, tuned on held-back images"),
    "landscape": ("landscape TOPIC", "ask whether the sparse network lies in the valley of its dense twin"),
    "export": ("export RUN --to KIND", "write a finished network as a sparse, slim, dense, ONNX or hub file"),
    "inspect": ("inspect FILE|RUN", "layers, shapes, sparsity and bytes of a sparse file"),
    "report": ("report FOLDER", "make the report of a folder of runs again"),
    "bench": ("bench WHAT", "measure on this machine: an optimiser's step, training, inference"),
}

_FORMATWARNING = warnings.formatwarning
_GOES_ON = ("train", "tune", "compare", "landscape")
_NO_MEMORY = {  # by the options that each command has
    "train": "lower --batch-size, --width or --jobs, or raise --accumulation",
    "tune": "lower --batch-size, --width or --jobs",
    "compare": "lower --batch-size, --width or --jobs",
    "landscape": "lower --batch or --images",
    "bench": "measure a smaller network or batch",
    **dict.fromkeys(("export", "inspect", "report"), "end other programs, or use a machine that has more"),
}


def _usage() -> str:
    """Return the help of the whole program."""
    lines = "".join(f"  dirprune {form:24} {what}\n" for form, what in COMMANDS.values())
    return (
        f"usage: dirprune COMMAND ...\n\n{lines}\n"
        "  To begin: dirprune train digits, embedded data, about a minute\n\n"
        "  dirprune COMMAND --help  the options of a command\n"
        "  dirprune --version       the version\n"
        "  --debug                  with any command: show where an error was raised\n"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: Without the program's name; ``sys.argv`` by default.

    Returns:
        Exit code: 0 done, 1 failed, 2 the request cannot be met as it stands, 130 interrupted.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a path may not fit the terminal's encoding
    debug = "--debug" in given
    given = [argument for argument in given if argument != "--debug"]
    command = given[0] if given else ""
    try:
        if not debug:
            warnings.formatwarning = _one_line
        return _dispatch(given)
    except (DirpruneError, OSError, KeyboardInterrupt) as error:
        if debug:
            traceback.print_exc()
        line, code = _explain(error, command)
    except Exception as error:
        if debug:
            traceback.print_exc()
        place = "run again with --debug for the place"
        line = out_of_memory(error, _NO_MEMORY.get(command)) or (
            f"internal error, {type(error).__name__}: {error} ({place})"
        )
        code = 1
    finally:
        warnings.formatwarning = _FORMATWARNING
    print(f"dirprune: {' '.join(as_flags(line).split())}", file=sys.stderr)
    return code


def _one_line(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """Return a warning of our own as a note, without the place in the source; any other as it is usual."""
    if Path(__file__).parents[1] in Path(filename).parents:
        return f"dirprune: note: {' '.join(as_flags(str(message)).split())}\n"
    return _FORMATWARNING(message, category, filename, lineno, line)


def _dispatch(given: list[str]) -> int:
    """Call the command that is asked for; commands are imported only when they run."""
    if not given or given[0] in ("-h", "--help"):
        print(_usage(), end="")
        return 0 if given else 2
    name, rest = given[0], given[1:]
    if name == "--version":
        print(f"dirprune {__version__}")
        return 0
    return _command(name)(rest)


def _command(name: str) -> Callable[[list[str]], int]:
    """Import a command: the function of the same name in the file of the same name."""
    if name not in COMMANDS:
        raise UsageError(unknown("command", name, COMMANDS))
    with from_extra("all", f"dirprune {name}"):
        module = importlib.import_module(f"dirprune.cli.{name}")
    function: Callable[[list[str]], int] = getattr(module, name)
    return function


def _explain(error: BaseException, command: str) -> tuple[str, int]:
    """Return one line for a person, and the exit code."""
    goes_on = command in _GOES_ON
    if isinstance(error, KeyboardInterrupt):
        return "stopped" + "; what was saved stays, and the same command goes on from there" * goes_on, 130
    if isinstance(error, OSError) and not isinstance(error, DirpruneError):  # those say what to do
        what = f"{error.strerror or error}: {error.filename}" if error.filename else str(error)
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            then = (
                "the same command goes on from what was saved" if goes_on else "give the same command again"
            )
            return f"no space left ({what}): free some, then {then}", 1
        folders = (errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.EEXIST)
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, *folders):
            return f"{what}: choose a folder that you may read and write", 2
        return what, 1
    return str(error), 2 if isinstance(error, UsageError) else 1
