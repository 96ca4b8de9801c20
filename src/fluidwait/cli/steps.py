"""``fluidwait make`` and ``fluidwait steps``: the steps of the workflow, one by one."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer

Scale = Annotated[str | None, typer.Option(help="quick, paper, ... (default: as in config/config.yaml)")]
Only = Annotated[str | None, typer.Option(help="experiments, studies and real targets, e.g. e1,e6 (default: all)")]


def make(
    step: Annotated[
        str,
        typer.Argument(
            metavar="STEP", help="a name that `fluidwait steps` lists, sweep/e1/wait, or sweep/e1 for all of these"
        ),
    ],
    scale: Scale = None,
    only: Only = None,
) -> None:
    """Make one step of the workflow; the steps before it must have been made."""
    _with_one_thread()
    found = _plan(scale, only).step(step)
    _check_inputs(found)
    found.make()
    for file in found.outputs:
        print(f"wrote {file}")


def steps(scale: Scale = None, only: Only = None) -> None:
    """List the steps of the workflow: name, and the files that it makes."""
    from fluidwait.cli.printing import print_table

    rows = [(step.name, _files(step.outputs)) for step in _plan(scale, only).wanted_steps()]
    print_table(("step", "files"), rows)


def _check_inputs(step: Any) -> None:
    from fluidwait.base.errors import ConfigError
    from fluidwait.base.paths import project_root

    missing = [file for file in step.inputs if not (project_root() / file).exists()]
    if missing:
        raise ConfigError(
            f"{step.name}: {missing[0]} is not there: make the steps before it first (snakemake {step.outputs[0]} "
            "makes them all)"
        )


def _with_one_thread() -> None:
    """As Snakemake has its jobs: a sum's last digit depends on how many threads share it. NumPy asks when imported."""
    for library in ("OPENBLAS", "OMP", "MKL"):
        os.environ.setdefault(f"{library}_NUM_THREADS", "1")


def _files(outputs: tuple[str, ...]) -> str:
    return outputs[0] if len(outputs) == 1 else f"{outputs[0]} and {len(outputs) - 1} more"


def _plan(scale: str | None, only: str | None) -> Any:
    from fluidwait.base.paths import project_root
    from fluidwait.base.yaml_files import load_yaml
    from fluidwait.pipeline.plan import Plan
    from fluidwait.pipeline.selection import read_selection

    config = load_yaml(project_root() / "config" / "config.yaml")
    given = {"scale": scale, "only": only}
    return Plan(read_selection(config | {key: value for key, value in given.items() if value is not None}))
