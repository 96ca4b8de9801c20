"""The steps of everything that ships and of a small project: what they make, from what, and what runs them again."""

from __future__ import annotations

import shlex
import shutil
from collections import Counter
from pathlib import Path

import pytest
import yaml

from fluidwait import cli
from fluidwait.artifacts import step as steps
from fluidwait.artifacts.canonical import plain
from fluidwait.artifacts.sidecar import read_sidecar
from fluidwait.artifacts.step import Artifact, Step
from fluidwait.artifacts.verify import verify
from fluidwait.base.errors import ConfigError
from fluidwait.base.files import sidecar_path
from fluidwait.base.paths import ROOT_VARIABLE, project_root
from fluidwait.base.yaml_files import load_yaml
from fluidwait.pipeline.plan import Plan
from fluidwait.pipeline.selection import read_selection
from projects import CHECKOUT, plan_of

SMALL = """
id: small
title: Small
hardware: a100-80g_llama-2-7b
workload: p512d20
rates: [12, 24]
figures: [latency, gap]
boundary: {resolution: 1}
scales:
  tiny: {requests: 80, replications: 2, tuning_requests: 60, audit_requests: 0}
policies:
  sarathi: {use: sarathi, label: Sarathi}
  sarathi_tuned: {use: sarathi, label: "Sarathi, tuned", grid: {token_budget: [256, 512]}}
"""


def shipped(scale: str, **change) -> Plan:
    """The plan of ``config/config.yaml``."""
    return Plan(read_selection(load_yaml(CHECKOUT / "config" / "config.yaml") | {"scale": scale} | change))


@pytest.fixture(scope="module", params=["quick", "paper"])
def plan(request) -> Plan:
    found = shipped(request.param)
    assert len(found.steps) > 40
    return found


# --- everything that ships -----------------------------------------------------------------------------------------


def all_steps(plan: Plan) -> list[Step]:
    """With those that a name would hide."""
    last = ("claims", "report", "appendix")
    return [*plan._results, *(step for step in plan.steps.values() if step.rule.kind in last)]


def test_names_are_unique(plan):
    counts = Counter(step.name for step in all_steps(plan))
    assert [name for name, count in counts.items() if count > 1] == []
    assert set(counts) == set(plan.steps)


def test_no_file_is_made_by_two_steps(plan):
    counts = Counter(file for step in all_steps(plan) for file in step.outputs)
    assert [file for file, count in counts.items() if count > 1] == []


def test_whatever_a_step_reads_is_made_by_another_or_there(plan):
    made = {file for step in plan.steps.values() for file in step.outputs}
    for step in plan.steps.values():
        assert [file for file in step.inputs if file not in made and not (CHECKOUT / file).is_file()] == [], step.name


def in_order(plan: Plan) -> list[Step]:
    """The steps, each after those that make what it reads."""
    todo, made, found = dict(plan.steps), set(), []
    outputs = {file for step in todo.values() for file in step.outputs}
    while todo:
        ready = [todo[name] for name in todo if not (set(todo[name].inputs) & outputs) - made]
        assert ready, f"these wait for each other: {sorted(todo)}"
        found += ready
        made |= {file for step in ready for file in todo.pop(step.name).outputs}
    return found


def test_no_step_waits_for_itself(plan):
    assert len(in_order(plan)) == len(plan.steps)


def test_what_the_workflow_is_asked_for_is_made_by_its_steps(plan):
    made = {file for step in plan.steps.values() for file in step.outputs}
    targets = plan.targets()
    assert targets and set(targets) <= made and len(set(targets)) == len(targets)


def test_the_steps_of_a_rule_differ_in_their_wildcards_only(plan):
    for name, found in plan.rules().items():
        assert {pattern(step) for step in found} == {pattern(found[0])}, name
        assert len({tuple(sorted(step.wildcards.items())) for step in found}) == len(found), name


def pattern(step: Step) -> tuple:
    """What Snakemake makes a rule of."""
    rule = step.rule
    return rule.name, rule.kind, rule.outputs, rule.wanted, rule.whole_machine, tuple(rule.exhibits)


def test_the_options_of_a_job_make_the_same_step(plan):
    """One of every rule: what Snakemake runs is what it has the key of."""
    for found in plan.rules().values():
        step = found[-1]
        words = shlex.split(plan.options(step))
        given = dict(zip(words[::2], words[1::2], strict=True))
        again = shipped(given["--scale"], **({"only": given["--only"]} if "--only" in given else {})).step(step.name)
        assert (again.name, again.outputs, again.inputs) == (step.name, step.outputs, step.inputs)
        assert again.key == step.key, step.name


