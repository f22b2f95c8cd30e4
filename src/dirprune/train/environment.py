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


def current_device() -> torch.device:
    """Return the accelerator that torch uses by default, or the CPU where there is none."""
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return found or torch.device("cpu")


def bf16_hardware(device: torch.device) -> str | None:
    """Return what computes in bfloat16 on a device, or None if it only imitates it.

    Args:
        device: A CPU or CUDA device; of others nothing is known.

    Example:
        >>> bf16_hardware(torch.device("cpu")) in ("amx_bf16", "avx512_bf16", "bf16", None)
        True
    """
    if device.type == "cuda":
        return "cuda" if torch.cuda.is_bf16_supported(including_emulation=False) else None
    if device.type != "cpu":
        return None
    flags = f"{_cpu_field('flags')} {_cpu_field('Features')}".split()  # as Linux calls them on x86, on ARM
    return next((name for name in ("amx_bf16", "avx512_bf16", "bf16") if name in flags), None)


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _cpu_name() -> str:
    """Name of the processor; Linux does not tell it through the platform module."""
    return _cpu_field("model name") or platform.processor() or platform.machine()


def _cpu_field(name: str) -> str:
    """Return what Linux tells about the first core; nothing elsewhere."""
    described = Path("/proc/cpuinfo")
    lines = described.read_text().splitlines() if described.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")
