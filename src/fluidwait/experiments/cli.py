"""Commands of the workflow's rules, one a rule: ``fluidwait experiment ...``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Steps of the workflow, one a rule.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="EXPERIMENT", help="name in config/experiments, or a YAML file")]
Names = Annotated[list[str], typer.Argument(metavar="EXPERIMENT...", help="names in config/experiments")]
PolicyKey = Annotated[str, typer.Argument(metavar="POLICY", help="key under policies in the experiment")]
ScaleName = Annotated[str, typer.Option("--scale", help="key under scales in the experiment")]
Out = Annotated[Path, typer.Option("--out", help="file to write")]
Tunings = Annotated[list[Path] | None, typer.Option("--tuning", help="table of the grid search of a policy")]
Tables = Annotated[list[Path], typer.Argument(metavar="METRICS...", help="metrics tables, named after their policies")]


def _load(name: str):
    from fluidwait.experiments.experiment import load_experiment

    return load_experiment(name)


def _by_policy(tables: list[Path]) -> dict[str, Path]:
    return {table.stem: table for table in tables}


@app.command()
def thresholds(
    names: Names,
    scale: ScaleName,
    results: Annotated[Path, typer.Option("--results", help="folder with one below it for each experiment")],
) -> None:
    """Fluid equilibrium and thresholds of several experiments at every rate, as CSV and JSON."""
    from fluidwait.experiments.fluid_tables import thresholds as run

    for name in names:
        run(_load(name), scale, results / name / "thresholds.csv")


@app.command()
def sweep(
    name: Name,
    policy: PolicyKey,
    scale: ScaleName,
    out: Out,
    metrics: Annotated[Path, typer.Option("--metrics", help="table of the metrics per run, to write")],
    boundary: Annotated[Path, typer.Option("--boundary", help="table of the stability boundary, to write")],
    tuning: Annotated[Path | None, typer.Option("--tuning", help="table of the grid search, to write first")] = None,
) -> None:
    """Simulate a policy at every rate, tuned first if it has a grid; measure every run; search its boundary."""
    from fluidwait.experiments import bisection, check, setting, summary
    from fluidwait.experiments import sweep as steps

    experiment = _load(name)
    check.check_policy(setting.resolve(experiment), policy, scale)
    if tuning is not None:
        steps.tune(experiment, policy, scale, tuning)
    steps.sweep(experiment, policy, scale, out, tuning)
    summary.metrics(experiment, out, metrics)
    bisection.boundary(experiment, policy, scale, boundary, tuning)


@app.command()
def audit(
    name: Name,
    scale: ScaleName,
    out: Out,
    tuning: Tunings = None,
) -> None:
    """Repeat a sample of the runs of every policy in real Vidur."""
    from fluidwait.experiments.audit import audit as run

    run(_load(name), scale, out, _by_policy(tuning or []))


@app.command()
def trace(
    name: Name,
    scale: ScaleName,
    out: Annotated[Path, typer.Option("--out", help="folder to write to, a table for each policy")],
    tuning: Tunings = None,
) -> None:
    """Record the memory of all policies asked for against time."""
    from fluidwait.experiments.trace import trace as run

    experiment, chosen = _load(name), _by_policy(tuning or [])
    for policy in experiment.traced():
        run(experiment, policy, scale, out / f"{policy}.csv", chosen.get(policy))


@app.command()
def summary(
    name: Name,
    tables: Tables,
    out: Out,
    stability: Annotated[Path, typer.Option("--stability", help="table of the stability boundaries, to write")],
    boundary: Annotated[list[Path], typer.Option("--boundary", help="searched boundaries of a policy")],
) -> None:
    """Means and confidence intervals over the replications; stability boundaries, measured and predicted."""
    from fluidwait.experiments.boundaries import stability as bound
    from fluidwait.experiments.summary import summary as run

    experiment = _load(name)
    run(experiment, _by_policy(tables), out)
    bound(experiment, _by_policy(tables), stability, _by_policy(boundary))


@app.command()
def parameters(
    names: Names,
    scale: ScaleName,
    out: Out,
) -> None:
    """Every setting of several experiments in one table."""
    from fluidwait.experiments.parameters import parameters as run

    run([_load(name) for name in names], scale, out)


@app.command()
def boundaries(
    tables: Annotated[list[Path], typer.Argument(metavar="STABILITY...", help=".../EXPERIMENT/stability.csv")],
    out: Out,
) -> None:
    """Stability boundaries of several experiments beside the fluid bounds of their workloads."""
    from fluidwait.experiments.boundaries import boundaries as run

    run([(_load(table.parent.name), table) for table in tables], out)


@app.command("boundaries-figure")
def boundaries_figure(
    table: Annotated[Path, typer.Argument(metavar="BOUNDARIES", help="what the command boundaries made")],
    scale: ScaleName,
    out: Annotated[list[Path], typer.Option("--out", help="files to write, one per format")],
) -> None:
    """Draw the stability boundaries of all experiments in every format asked for."""
    from fluidwait.experiments.draw import draw_boundaries as run

    run(table, scale, out)


@app.command()
def reference(name: Name, scale: ScaleName, out: Out) -> None:
    """E1 beside the published latencies."""
    from fluidwait.experiments.reference import reference as run

    run(_load(name), scale, out)


@app.command()
def figures(
    name: Name,
    scale: ScaleName,
    results: Annotated[Path, typer.Option("--results", help="folder of the experiment's tables")],
    out: Annotated[Path, typer.Option("--out", help="folder to write to")],
) -> None:
    """Draw all figures of an experiment, as PNG, PDF and SVG, with their captions as text."""
    from fluidwait.experiments.draw import draw_all

    draw_all(_load(name), scale, results, out)
