"""The machine that measures, in words and in a short name fit for a folder; never its host name."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

from fluidwait.base.errors import ConfigError


def describe_machine(device: str) -> dict[str, Any]:
    """``name``, ``short`` and, for a GPU, ``driver`` and ``memory``.

    Raises:
        ConfigError: a GPU was asked for and there is none.
    """
    processor = _processor()
    cores = len(os.sched_getaffinity(0))
    host = {"processor": processor, "cores": cores, "memory_gib": _memory_gib(), "system": platform.system()}
    if device == "cpu":
        name = f"{processor}, {cores} cores"
        return {"name": name, "short": _short(name), **host}
    gpu = _gpu()
    return {"name": gpu["name"], "short": _short(gpu["name"]), "driver": gpu["driver"], "memory": gpu["memory"], **host}


def _gpu() -> dict[str, str]:
    """The first GPU, asked of the driver so that no CUDA context is made in this process."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, check=True, timeout=30)
        name, driver, memory = (part.strip() for part in done.stdout.splitlines()[0].split(","))
    except (OSError, subprocess.SubprocessError, IndexError, ValueError):
        raise ConfigError("no NVIDIA GPU here; the target 'cpu' runs everywhere") from None
    return {"name": name, "driver": driver, "memory": memory}


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _memory_gib() -> float:
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)


def _short(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
