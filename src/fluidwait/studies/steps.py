"""The steps of a study."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from fluidwait.artifacts.step import Rule, Step, results_rule
from fluidwait.drawing.products import figure_products, figure_rule
from fluidwait.studies import clock, clock_audit, e6, frontier, frontier_tables, gaps, overflow, scaling, toy
from fluidwait.studies.e6 import E6
from fluidwait.studies.e10 import E10
from fluidwait.studies.e11 import E11, GAP_TABLES
from fluidwait.studies.e12 import E12
from fluidwait.studies.figures import FIGURES
from fluidwait.studies.study import Study

MEMORY = results_rule("study_memory", "results/{scale}/{study}/memory.csv", "results/{scale}/{study}/answers.csv")
"""The memory terms of Nested WAIT, and what they say under other choices."""

RUNS = Rule("study_runs", ("results/{scale}/{study}/runs/{part}.csv",))
"""All runs of one part of the scaling table, or of one load."""

SCALING = results_rule("study_scaling", "results/{scale}/{study}/scaling.csv", "results/{scale}/{study}/exponents.csv")
"""Means against the horizon, and the fitted exponents."""

GAPS = results_rule("study_gaps", "results/{scale}/{study}/{table}.csv")
"""Throughput gaps of the policies at C = M*."""

LATENCY = results_rule("study_latency", "results/{scale}/{study}/latency.csv")
"""E10: means over the replications, and changes against vLLM's own scheduler."""

AUDIT = results_rule("study_audit", "results/{scale}/{study}/vllm_audit.csv")
"""E10: a sample of the runs repeated in vLLM's real scheduler; it fails if any request differs."""

STATICS = Rule("study_statics", ("results/{scale}/{study}/statics/{part}.csv",))
"""E12: the static policies on one load."""

FRONTIER = results_rule(
    "study_frontier", *(f"results/{{scale}}/{{study}}/{table}.csv" for table in ("frontier", "latency", "envelope"))
)
"""E12: what each policy carries, latencies beside the best static policies, and these."""

TABLE = results_rule("study_table", "results/{scale}/{study}/{table}.csv")
"""The toy example, or how often Nested WAIT exceeds its memory bound."""

FIGURE = figure_rule("study_figure", {"figures/{scale}/{study_figure}": "{study_figure}"}, "study", "studies")


def study_steps(name: str, study: Study, scale: str) -> list[Step]:
    """The steps of the study in ``config/studies/<name>.yaml``, each before those that need it."""
    study.scale(scale)
    tables = _e11(name, study, scale) if isinstance(study, E11) else []
    tables += _e6(name, study, scale) if isinstance(study, E6) else []
    tables += _e10(name, study, scale) if isinstance(study, E10) else []
    tables += _e12(name, study.at(scale), scale) if isinstance(study, E12) else []
    return tables + [_figure(name, study, figure, scale) for figure in FIGURES[study.id]]


def _e6(name: str, study: E6, scale: str) -> list[Step]:
    products = (e6.memory(study, scale), e6.answers(study, scale))
    return [Step(MEMORY, (name,), {"scale": scale, "study": name}, products, check=lambda: e6.check(study))]


def _e11(name: str, study: E11, scale: str) -> list[Step]:
    at = {"scale": scale, "study": name}
    runs = [
        Step(RUNS, (name, part), at | {"part": part}, (scaling.runs(study, part, scale),)) for part in study.scaling
    ]
    files = tuple(file for step in runs for file in step.outputs)
    means = Step(SCALING, (name,), at, (scaling.scaling(study, files, scale), scaling.exponents(study, files, scale)))
    of_gaps = [
        Step(GAPS, (name, table), at | {"table": table}, (gaps.gaps(study, table, scale),)) for table in GAP_TABLES
    ]
    others = {"toy": toy.toy(study), "overflow": overflow.overflow(study, scale)}
    tables = [Step(TABLE, (name, table), at | {"table": table}, (product,)) for table, product in others.items()]
    return [*runs, means, *of_gaps, *tables]


def _e10(name: str, study: E10, scale: str) -> list[Step]:
    at = {"scale": scale, "study": name}
    runs = [Step(RUNS, (name, load), at | {"part": load}, (clock.runs(study, load, scale),)) for load in study.loads]
    files = tuple(file for step in runs for file in step.outputs)
    found = [*runs, Step(LATENCY, (name,), at, (clock.latency(study, files, scale),))]
    if find_spec("vllm"):
        found.append(Step(AUDIT, (name,), at, (clock_audit.audit(study, scale),)))
    return found


def _e12(name: str, study: E12, scale: str) -> list[Step]:
    at, runs, statics = {"scale": scale, "study": name}, [], []
    for load in study.loads:
        part = at | {"part": load}
        runs.append(Step(RUNS, (name, load), part, (frontier.runs(study, load, scale),)))
        statics.append(Step(STATICS, (name, load), part, (frontier.statics(study, load, scale),)))
    of_runs, of_statics = (tuple(file for step in steps for file in step.outputs) for steps in (runs, statics))
    tables = (
        frontier_tables.frontier(study, of_runs, of_statics, scale),
        frontier_tables.latency(study, of_runs, of_statics, scale),
        frontier_tables.envelope(study, of_statics, scale),
    )
    return [*runs, *statics, Step(FRONTIER, (name,), at, tables)]


def _figure(name: str, study: Study, figure: str, scale: str) -> Step:
    module, folder = FIGURES[study.id][figure], f"results/{scale}/{name}"
    products = figure_products(
        lambda: module.make(Path(folder), scale),
        lambda: module.caption(Path(folder), scale),
        identity={"figure": figure, "study": study.id, "scale": scale},
        inputs=tuple(f"{folder}/{table}" for table in module.INPUTS),
        code=module.__name__,
        rule="study_figure",
    )
    return Step(FIGURE, (name, figure), {"scale": scale, "study_figure": figure}, products)
