"""Where a result was made: what to write beside every number."""

import datetime
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import dirprune

_RECORDED = ("accelerate", "datasets", "numpy", "safetensors", "torch")


def describe_environment(command: str, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Describe the machine, the versions and the moment.

    Args:
        command: The command line that makes the result.
        device: Where the computation runs.

    Returns:
        What JSON can hold: date (UTC, ISO 8601), command, versions, platform, cpu, cores, threads, device.

    Example:
        >>> describe_environment("dirprune train digits")["command"]
        'dirprune train digits'
    """
    device = torch.device(device)
    installed = {name: _version(name) for name in _RECORDED}
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": command,
        "versions": {"dirprune": dirprune.__version__, "python": platform.python_version(), **installed},
        "platform": platform.platform(),
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
    }


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _cpu_name() -> str:
    """Name of the processor; Linux does not tell it through the platform module."""
    described = Path("/proc/cpuinfo")
    if described.is_file():
        for line in described.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
