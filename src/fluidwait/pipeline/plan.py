"""Everything that the workflow makes, as steps: which there are, which files are wanted, and one step by its name."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from fluidwait.artifacts.step import Step
from fluidwait.base.errors import ConfigError, named
from fluidwait.base.paths import project_root
from fluidwait.experiments import check as experiments
from fluidwait.experiments.experiment import load_experiment
from fluidwait.experiments.setting import Setting, check_requests, resolve
from fluidwait.experiments.steps import experiment_steps, shared_steps, tuned
from fluidwait.pipeline.bundles import bundled, is_owned, together
from fluidwait.pipeline.selection import Selection, check_scale, is_there

# Studies, the real engine, claims and the report are imported where they are asked for: most jobs are of an experiment.


@dataclass(frozen=True)
class Plan:
    """The steps of a selection. Experiments are read and resolved once, when they are first asked for."""

    selection: Selection

    @property
    def scale(self) -> str:
        return self.selection.scale

    @cached_property
    def settings(self) -> dict[str, Setting]:
        """The experiments, by name."""
        return {name: read_setting(name) for name in self.selection.made()}

    @cached_property
    def studies(self) -> dict[str, Any]:
        from fluidwait.studies.registry import load_study

        return {name: load_study(name) for name in self.selection.studies}

    @cached_property
    def machines(self) -> dict[str, str]:
        """Folder of the recording that each machine's results come from.

        Every target has one, whether it is there or not, and all that come with the project. With vLLM here the CPU is
        measured, but for the quick scale: it takes minutes, alone on the machine.
        """
        from fluidwait.real import sources as recordings

        targets = recordings.TARGETS
        expected = {name: f"{recordings.RECORDINGS}/{name}" for name in targets}
        return expected | recordings.sources(targets, not self.selection.is_quick)

    @property
    def _drawn_machines(self) -> dict[str, str]:
        from fluidwait.real import sources as recordings

        return recordings.sources(tuple(self.selection.real), not self.selection.is_quick)

    # --- steps -------------------------------------------------------------------------------------------------------

    @cached_property
    def steps(self) -> dict[str, Step]:
        """Every step, by its name."""
        from fluidwait.claims.steps import claims_step
        from fluidwait.report.steps import report_steps

        results, wanted = self._results, self._files(self._results)
        judged = claims_step([*self.settings, *self.studies], self.scale)
        if judged is not None:
            results, wanted = [*results, judged], [*wanted, *judged.wanted]
        found = [*results, *report_steps(self.scale, wanted)]
        return {step.name: step for step in found}

    def targets(self) -> list[str]:
        """The files that the workflow makes when it is not told what to make."""
        return self._files(self.steps.values())

    def _files(self, steps: Iterable[Step]) -> list[str]:
        drawn = self._drawn_machines
        return [
            file
            for step in steps
            if step.wildcards.get("machine", "") in ("", *drawn) and self._is_replayed(step)
            for file in step.wanted
        ]

    def _is_replayed(self, step: Step) -> bool:
        """Whether it is no replay of published recordings, or the real engine is selected, to which they belong."""
        return "replay" not in step.wildcards or bool(self.selection.real)

    @cached_property
    def _results(self) -> list[Step]:
        from fluidwait.studies.steps import study_steps

        settings = list(self.settings.values())
        found = [step for setting in settings for step in experiment_steps(setting, self.scale)]
        found += shared_steps(settings, self.scale)
        found += [step for name, study in self.studies.items() for step in study_steps(name, study, self.scale)]
        return found + self._recorded

    @property
    def _recorded(self) -> list[Step]:
        from fluidwait.real.replay_steps import replay_steps
        from fluidwait.real.sources import TARGETS
        from fluidwait.real.steps import machine_steps, record_step

        drawn = [step for name, at in self.machines.items() for step in machine_steps(name, at, self.scale)]
        return [*(record_step(name) for name in TARGETS), *drawn, *replay_steps(self.scale)]

    def rules(self) -> dict[str, list[Step]]:
        """The steps of each rule of the workflow, by the rule's name; at quick scales, short steps are bundled.

        Raises:
            ConfigError: a key stands for a tuned policy in one experiment and for an untuned one in another, so that
                the workflow could not tell by the names of the files which rule makes them; or two steps make one file.
        """
        _check_tuned_keys(self.settings)
        _check_outputs(self.steps.values())
        found: dict[str, list[Step]] = {}
        for step in bundled(self.steps.values()) if self.selection.is_quick else self.steps.values():
            found.setdefault(step.rule.name, []).append(step)
        return found

    def options(self, step: Step) -> str:
        """What ``fluidwait make`` needs to know besides the step's name to make the same step."""
        if is_owned(step):
            return f"--scale {self.scale}"
        if not {"target", "machine", "replay"}.isdisjoint(step.wildcards):
            from fluidwait.real.sources import TARGETS

            return f"--scale {self.scale} --only {','.join(TARGETS)}"
        everything = [*self.settings, *self.studies, *self.selection.real]
        return f"--scale {self.scale} --only '{','.join(everything)}'"

    def wanted_steps(self) -> list[Step]:
        """The steps behind :meth:`targets`: without recordings and figures of machines that are not selected."""
        names = {"", *self.selection.real, *self._drawn_machines}
        return [
            step
            for step in self.steps.values()
            if step.wildcards.get("machine", step.wildcards.get("target", "")) in names and self._is_replayed(step)
        ]

    def step(self, name: str) -> Step:
        """The step of this name; of what belongs to one experiment or study, the others are not read.

        ``sweep/e1`` is all of ``sweep/e1/...`` as one step.

        Raises:
            ConfigError: there is none.
        """
        kind, _, rest = name.partition("/")
        owner = rest.split("/")[0]
        known = None
        if not kind.startswith("real_"):  # a step of what several targets share
            self._check_only(name, owner)
            known = self._of_one(kind, owner)
        if known is not None and not any(
            f"{other}/".startswith(f"{name}/") for other in known
        ):  # mistaken: the nearest may be of another kind
            known = None if owner in self.machines else self._of_one(None, owner)
        known = self.steps if known is None else known
        if "/" in name and (below := [step for other, step in known.items() if other.startswith(f"{name}/")]):
            return together(below)
        if name not in known:
            close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
            hint = f"did you mean '{close[0]}'?" if close else "`fluidwait steps` lists them"
            raise ConfigError(f"'{name}' is no step of scale '{self.scale}' ({hint})")
        return known[name]

    def _check_only(self, name: str, owner: str) -> None:
        """Whether ``only`` names the experiment or study whose step is asked for."""
        only = self.selection.only
        if only is not None and owner not in only and any(is_there(key, owner) for key in ("experiments", "studies")):
            raise ConfigError(f"'{name}' is a step of '{owner}', which only={','.join(only)} leaves out")

    def _of_one(self, kind: str | None, owner: str) -> dict[str, Step] | None:
        """The steps of an experiment, all or of this kind, or those of a study; None when there is no such file."""
        if is_there("experiments", owner) and not (kind or "").startswith("study_"):  # a study may have its name
            setting = read_setting(owner)
            setting.experiment.scale(self.scale)
            found = experiment_steps(setting, self.scale, kind)
        elif is_there("studies", owner):
            from fluidwait.studies.registry import load_study
            from fluidwait.studies.steps import study_steps

            found = study_steps(owner, load_study(owner), self.scale)
        else:
            return None
        return {step.name: step for step in found}

    # --- mistakes ----------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Find every mistake in the configuration before any step is made.

        Raises:
            ConfigError: one line: file, key, what is wrong, nearest valid value.
        """
        from fluidwait.real import sources as recordings
        from fluidwait.studies.registry import check_study

        check_scale(self.selection)
        for setting in self.settings.values():
            check_requests(setting, self.scale)
            experiments.check(setting, self.scale)
        for name, study in self.studies.items():
            check_study(name, study, self.scale)
        recordings.check(self.selection.real)
        settings = list(self.settings.values())
        own = [step for setting in settings for step in experiment_steps(setting, self.scale)]
        _check_inputs([*own, *shared_steps(settings, self.scale)])
        for top in ("results", "figures"):
            _check_writable(project_root() / top)


def read_setting(name: str) -> Setting:
    """The experiment in ``config/experiments/<name>.yaml``, resolved.

    Raises:
        ConfigError: the file, or one that it names, is missing or wrong, or has another id.
    """
    experiment = load_experiment(name)  # a mistake in its own file names that file
    with named(f"experiment {name}"):
        setting = resolve(experiment)
    if experiment.id != name:
        raise ConfigError(
            f"config/experiments/{name}.yaml: id: must be the name of the file, found '{experiment.id}' "
            f"(nearest valid value: '{name}')"
        )
    return setting


def _check_tuned_keys(settings: dict[str, Setting]) -> None:
    found = {key: name for name, setting in settings.items() for key in tuned(setting.experiment)}
    for name, setting in settings.items():
        for key, entry in setting.experiment.policies.items():
            if key in found and entry.grid is None:
                other = f"experiment {found[key]}"
                raise ConfigError(f"experiment {name}: policies.{key}: no grid here, but one in {other}; rename one")


def _check_inputs(steps: list[Step]) -> None:
    """A file that is read is made by a step, or is there."""
    made = {file for step in steps for file in step.outputs}
    for step in steps:
        for file in step.inputs:
            if file not in made and not (project_root() / file).exists():
                near = difflib.get_close_matches(file, made, n=1)
                hint = f" (did you mean '{near[0]}'?)" if near else ""
                raise ConfigError(f"{step.name}: reads {file}, which no step makes and which is not there{hint}")


def _check_outputs(steps: Iterable[Step]) -> None:
    """Two studies of one id draw figures of one name, and ``a_b`` with figure ``c`` is ``a`` with figure ``b_c``."""
    found: dict[str, str] = {}
    for step in steps:
        for file in step.outputs:
            if (other := found.setdefault(file, step.name)) != step.name:
                raise ConfigError(f"{other} and {step.name} both make {file}; make one of them at a time")


def _check_writable(folder: Path) -> None:
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not existing.is_dir():
        raise ConfigError(f"{folder}: cannot be written ({existing} is a file, not a folder)")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise ConfigError(f"{folder}: cannot be written (no permission to write in {existing})")
