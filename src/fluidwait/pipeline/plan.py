"""Everything that the workflow makes, as steps: which there are, which of their files are wanted, and one by its name."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from fluidwait.artifacts.step import Rule, Step
from fluidwait.base.errors import ConfigError, nearest
from fluidwait.base.paths import project_root
from fluidwait.claims.steps import claims_step
from fluidwait.drawing import style
from fluidwait.experiments import check as experiment_check
from fluidwait.experiments.experiment import load_experiment
from fluidwait.experiments.setting import Setting, check_requests, resolve
from fluidwait.experiments.steps import experiment_steps, shared_steps, tuned
from fluidwait.pipeline.selection import Selection
from fluidwait.real import sources as recordings
from fluidwait.real.figures import FIGURES as REAL_FIGURES
from fluidwait.real.steps import TABLES as REAL_TABLES
from fluidwait.real.steps import machine_steps, record_step
from fluidwait.report.steps import report_steps
from fluidwait.studies import e6
from fluidwait.studies.registry import load_study
from fluidwait.studies.steps import study_steps
from fluidwait.studies.study import Study


@dataclass(frozen=True)
class Plan:
    """The steps of a selection; what is selected is read and resolved once, when it is first asked for."""

    selection: Selection

    @property
    def scale(self) -> str:
        return self.selection.scale

    @cached_property
    def settings(self) -> dict[str, Setting]:
        """The experiments, by name."""
        return {name: read_setting(name) for name in self.selection.made()}

    @cached_property
    def studies(self) -> dict[str, Study]:
        return {name: load_study(name) for name in self.selection.studies}

    @cached_property
    def bundles(self) -> dict[str, str]:
        """Folder of the recording that each machine's results come from: every target, and what comes with the project.

        With vLLM here the CPU is measured, but for the quick scale: it takes minutes, alone on the machine.
        """
        targets = recordings.TARGETS
        unmade = {name: f"{recordings.RECORDINGS}/{name}" for name in targets}
        return unmade | recordings.sources(targets, not self.selection.is_quick)

    # --- steps ---------------------------------------------------------------------------------------------------------

    @cached_property
    def steps(self) -> dict[str, Step]:
        """Every step, by its name, each after those whose files it reads."""
        found = [*self._experiments, *self._studies, *self._real]
        made = [*self.settings, *self.studies]
        wanted = self._wanted([*self._experiments, *self._studies, *self._drawn])
        judged = claims_step(made, self.scale)
        if judged is not None:
            found.append(judged)
            wanted += judged.outputs[:1]
        found += report_steps(self.scale, wanted)
        return {step.name: step for step in found}

    @cached_property
    def _experiments(self) -> list[Step]:
        settings = list(self.settings.values())
        own = [step for setting in settings for step in experiment_steps(setting, self.scale)]
        return [*own, *shared_steps(settings, self.scale)]

    @cached_property
    def _studies(self) -> list[Step]:
        return [step for name, study in self.studies.items() for step in study_steps(name, study, self.scale)]

    @cached_property
    def _real(self) -> list[Step]:
        recorded = [record_step(name) for name in recordings.TARGETS]
        return recorded + [s for name, folder in self.bundles.items() for s in machine_steps(name, folder, self.scale)]

    @property
    def _drawn(self) -> list[Step]:
        """The steps of the machines that are to be drawn."""
        machines = recordings.sources(tuple(self.selection.real), not self.selection.is_quick)
        return [step for step in self._real if step.wildcards.get("machine") in machines]

    def targets(self) -> list[str]:
        """The final artifacts: all that the workflow makes when it is not told what to make."""
        final = [step for step in self.steps.values() if step.rule.kind in ("claims", "report", "appendix")]
        return [*self._wanted([*self._experiments, *self._studies, *self._drawn]), *self._wanted(final)]

    def _wanted(self, steps: Iterable[Step]) -> list[str]:
        """Of these steps the files that somebody looks at: tables, and one format of every figure."""
        return [file for step in steps for file in step.outputs if file.endswith(WANTED)]

    # --- rules ---------------------------------------------------------------------------------------------------------

    @cached_property
    def rules(self) -> dict[str, list[Step]]:
        """The steps of each rule of the workflow, by the rule's name."""
        found: dict[str, list[Step]] = {}
        for step in self.steps.values():
            found.setdefault(step.rule.name, []).append(step)
        return found
