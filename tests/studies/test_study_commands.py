"""The steps of the studies: every table and figure, the same bytes again, and mistakes in one line."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from small_studies import e6_data, e10_data, e11_data, e12_data

from fluidwait import cli
from fluidwait.artifacts.verify import verify
from fluidwait.base.errors import ConfigError
from fluidwait.base.paths import ROOT_VARIABLE
from fluidwait.studies.registry import MODELS, load_study
from fluidwait.studies.steps import study_steps
from projects import CHECKOUT, make_project, plan_of, snakemake

AUDITED = ("vllm_audit",) if find_spec("vllm") else ()
TABLES = {
    "e6": ("memory", "answers"),
    "e10": ("latency", *AUDITED),
    "e11": ("scaling", "exponents", "fcfs_gap", "unknown_gap", "toy", "overflow"),
    "e12": ("frontier", "latency", "envelope"),
}
E12_PARTS = [
    f"results/tiny/e12/{kind}/{load}.csv" for kind in ("runs", "statics") for load in ("short", "chat", "away")
]
PARTS = [f"results/tiny/{part}.csv" for part in ("e11/runs/one", "e11/runs/nested", "e10/runs/short", "e10/runs/chat")]
PARTS += E12_PARTS
FIGURES = ("e6", "e10_clock", "e11_scaling", "e11_gap", "e11_overflow", "e12_frontier", "e12_envelope")


def small_project(folder: Path) -> Path:
    """A project with the small studies and nothing else to make."""
    for name in ("config", "data", "paper"):
        shutil.copytree(CHECKOUT / name, folder / name)
    for data in (e6_data(), e10_data(), e11_data(), e12_data()):
        (folder / "config" / "studies" / f"{data['id']}.yaml").write_text(yaml.safe_dump(data))
    chosen = {"scale": "tiny", "experiments": [], "studies": ["e6", "e10", "e11", "e12"], "real": []}
    (folder / "config" / "config.yaml").write_text(yaml.safe_dump(chosen))
    return folder


def make_all(project: Path) -> Path:
    """Every table and figure of the studies, each by the command that the workflow runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(ROOT_VARIABLE, str(project))
        for name in MODELS:
            for step in study_steps(name, load_study(name), "tiny"):
                assert cli.main(["make", step.name, "--scale", "tiny"]) == 0
    return project


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    return make_all(small_project(tmp_path_factory.mktemp("made")))


