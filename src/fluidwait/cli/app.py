"""Every command of ``fluidwait`` by its name."""

from __future__ import annotations

from collections.abc import Callable

import typer

from fluidwait.cli.calibrate import app as calibrate
from fluidwait.cli.check import schemas, verify
from fluidwait.cli.claims import claims
from fluidwait.cli.exits import PROGRAM
from fluidwait.cli.policies import policies
from fluidwait.cli.real import app as real
from fluidwait.cli.simulate import compile_policies, simulate
from fluidwait.cli.steps import make, steps
from fluidwait.cli.table import table
from fluidwait.cli.thresholds import thresholds

app = typer.Typer(
    name=PROGRAM,
    help="Fluid-guided scheduling of LLM inference: thresholds, calibration, simulation, provenance.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
GROUPS = {"calibrate": calibrate, "real": real}
COMMANDS: dict[str, Callable[..., None]] = {
    "make": make,
    "steps": steps,
    "claims": claims,
    "thresholds": thresholds,
    "table": table,
    "simulate": simulate,
    "compile": compile_policies,
    "verify": verify,
    "schemas": schemas,
    "policies": policies,
}
for name, group in GROUPS.items():
    app.add_typer(group, name=name)
for name, command in COMMANDS.items():
    app.command(name)(command)
