"""Several steps as one: a short step takes less time than the process that it runs in takes to start."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from fluidwait.artifacts.step import Exhibit, Rule, Step


def is_owned(step: Step) -> bool:
    """Whether it belongs to one experiment or one study, whose name is then the first part of its subject."""
    return not {"experiment", "study", "study_figure"}.isdisjoint(step.wildcards)


def bundled(steps: Iterable[Step]) -> list[Step]:
    """The same steps, those of one kind and one experiment (or study) as one, unless one of them reads another."""
    groups: dict[tuple[str, ...], list[Step]] = {}
    for step in steps:
        groups.setdefault((step.rule.kind, *step.subject[:1]) if is_owned(step) else (step.name,), []).append(step)
    return [bundle for group in groups.values() for bundle in _bundles(group)]


def _bundles(group: list[Step]) -> list[Step]:
    made = {file for step in group for file in step.outputs}
    if len(group) == 1 or any(made & set(step.inputs) for step in group):
        return group
    return [together(group)]


def together(steps: list[Step]) -> Step:
    """One step that makes the files of all these, which are of one kind and one experiment or study."""
    first = steps[0]
    owner = first.subject[:1]
    rule = Rule(
        "_".join((first.rule.kind, *owner)),
        tuple(name for step in steps for name in _named(step, step.rule.outputs)),
        {_at(step, pattern): _shown(step, shown) for step in steps for pattern, shown in step.rule.exhibits.items()},
        tuple(name for step in steps for name in _named(step, step.rule.wanted)),
        any(step.rule.whole_machine for step in steps),
        family=first.rule.kind,
    )
    shared = set.intersection(*(set(step.wildcards.items()) for step in steps))

    def check() -> None:
        for step in steps:
            step.check()

    products = tuple(product for step in steps for product in step.products)
    after = tuple(file for step in steps for file in step.after)
    return Step(rule, owner, dict(sorted(shared)), products, after, check)


def _named(step: Step, patterns: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(_at(step, pattern) for pattern in patterns)


def _at(step: Step, pattern: str) -> str:
    """The pattern with every wildcard but the scale filled in."""
    return pattern.format(**{**step.wildcards, "scale": "{scale}"})


def _shown(step: Step, exhibit: Exhibit) -> Exhibit:
    return replace(exhibit, labels={name: _at(step, label) for name, label in exhibit.labels.items()})
