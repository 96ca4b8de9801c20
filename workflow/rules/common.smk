# Helpers of the rules: what an experiment consists of, and the keys that decide when a job runs again.
import atexit
import os
import sys
import time
from pathlib import Path

from fluidwait.pipeline import failures
from fluidwait.report import document
from fluidwait.claims import select as claims
from fluidwait.base.errors import FluidwaitError
from fluidwait.experiments import jobs
from fluidwait.studies import jobs as studies

try:
    SELECTION = read_selection(config)
    EXPERIMENTS, STUDIES = SELECTION.made(), SELECTION.studies
    jobs.check(EXPERIMENTS, config["scale"])
    TUNED = jobs.tuned_keys(EXPERIMENTS)
    studies.check(STUDIES, config["scale"])
    document_key = document.key()
    claims.workflow_inputs(config["scale"], [*EXPERIMENTS, *STUDIES])
except FluidwaitError as error:
    sys.exit(f"fluidwait: error: {error}")


STARTED = time.time()


def tell_reasons():
    """Print why jobs failed when everything else is said: Snakemake has more to say after `onerror`."""
    unfinished = [job for job in workflow.dag.jobs if not workflow.dag.finished(job)]
    logs = [(job.rule.name, Path(log)) for job in unfinished for log in job.log]
    if text := failures.reasons(logs, STARTED):
        atexit.register(lambda: print(f"\n{text}", file=sys.stderr, flush=True))


wildcard_constraints:
    experiment="|".join(EXPERIMENTS) or "(?!)",
    policy="[^/]+",
    scale="[^/]+",
    study="|".join(STUDIES) or "(?!)",
    study_figure="|".join(figure for study in STUDIES for figure in studies.figures(study)) or "(?!)",
    part="[^/]+",


def everything(wildcards):
    """Final artifacts of all experiments at the configured scale."""
    scale = config["scale"]
    files = [f"results/{scale}/parameters.csv"]
    for experiment in EXPERIMENTS:
        folder = f"results/{scale}/{experiment}"
        files += [f"{folder}/{table}.csv" for table in ("thresholds", "summary", "stability")]
        files += [f"{folder}/audit.csv"] if jobs.is_audited(experiment, scale) else []
        files += [f"figures/{scale}/{experiment}_{kind}.png" for kind in jobs.figures(experiment)]
    if searched_experiments():
        files += [f"results/{scale}/boundaries.csv", f"figures/{scale}/boundaries.png"]
    for study in STUDIES:
        files += [f"results/{scale}/{study}/{table}.csv" for table in studies.tables(study)]
        files += [f"figures/{scale}/{figure}.png" for figure in studies.figures(study)]
    files += real_engine(scale)
    if claims.workflow_inputs(scale, [*EXPERIMENTS, *STUDIES]):
        files += [f"results/{scale}/claims.json"]
    return files


def report_inputs(wildcards):
    """All final tables, figures and claims, and the fluid model of every experiment."""
    fluid = [f"results/{config['scale']}/{experiment}/thresholds.json" for experiment in EXPERIMENTS]
    return everything(wildcards) + fluid


def documents(wildcards):
    """The report, of whatever experiments are configured, and its appendix."""
    return [f"results/{config['scale']}/{name}.pdf" for name in ("report", "appendix")]


def claims_evidence(wildcards):
    """Tables that the claims of the experiments and studies made are judged by; nothing when they decide no claim."""
    return claims.workflow_inputs(wildcards.scale, [*EXPERIMENTS, *STUDIES])


def searched_experiments():
    """Experiments whose stability boundaries are searched."""
    return tuple(name for name in EXPERIMENTS if jobs.has_boundary(name, config["scale"]))


def tuning_tables(wildcards):
    """The grid searches of all tuned policies of an experiment."""
    folder = f"results/{wildcards.scale}/{wildcards.experiment}/tuning"
    return [f"{folder}/{policy}.csv" for policy in jobs.tuned(wildcards.experiment)]


def policy_tables(wildcards, kind):
    """Metrics, or searched boundaries, of all policies of an experiment, in the order of the experiment."""
    folder = f"results/{wildcards.scale}/{wildcards.experiment}/{kind}"
    return [f"{folder}/{policy}.csv" for policy in jobs.policies(wildcards.experiment)]


def stability_tables(wildcards):
    """Stability of all experiments with searched boundaries."""
    return [f"results/{wildcards.scale}/{experiment}/stability.csv" for experiment in searched_experiments()]


def sweep_key(wildcards):
    return jobs.sweep_key(wildcards.experiment, wildcards.policy, wildcards.scale)


def shared_key(module):
    """Key of a table or figure that `module` computes from a whole experiment."""
    return lambda wildcards: jobs.shared_key(wildcards.experiment, wildcards.scale, module)


def study_parts(wildcards):
    """Runs of all parts of a study's scaling table."""
    folder = f"results/{wildcards.scale}/{wildcards.study}/runs"
    return [f"{folder}/{part}.csv" for part in studies.study(wildcards.study).scaling]


def study_of(figure):
    """The study that a figure belongs to."""
    return next(study for study in STUDIES if figure in studies.figures(study))


def study_figure_tables(wildcards):
    """Tables that a figure of a study reads."""
    figure = wildcards.study_figure
    return studies.figure_inputs(study_of(figure), figure, wildcards.scale)