def test_quick_jobs_are_bundles_of_the_same_files():
    """What is made is the same, step by step; so is what is made first."""
    plan = shipped("quick")
    jobs = [step for found in plan.rules().values() for step in found]
    assert len(jobs) < 0.6 * len(plan.steps)
    for at in ("outputs", "wanted"):
        files = [file for step in jobs for file in getattr(step, at)]
        assert Counter(files) == Counter(file for step in plan.steps.values() for file in getattr(step, at)), at
    products = {file: product for step in jobs for file, product in zip(step.outputs, step.products, strict=True)}
    for step in plan.steps.values():
        for file, product in zip(step.outputs, step.products, strict=True):
            assert plain(products[file].identity) == plain(product.identity) and products[file].code == product.code
    outputs, made = {file for step in jobs for file in step.outputs}, set()
    while jobs:
        ready = [step for step in jobs if not set(step.inputs) & outputs - made]
        assert ready, "these wait for each other"
        made |= {file for step in ready for file in step.outputs}
        jobs = [step for step in jobs if step not in ready]


def test_the_beginning_of_a_name_is_all_its_steps(tmp_path, monkeypatch):
    with_small(monkeypatch, tmp_path)
    apart = [step for name, step in plan_of("tiny", ["small"]).steps.items() if name.startswith("sweep/")]
    for step in apart:
        step.make()
    results = tmp_path / "results" / "tiny" / "small"

    def made() -> dict[Path, bytes | str]:
        """The artifacts, and what their sidecars say of what they are made from."""
        files = [path for path in results.rglob("*") if path.suffix in (".csv", ".parquet")]
        return {path: path.read_bytes() for path in files} | {
            sidecar_path(path): read_sidecar(path).config_hash for path in files
        }

    before = made()
    assert len(before) == 2 * (3 + 4)  # each with its sidecar
    shutil.rmtree(results)
    assert cli.main(["make", "sweep/small", "--scale", "tiny"]) == 0
    assert made() == before


def test_a_step_calls_the_check_of_its_own_kind(tmp_path, monkeypatch, capsys):
    """Found before any job of the workflow, and by a job that is started by hand."""
    with_small(monkeypatch, tmp_path, SMALL.replace("[latency, gap]", "[mine.py]"))
    kind = "INPUTS = ('summary.csv',)\ndef caption(*_): return 'c'\ndef make(*_): raise AssertionError\n"
    kind += "def check(setting, scale):\n    from fluidwait.base.errors import ConfigError\n"
    (tmp_path / "mine.py").write_text(kind + "    raise ConfigError('too few policies')\n")
    summary = tmp_path / "results" / "tiny" / "small" / "summary.csv"
    summary.parent.mkdir(parents=True)
    summary.write_text("")
    assert cli.main(["make", "figures/small", "--scale", "tiny"]) == 2
    assert capsys.readouterr().err == "fluidwait: error: experiment small: figures: too few policies\n"
    with pytest.raises(ConfigError, match=r"^experiment small: figures: too few policies$"):
        plan_of("tiny", ["small"]).check()


