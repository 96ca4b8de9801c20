"""The commands of the studies: every table and figure, the same bytes again, and mistakes in one line."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from small_studies import e6_data, e11_data

from fluidwait import cli
from fluidwait.artifacts.verify import verify
from fluidwait.base.errors import ConfigError
from fluidwait.base.paths import project_root
from fluidwait.studies import jobs
from fluidwait.studies.registry import MODELS, load_study

FORMATS = ("png", "pdf", "svg", "txt")


def make_tables(folder: Path) -> None:
    """Every table of both studies below ``folder``."""
    for data in (e6_data(), e11_data()):
        (folder / f"{data['id']}.yaml").write_text(yaml.safe_dump(data))
    e6, e11, results = str(folder / "e6.yaml"), str(folder / "e11.yaml"), folder / "results"
    run("memory", e6, "--out", results / "e6/memory.csv", "--answers", results / "e6/answers.csv")
    parts = [results / f"e11/runs/{part}.csv" for part in e11_data()["scaling"]]
    for part in parts:
        run("runs", e11, part.stem, "--out", part)
    for table in ("fcfs_gap", "unknown_gap"):
        run("gaps", e11, table, "--out", results / f"e11/{table}.csv")
    for table in ("toy", "overflow"):
        run(table, e11, "--out", results / f"e11/{table}.csv")
    exponents = results / "e11/exponents.csv"
    run("scaling", e11, *parts, "--out", results / "e11/scaling.csv", "--exponents", exponents)


def make_figures(folder: Path) -> None:
    for study, names in (("e6", ["e6"]), ("e11", ["e11_scaling", "e11_gap", "e11_overflow"])):
        for name in names:
            outs = [part for ending in FORMATS for part in ("--out", folder / f"figures/{name}.{ending}")]
            run("figure", str(folder / f"{study}.yaml"), name, "--results", folder / "results" / study, *outs)


def run(command: str, *arguments) -> None:
    assert cli.main(["study", command, *map(str, arguments), "--scale", "tiny"]) == 0


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    make_tables(folder)
    make_figures(folder)
    return folder


def artifacts(folder: Path) -> dict[str, bytes]:
    """Every table and figure, without the sidecars (they hold wall times)."""
    paths = [path for top in ("results", "figures") for path in (folder / top).rglob("*.*") if path.suffix != ".json"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_everything_is_made_and_verifies(made):
    names = {name for study in MODELS for name in jobs.TABLES[study]}
    assert {Path(name).stem for name in artifacts(made) if name.endswith(".csv")} == names | {"one", "nested"}
    assert verify(made / "results") == verify(made / "figures") == []


def test_made_again_the_tables_have_the_same_bytes(made, tmp_path):
    make_tables(tmp_path)
    first, again = artifacts(made), artifacts(tmp_path)
    assert len(again) == 8 + 2 and set(again) < set(first)
    assert [name for name in again if first[name] != again[name]] == []


def test_captions_say_how_much_was_run(made):
    captions = {path.stem: path.read_text() for path in (made / "figures").glob("*.txt")}
    assert "4 to 4 replications" in captions["e11_scaling"] and "300 iterations" in captions["e11_scaling"]
    assert "4 replications" in captions["e11_gap"] and "2 settings of Nested WAIT" in captions["e11_gap"]
    assert "20 runs over 30 iterations" in captions["e11_overflow"]
    assert "T in 20, 200 s and δ in 0.1, 0.001" in captions["e6"]
    assert all("scale 'tiny'" in caption for caption in captions.values())


MISTAKES = {
    "another scale": (["toy", "e11.yaml", "--scale", "tin"], "scale 'tin' is not defined (did you mean 'tiny'?)"),
    "an unknown part": (["runs", "e11.yaml", "on", "--scale", "tiny"], "no part 'on' (did you mean 'one'?)"),
    "an unknown gap": (["gaps", "e11.yaml", "fcfs", "--scale", "tiny"], "no table 'fcfs' of gaps (did you mean"),
    "the wrong study": (["toy", "e6.yaml", "--scale", "tiny"], "the command is for study 'e11', found 'e6'"),
    "no such study": (["toy", "e12", "--scale", "tiny"], "e12.yaml: no such file"),
    "a study without an id": (["toy", "none.yaml", "--scale", "tiny"], "id: required key is missing"),
    "an id that is none": (["toy", "odd.yaml", "--scale", "tiny"], "'e1' is not a study (did you mean 'e11'?)"),
    "missing runs": (
        ["scaling", "e11.yaml", "absent.csv", "--scale", "tiny", "--exponents", "x.csv"],
        "absent.csv: no such file",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_and_leaves_nothing_behind(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for data in (e6_data(), e11_data()):
        Path(f"{data['id']}.yaml").write_text(yaml.safe_dump(data))
    Path("none.yaml").write_text("title: t\n")
    Path("odd.yaml").write_text("id: e1\n")
    before = sorted(Path().rglob("*"))
    arguments, told = MISTAKES[name]
    assert cli.main(["study", *arguments, "--out", "out.csv"]) == 2
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1 and error.startswith("fluidwait: error: ")
    assert sorted(Path().rglob("*")) == before


def test_an_unknown_figure_is_one_line(made, capsys):
    arguments = ["figure", str(made / "e11.yaml"), "e11_scalin", "--results", str(made), "--out", "x.png"]
    assert cli.main(["study", *arguments, "--scale", "tiny"]) == 2
    assert "no figure 'e11_scalin' (did you mean 'e11_scaling'?)" in capsys.readouterr().err


@pytest.mark.parametrize("name", MODELS)
def test_what_ships_is_valid_at_every_scale(name):
    study = load_study(name)
    assert set(study.scales) == {"quick", "paper"} and study.scale("paper-seeds2") == study.scale("paper")
    jobs.check([name], "quick")


def test_the_key_of_a_table_changes_with_what_decides_it_only(monkeypatch):
    def keys(study) -> dict[str, str]:
        jobs.key.cache_clear()
        monkeypatch.setattr(jobs, "study", lambda _: study)
        return {table: jobs.key("e11", table, "quick") for table in ("runs/single", "runs/two", "toy", "overflow")}

    study = load_study("e11")
    before = keys(study)
    cases = study.cases | {"wait_two_slack": study.cases["wait_two_slack"].model_copy(update={"slack": 0.3})}
    after = keys(study.model_copy(update={"cases": cases}))
    assert {table for table in before if before[table] != after[table]} == {"runs/two"}
    cases = {key: case.model_copy(update={"label": "renamed"}) for key, case in study.cases.items()}
    after = keys(study.model_copy(update={"cases": cases}))
    assert {table for table in before if before[table] != after[table]} <= {"overflow"}
    jobs.key.cache_clear()


# --- in the workflow -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    folder, root = tmp_path_factory.mktemp("project"), project_root()
    for name in ("config", "data", "workflow", "paper"):
        if (root / name).is_dir():
            shutil.copytree(root / name, folder / name)
    (folder / "profiles").symlink_to("workflow/profiles")
    for name in ("Snakefile", "environment.yml"):
        shutil.copy(root / name, folder / name)
    return folder


def snakemake(project: Path, *more: str) -> subprocess.CompletedProcess:
    pytest.importorskip("snakemake", reason="Snakemake is not installed (pip install 'fluidwait[workflow]')")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        [sys.executable, "-m", "snakemake", "--cores", "2", *more],
        cwd=project,
        env=os.environ | {"FLUIDWAIT_ROOT": str(project), "PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )


def test_the_workflow_plans_every_table_and_figure(project):
    chosen = ["scale=quick", "experiments=[]", "studies=e6,e11"]
    done = snakemake(project, "--dry-run", "--verbose", "--config", *chosen)
    assert done.returncode == 0, done.stdout[-2000:]
    for study, tables in jobs.TABLES.items():
        for table in tables:
            assert f"results/quick/{study}/{table}.csv" in done.stdout
    for figure in ("e6", "e11_scaling", "e11_gap", "e11_overflow"):
        assert f"figures/quick/{figure}.png" in done.stdout
    assert "rule figure:" not in done.stdout  # that of the experiments


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
        jobs.check(["e99"], "quick")
