"""What the benchmarks share: a result is a JSON file that tells where it was made."""

import json
import shlex
import sys
from pathlib import Path
from typing import Any

from dirprune.core.atomic import atomic_write
from dirprune.train.environment import describe_environment

RESULTS = Path(__file__).parent / "results"


def record(path: Path, content: dict[str, Any]) -> None:
    """Write a result beside its environment and the command that made it."""
    command = shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        content = {"environment": describe_environment(command), **content}
        file.write(json.dumps(content, indent=1).encode() + b"\n")
    print(f"written: {path}")