@pytest.mark.parametrize("text", ["a,b\n1,2\n", "garbage\n", ""])
def test_a_table_that_is_another_one_is_named(text, tmp_path, monkeypatch, capsys):
    with_small(monkeypatch, tmp_path)
    for part in ("metrics", "boundary"):
        for key in ("sarathi", "sarathi_tuned"):
            path = tmp_path / "results" / "tiny" / "small" / part / f"{key}.csv"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    assert cli.main(["make", "summary/small", "--scale", "tiny"]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "results/tiny/small/metrics/sarathi.csv: not the table that it should be" in told


def test_two_steps_that_make_one_file_are_refused(tmp_path, monkeypatch):
    with_small(monkeypatch, tmp_path)
    studies = tmp_path / "config" / "studies"
    shutil.copy(studies / "e6.yaml", studies / "another.yaml")
    with pytest.raises(ConfigError) as error:
        plan_of("quick", studies=["e6", "another"]).rules()
    told = "study_figure/e6/e6 and study_figure/another/e6 both make figures/quick/e6.png; make one of them at a time"
    assert str(error.value) == told
    assert plan_of("quick", studies=["another"]).rules()


# --- what runs them again ------------------------------------------------------------------------------------------


def keys(plan: Plan) -> dict[str, str]:
    return {name: step.key for name, step in plan.steps.items()}


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    """The kinds of the steps whose keys differ."""
    assert set(before) == set(after)
    return {name.split("/")[0] for name in before if before[name] != after[name]}


DRAWN = {"figures", "boundaries_figure", "study_figure", "real_figure", "real_replay_figure"}


@pytest.mark.parametrize(
    ("module", "kinds"),
    [
        ("fluidwait.experiments.figures.latency", {"figures"}),
        ("fluidwait.experiments.figures.memory", {"figures"}),
        ("fluidwait.experiments.boundaries_figure", {"boundaries_figure"}),
        (
            "fluidwait.drawing.saving",
            {"figures", "boundaries_figure", "study_figure", "real_figure", "real_replay_figure"},
        ),
        ("fluidwait.studies.figures.e11_gap", {"study_figure"}),
        ("fluidwait.real.figures.e9", {"real_figure"}),
        ("fluidwait.experiments.tables.reference", {"table"}),
        ("fluidwait.experiments.audit", {"audit", "study_audit"}),
        ("fluidwait.report.captions", {"report"}),
        ("fluidwait.claims.sentences", {"claims", "report"}),
    ],
)
def test_changed_code_runs_again_what_imports_it_only(module, kinds, monkeypatch):
    before, fingerprint = keys(shipped("quick")), steps.code_fingerprint

    def edited(code):
        return {name: f"{digest} edited" if name == module else digest for name, digest in fingerprint(code).items()}

    monkeypatch.setattr(steps, "code_fingerprint", edited)
    steps._fingerprint.cache_clear()
    try:
        found = changed(before, keys(shipped("quick")))
    finally:
        steps._fingerprint.cache_clear()
    assert kinds & found and found <= kinds | {"report", "appendix"}


def with_small(monkeypatch, root: Path, text: str = SMALL, **selected) -> Plan:
    """The plan of a project with the small experiment and the first part of E11."""
    monkeypatch.setenv(ROOT_VARIABLE, str(root))
    if not (root / "config").is_dir():
        for name in ("config", "data", "paper"):
            shutil.copytree(CHECKOUT / name, root / name)
        chosen = {"scale": "tiny", "experiments": ["small"], "studies": [], "real": []}
        (root / "config" / "config.yaml").write_text(yaml.safe_dump(chosen))
    (root / "config" / "experiments" / "small.yaml").write_text(text)
    return plan_of("tiny", ["small"], **selected)


@pytest.mark.parametrize(
    ("old", "new", "kinds"),
    [
        # a label stands in tables of means, too, but nothing is simulated again
        ("label: Sarathi}", "label: Another}", {"figures", "summary", "parameters"}),
        ("title: Small", "title: Other", {"figures", "parameters"}),
        ("figures: [latency, gap]", "figures: [latency]", {"figures"}),
        ("figures: [latency, gap]", "figures: [gap, latency]", {"figures"}),
    ],
)
def test_a_changed_word_of_an_experiment_simulates_nothing_again(old, new, kinds, tmp_path, monkeypatch):
    before = keys(with_small(monkeypatch, tmp_path))
    assert old in SMALL
    assert changed(before, keys(with_small(monkeypatch, tmp_path, SMALL.replace(old, new)))) == kinds


def test_a_changed_setting_runs_again_what_depends_on_it(tmp_path, monkeypatch):
    before = keys(with_small(monkeypatch, tmp_path))
    after = keys(with_small(monkeypatch, tmp_path, SMALL.replace("[256, 512]", "[256, 384]")))
    names = {name for name, key in before.items() if after[name] != key}
    assert "sweep/small/sarathi_tuned" in names and "sweep/small/sarathi" not in names
    assert not {name for name in names if name.startswith(("thresholds", "figures"))}


# --- one step by its name ------------------------------------------------------------------------------------------


def every_file(root: Path) -> set[str]:
    found = (path for top in ("results", "figures") for path in (root / top).rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix() for path in found}


def test_make_writes_the_files_of_a_step_and_no_others_with_its_identity(tmp_path, monkeypatch, capsys):
    plan = with_small(monkeypatch, tmp_path)
    for step in in_order(plan):
        if step.name == "appendix" or step.rule.kind.startswith("real_"):
            continue  # of Snakemake's benchmark files, of recordings
        before = every_file(tmp_path)
        assert cli.main(["make", step.name, *shlex.split(plan.options(step))]) == 0, capsys.readouterr().err
        sidecars = {sidecar_path(file).as_posix() for file in step.outputs}
        assert every_file(tmp_path) - before == set(step.outputs) | sidecars
        assert [f"wrote {file}" for file in step.outputs] == capsys.readouterr().out.splitlines()[-len(step.outputs) :]
        for product, output in zip(step.products, step.outputs, strict=True):
            if isinstance(product, Artifact):
                assert read_sidecar(tmp_path / output).config == plain(product.identity), output
    assert verify(tmp_path / "results", tmp_path) == verify(tmp_path / "figures", tmp_path) == []


def test_the_real_engine_is_drawn_at_a_scale_that_only_experiments_define(tmp_path, monkeypatch, capsys):
    """Its jobs are told nothing of the experiments."""
    plan = with_small(monkeypatch, tmp_path)
    for step in (plan.steps["real_tables/gpu"], plan.steps["real_figure/e9/gpu"]):  # of the recording that ships
        assert cli.main(["make", step.name, *shlex.split(plan.options(step))]) == 0, capsys.readouterr().err
        assert every_file(tmp_path) >= set(step.outputs)
    assert verify(tmp_path / "results", tmp_path) == verify(tmp_path / "figures", tmp_path) == []


def test_steps_lists_every_step(tmp_path, monkeypatch, capsys):
    plan = with_small(monkeypatch, tmp_path)
    assert cli.main(["steps"]) == 0
    shown = capsys.readouterr().out
    listed = [line.split()[0] for line in shown.splitlines()]
    assert [name for name in listed if name in plan.steps] == [step.name for step in plan.wanted_steps()]


MISTAKES = {
    "sweep/small/sarathy": "'sweep/small/sarathy' is no step of scale 'tiny' (did you mean 'sweep/small/sarathi'?)",
    "sweeps/small/sarathi": "'sweeps/small/sarathi' is no step of scale 'tiny' (did you mean 'sweep/small/sarathi'?)",
    "sweep/smal/sarathi": "'sweep/smal/sarathi' is no step of scale 'tiny' (did you mean 'sweep/small/sarathi'?)",
    "audit/small": "'audit/small' is no step of scale 'tiny' (did you mean 'summary/small'?)",
    "threshold": "'threshold' is no step of scale 'tiny' (did you mean 'thresholds'?)",
    "sweep/e1/sarathi": "experiment e1: scale 'tiny' is not defined",
    "": "'' is no step of scale 'tiny' (`fluidwait steps` lists them)",
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_step_that_is_not_there_is_told_with_the_nearest(name, tmp_path, monkeypatch, capsys):
    with_small(monkeypatch, tmp_path)
    assert cli.main(["make", name]) == 2
    told = capsys.readouterr().err
    assert MISTAKES[name] in told and told.count("\n") == 1
    assert not (tmp_path / "results").exists()


# --- only ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", ["quick", "paper"])
def test_only_makes_exactly_one_experiment(scale):
    plan = shipped(scale, only="e1")
    assert (plan.selection.made(), plan.selection.studies, plan.selection.real) == (["e1"], [], [])
    own = {"claims", "report", "appendix", "boundaries", "boundaries_figure", "parameters", "thresholds"}
    for step in plan.steps.values():
        if step.rule.kind not in own and not step.rule.kind.startswith("real_"):
            assert step.subject[0] == "e1"
    folders = {Path(file).parts[2] for file in plan.targets() if file.startswith("results/") and file.count("/") > 2}
    assert folders == {"e1"}
    drawn = {Path(file).stem for file in plan.targets() if file.startswith("figures/")}
    assert drawn and all(name == "boundaries" or name.startswith("e1_") for name in drawn)
    assert not {stem for stem in drawn if "truncated" in stem or "small" in stem}
    assert not [file for file in plan.targets() if "recordings" in file or "_cpu" in file or "_gpu" in file]


def test_only_takes_experiments_studies_and_targets_alike():
    selection = shipped("paper", only="e6, cpu,e2").selection
    assert (selection.made(), selection.studies, selection.real) == (["e2"], ["e6"], ["cpu"])
    selection = shipped("paper", only=["e7_two"]).selection
    assert (selection.made(), selection.studies, selection.real) == (["e7_two"], [], [])  # a variant, alone


@pytest.mark.parametrize(
    ("only", "told"),
    [
        ("e1_truncate", "no experiment, study or real target 'e1_truncate' (did you mean 'e1_truncated'?)"),
        ("e1,e66", "no experiment, study or real target 'e66' (did you mean 'e6'?)"),
        ("gpus", "no experiment, study or real target 'gpus' (did you mean 'gpu'?)"),
        ("", "names nothing (an experiment, a study or a real target, or leave it out)"),
        (",,", "names nothing (an experiment, a study or a real target, or leave it out)"),
    ],
)
def test_a_wrong_name_is_one_line_with_the_nearest(only, told, capsys):
    with pytest.raises(ConfigError) as error:
        shipped("quick", only=only)
    assert str(error.value) == f"config/config.yaml or --config: only: {told}"
    assert cli.main(["steps", "--scale", "quick", "--only", only]) == 2
    assert told in capsys.readouterr().err


def test_this_is_the_checkout():
    assert project_root() == CHECKOUT


def test_a_step_of_what_only_leaves_out_is_refused(capsys):
    assert cli.main(["make", "sweep/e1/wait", "--scale", "quick", "--only", "e2,cpu"]) == 2
    told = "'sweep/e1/wait' is a step of 'e1', which only=e2,cpu leaves out"
    assert capsys.readouterr().err == f"fluidwait: error: {told}\n"
    assert shipped("quick", only="e1").step("sweep/e1/wait").name == "sweep/e1/wait"
