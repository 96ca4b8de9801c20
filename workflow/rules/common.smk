# What the rules are made of: the plan of all steps, and how a step becomes a job.
import atexit
import os
import re
import sys
import time
from pathlib import Path

from fluidwait.base.errors import FluidwaitError
from fluidwait.pipeline import failures
from fluidwait.pipeline.plan import Plan
from fluidwait.pipeline.selection import read_selection

STARTED = time.time()


def or_stop(function, *arguments):
    """The result of a function that finds mistakes of the user's, which are one line."""
    try:
        return function(*arguments)
    except FluidwaitError as error:
        sys.exit(f"fluidwait: error: {error}")


PLAN = Plan(or_stop(read_selection, config))
or_stop(PLAN.check)
RULES = or_stop(PLAN.rules)


def step_of(name, wildcards):
    """The step of a job of this rule."""
    values = dict(wildcards.items())
    return next(step for step in RULES[name] if values.items() <= step.wildcards.items())


def values_of(name):
    """The values of each wildcard in a rule's outputs, as regular expressions."""
    used = re.findall(r"{(\w+)}", RULES[name][0].rule.outputs[0])
    found = {wildcard: {step.wildcards[wildcard] for step in RULES[name]} for wildcard in used}
    return {wildcard: "|".join(map(re.escape, sorted(values))) for wildcard, values in found.items()}


def outputs_of(rule):
    """The outputs of a rule, those marked that the HTML report shows."""
    folder = "report"
    for output in rule.outputs:
        if shown := rule.exhibits.get(output):
            yield report(output, f"{folder}/{shown.caption}.rst", category=shown.category, labels=dict(shown.labels))
        else:
            yield output


def beside(rule, folder, suffix):
    """Where a job's log or benchmark file goes: below the folder of what it makes."""
    top = "results/{scale}" if "{scale}" in rule.outputs[0] else os.path.dirname(rule.outputs[0])
    values = [wildcard for wildcard in values_of(rule.name) if wildcard != "scale"]
    own = ".".join(f"{{{wildcard}}}" for wildcard in values) or rule.name.removeprefix(f"{rule.kind}_")
    return f"{top}/{folder}/{rule.kind if not values else rule.name}/{own}.{suffix}"


def tell_reasons():
    """Print why jobs failed when everything else is said: Snakemake has more to say after `onerror`."""
    unfinished = [job for job in workflow.dag.jobs if not workflow.dag.finished(job)]
    logs = [(job.rule.name, Path(log)) for job in unfinished for log in job.log]
    if text := failures.reasons(logs, STARTED):
        atexit.register(lambda: print(f"\n{text}", file=sys.stderr, flush=True))