def artifacts(folder: Path) -> dict[str, bytes]:
    """Every table and figure, without the sidecars (they hold wall times)."""
    paths = [path for top in ("results", "figures") for path in (folder / top).rglob("*.*") if path.suffix != ".json"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_everything_is_made_and_verifies(made):
    names = {f"results/tiny/{study}/{name}.csv" for study in MODELS for name in TABLES[study]}
    assert {name for name in artifacts(made) if name.endswith(".csv")} == {*names, *PARTS}
    assert {Path(name).stem for name in artifacts(made) if name.startswith("figures/")} == set(FIGURES)
    assert verify(made / "results", made) == verify(made / "figures", made) == []


def test_made_again_everything_has_the_same_bytes(made, tmp_path):
    first, again = artifacts(made), artifacts(make_all(small_project(tmp_path)))
    tables = sum(len(of) for of in TABLES.values()) + len(PARTS)
    assert len([name for name in again if name.endswith(".csv")]) == tables and set(again) == set(first)
    assert [name for name in again if first[name] != again[name]] == []


def test_captions_say_how_much_was_run(made):
    captions = {path.stem: path.read_text() for path in (made / "figures").rglob("*.txt")}
    assert "4 to 4 replications" in captions["e11_scaling"] and "300 iterations" in captions["e11_scaling"]
    assert "4 replications" in captions["e11_gap"] and "2 settings of Nested WAIT" in captions["e11_gap"]
    assert "20 runs over 30 iterations" in captions["e11_overflow"]
    assert "T in 20, 200 s and δ in 0.1, 0.001" in captions["e6"]
    assert all("scale 'tiny'" in caption for caption in captions.values())


MISTAKES = {
    "another scale": ("study_table/e11/toy", "tin", "scale 'tin' is not defined (did you mean 'tiny'?)"),
    "an unknown part": ("study_runs/e11/on", "tiny", "(did you mean 'study_runs/e11/one'?)"),
    "an unknown gap": ("study_gaps/e11/fcfs", "tiny", "(did you mean 'study_gaps/e11/fcfs_gap'?)"),
    "an unknown figure": ("study_figure/e11/e11_scalin", "tiny", "(did you mean 'study_figure/e11/e11_scaling'?)"),
    "the wrong study": (
        "study_table/e6/toy",
        "tiny",
        "'study_table/e6/toy' is no step of scale 'tiny' (did you mean '",
    ),
    "no such study": ("study_table/e13/toy", "tiny", "(did you mean 'study_table/e11/toy'?)"),
    "a study without an id": ("study_table/none/toy", "tiny", "none.yaml: id: required key is missing"),
    "an id that is none": ("study_table/odd/toy", "tiny", "odd.yaml: id: 'e1' is not a study (did you mean 'e12'?)"),
    "an id that is a list": ("study_table/list/toy", "tiny", "list.yaml: id: '[1.5]' is not a study"),
    "an id that is a mapping": ("study_table/mapping/toy", "tiny", "is not a study"),
    "missing runs": (
        "study_scaling/e11",
        "tiny",
        "results/tiny/e11/runs/nested.csv is not there: make the steps before it",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_and_leaves_nothing_behind(name, tmp_path, monkeypatch, capsys):
    project = small_project(tmp_path)
    monkeypatch.setenv(ROOT_VARIABLE, str(project))
    studies = project / "config" / "studies"
    (studies / "none.yaml").write_text("title: t\n")
    (studies / "odd.yaml").write_text("id: e1\n")
    (studies / "list.yaml").write_text("id: [1.5]\n")
    (studies / "mapping.yaml").write_text("id: {a: 1}\n")
    before = sorted(project.rglob("*"))
    step, scale, told = MISTAKES[name]
    assert cli.main(["make", step, "--scale", scale]) == 2
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1 and error.startswith("fluidwait: error: ")
    assert sorted(project.rglob("*")) == before


@pytest.mark.parametrize(
    ("study", "change", "told"),
    [
        ("e6", {"hardware": "a100-80g_llama2-7b"}, "hardware: no file data/hardware/a100-80g_llama2-7b.yaml (did you"),
        ("e6", {"workload": "lmsys"}, "workload: no file config/workloads/lmsys.yaml (did you mean 'lmsys-short'?)"),
        ("e10", {"hardware": "a100"}, "hardware: no file data/hardware/a100.yaml ("),
        (
            "e10",
            {"policies": {"vllm": {"label": "v", "use": "vlm_v1"}}, "baseline": "vllm"},
            "policies.vllm.use: no file config/policies/vlm_v1.yaml (did you mean 'vllm_v1'?)",
        ),
    ],
)
def test_a_file_that_is_not_there_is_told_with_the_study(study, change, told, tmp_path, monkeypatch):
    project = small_project(tmp_path)
    monkeypatch.setenv(ROOT_VARIABLE, str(project))
    file = project / "config" / "studies" / f"{study}.yaml"
    file.write_text(yaml.safe_dump({"e6": e6_data, "e10": e10_data}[study]() | change))
    with pytest.raises(ConfigError) as error:
        load_study(study)
    assert str(error.value).startswith(f"{file}: {told}") and "\n" not in str(error.value)


@pytest.mark.parametrize("name", MODELS)
def test_what_ships_is_valid_at_every_scale(name):
    study = load_study(name)
    assert set(study.scales) == {"quick", "paper"} and study.scale("paper-seeds2") == study.scale("paper")
    for scale in study.scales:
        plan_of(scale, studies=[name]).check()


def keys(study) -> dict[str, str]:
    """The key of each table, by the step's name."""
    return {step.name: step.key for step in study_steps("e11", study, "quick") if step.rule.name != "study_figure"}


def test_the_key_of_a_table_changes_with_what_decides_it_only():
    study = load_study("e11")
    before = keys(study)
    cases = study.cases | {"wait_two_slack": study.cases["wait_two_slack"].model_copy(update={"slack": 0.3})}
    after = keys(study.model_copy(update={"cases": cases}))
    changed = {table for table in before if before[table] != after[table]}
    assert "study_runs/e11/two" in changed
    assert not changed & {"study_runs/e11/single", "study_table/e11/toy", "study_table/e11/overflow"}
    cases = {key: case.model_copy(update={"label": "renamed"}) for key, case in study.cases.items()}
    after = keys(study.model_copy(update={"cases": cases}))
    changed = {table for table in before if before[table] != after[table]}
    assert not {table for table in changed if table.startswith("study_runs/")} and "study_table/e11/toy" not in changed


# --- in the workflow -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    pytest.importorskip("snakemake", reason="Snakemake is not installed (pip install 'fluidwait[workflow]')")
    return make_project(tmp_path_factory.mktemp("project"))


def test_the_workflow_plans_every_table_and_figure(project):
    chosen = ["scale=quick", "experiments=[]", "studies=e6,e10,e11,e12"]
    done = snakemake(project, "--dry-run", "--verbose", "--config", *chosen)
    assert done.returncode == 0, done.stdout[-2000:]
    for study, tables in TABLES.items():
        for table in tables:
            assert f"results/quick/{study}/{table}.csv" in done.stdout
    for figure in FIGURES:
        assert f"figures/quick/{figure}.png" in done.stdout
    assert "rule sweep:" not in done.stdout and "rule figures_" not in done.stdout  # those of the experiments


def test_the_workflow_makes_e6_and_refuses_a_scale_that_is_not_there(project):
    chosen = ["experiments=[]", "studies=e6"]
    targets = ["figures/quick/e6.png", "results/quick/e6/memory.csv"]
    done = snakemake(project, *targets, "--config", "scale=quick", *chosen)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (project / "figures/quick/e6.png").is_file()
    assert verify(project / "results", project) == verify(project / "figures", project) == []
    done = snakemake(project, "--config", "scale=quik", *chosen)
    assert done.returncode != 0 and "study e6: scale 'quik' is not defined (did you mean 'quick'?)" in done.stdout


def test_a_study_that_does_not_exist_is_named():
    with pytest.raises(ConfigError, match="no such file"):
        plan_of("quick", studies=["e99"]).check()
