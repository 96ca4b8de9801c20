"""Projects of a test's own, and what is made in them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from fluidwait.pipeline.plan import Plan
from fluidwait.pipeline.selection import Selection

CHECKOUT = Path(__file__).resolve().parents[1]

# the profile's long timespan is for many jobs, and would let each of these small runs end seconds later
SNAKEMAKE = [sys.executable, "-m", "snakemake", "--cores", "2", "--max-jobs-per-timespan", "100/1s"]


def make_project(folder: Path) -> Path:
    """Everything of the project but its code and results, below ``folder``."""
    for name in ("config", "data", "paper", "workflow"):
        shutil.copytree(CHECKOUT / name, folder / name)
    (folder / "profiles").symlink_to("workflow/profiles")
    for name in ("Snakefile", "environment.yml"):
        shutil.copy(CHECKOUT / name, folder / name)
    return folder


def chosen(
    scale: str, experiments: Sequence[str] = (), studies: Sequence[str] = (), real: Sequence[str] = ()
) -> Selection:
    """These and no variants."""
    return Selection(scale=scale, experiments=list(experiments), studies=list(studies), real=list(real))


def plan_of(scale: str, experiments: Sequence[str] = (), studies: Sequence[str] = (), real: Sequence[str] = ()) -> Plan:
    """The plan of :func:`chosen`."""
    return Plan(chosen(scale, experiments, studies, real))


def environment(project: Path) -> dict[str, str]:
    """Of a process in this project, which finds the commands of the Python that runs the tests."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"FLUIDWAIT_ROOT": str(project), "PATH": path}


def snakemake(project: Path, *arguments: str, timeout: float = 600) -> subprocess.CompletedProcess[str]:
    """Snakemake as a user starts it; ``stdout`` has everything that it says."""
    return subprocess.run(
        [*SNAKEMAKE, *arguments],
        cwd=project,
        env=environment(project),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
        check=False,
    )
