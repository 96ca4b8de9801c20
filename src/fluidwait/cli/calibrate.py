"""``fluidwait calibrate ...``: a hardware file from measured times."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fluidwait.base.numbers import number
from fluidwait.cli.printing import print_table, writing

app = typer.Typer(help="Fit a hardware file from measured times.", rich_markup_mode=None)

Template = Annotated[Path, typer.Option(help="hardware file to start from; its profile and residuals are replaced")]
Out = Annotated[Path, typer.Option(help="hardware file to write")]


@app.command("iterations")
def calibrate_iterations(
    csv: Annotated[Path, typer.Argument(help="measured iterations, one per row; see docs/adding-hardware.md")],
    template: Template,
    out: Out,
) -> None:
    """Fit the iteration time from whole iterations, measured on any device."""
    from fluidwait.device import iteration_times

    with writing(out):
        hardware = iteration_times.calibrate_iterations(csv, template, out)
    _print_fit(hardware, out)


@app.command("profile")
def calibrate_profile(
    compute: Annotated[Path, typer.Argument(help="operator times by tokens in the batch, as Vidur profiles them")],
    attention: Annotated[list[Path], typer.Argument(help="attention times by shape; one file or several")],
    template: Template,
    out: Out,
) -> None:
    """Fit the iteration time from operator times: everything but attention, and attention by its shape."""
    from fluidwait.device import operator_times

    with writing(out):
        hardware = operator_times.calibrate_profile(compute, attention, template, out)
    _print_fit(hardware, out)


@app.command("kernels")
def calibrate_kernels(
    folder: Annotated[Path, typer.Argument(help="folder with kernel_dense.csv, kernel_attention.csv and others")],
    template: Template,
    out: Out,
) -> None:
    """Fit the iteration time from single kernels of vLLM, batches that mix prefills and decodes included."""
    from fluidwait.device import kernel_times

    with writing(out):
        hardware = kernel_times.calibrate_kernels(folder, template, out)
    _print_fit(hardware, out)


def _print_fit(hardware: Any, out: Path) -> None:
    rows = [(part, name, value) for part, fit in hardware.fit.items() for name, value in fit.items()]
    rows = [(*names, value if isinstance(value, str) else number(value)) for *names, value in rows]
    print_table(("part", "residual", "value"), rows)
    print(f"\nwrote {out}: {hardware.name}, {hardware.kv_capacity_tokens} KV tokens")
