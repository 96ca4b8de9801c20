"""The claims file against made-up evidence on the grids of its experiments, and against evidence tampered with."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import polars as pl
import pytest
from evidence_files import make_project

from fluidwait import cli
from fluidwait.artifacts.verify import ALTERED, verify
from fluidwait.base.files import sidecar_path
from fluidwait.base.paths import ROOT_VARIABLE
from fluidwait.claims import scorecard, sentences
from fluidwait.claims.claim import load_claims
from fluidwait.claims.evidence import Evidence
from fluidwait.claims.judge import VERDICTS, judge
from fluidwait.claims.select import files, within
from fluidwait.experiments.experiment import load_experiment

CHECKOUT = Path(__file__).resolve().parents[2]
CLAIMS = load_claims(CHECKOUT / "paper" / "claims.yaml")
WRITTEN = ("claims.json", "scorecard.csv", "scorecard.md")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    return make_project(tmp_path_factory.mktemp("made"))


@pytest.fixture
def project(made, tmp_path, monkeypatch) -> Path:
    """A copy that a test may spoil."""
    shutil.copytree(made, tmp_path / "project")
    monkeypatch.setenv(ROOT_VARIABLE, str(tmp_path / "project"))
    return tmp_path / "project"


def test_every_claim_of_the_paper_is_there():
    assert [claim.id for claim in CLAIMS] == [f"C{i}" for i in range(1, 19)]


def test_every_check_and_every_remedy_has_evidence_on_the_papers_grid(project):
    """A rate off the grid, a misspelt column, policy or experiment would leave a check without evidence."""
    evidence = Evidence("paper")
    for claim in CLAIMS:
        trials = [again for r in claim.remedies for c in claim.checks if (again := r.applied(c, claim.experiment))]
        tried = claim.model_copy(update={"checks": [*claim.checks, *trials], "remedies": []})
        for outcome in judge(tried, evidence).outcomes:
            assert (outcome.holds is None) == bool(claim.recording), f"{claim.id}: {outcome.check.quantity}"
            assert outcome.artifacts or claim.recording


def test_every_remedy_changes_something_and_names_experiments_that_ship():
    for claim in CLAIMS:
        for remedy in claim.remedies:
            assert any(remedy.applied(check, claim.experiment) for check in claim.checks), claim.id
            for experiment in remedy.experiments.values():
                load_experiment(CHECKOUT / "config" / "experiments" / f"{experiment}.yaml")


def test_quantities_are_neutral():
    """Words that compare are left to the template, which takes them from the numbers."""
    for claim in CLAIMS:
        for check in claim.checks:
            assert not re.search(r"\b(lower|higher|better|worse|faster|slower|above)\b", check.quantity), check.quantity


def test_the_command_writes_what_it_shows_and_nothing_contradicts_itself(project, capsys):
    assert cli.main(["claims"]) == 0
    shown = capsys.readouterr().out
    data = json.loads((project / "results/paper/claims.json").read_text())
    assert [claim["id"] for claim in data] == [claim.id for claim in CLAIMS]
    assert scorecard.summary(data) in shown
    for claim, told in zip(CLAIMS, data, strict=True):
        assert told["verdict"] in VERDICTS and told["explanation"]
        assert len(told["checks"]) == len(claim.checks)
        for check, row in zip(claim.checks, told["checks"], strict=True):
            if row["holds"] is not None:
                assert row["artifact"] and all(len(digest) == 64 for digest in row["sha256"])
                assert sentences.contradictions(row["sentence"], check) == []
    table = pl.read_csv(project / "results/paper/scorecard.csv")
    assert table["verdict"].to_list() == [claim["verdict"] for claim in data]
    page = (project / "results/paper/scorecard.md").read_text()
    assert all(f"## {claim.id}: " in page for claim in CLAIMS)
    assert [finding for finding in verify(project / "results") if Path(finding.path).name in WRITTEN] == []


def test_the_same_evidence_gives_the_same_bytes(project):
    def contents():
        assert cli.main(["claims", "--only", "C1"]) == 0  # shows, writes nothing
        assert cli.main(["claims"]) == 0
        return {
            n: (project / "results/paper" / n).read_bytes() for n in ("claims.json", "scorecard.csv", "scorecard.md")
        }

    assert contents() == contents()


def test_a_recording_of_the_device_is_used_and_one_of_another_is_not(project):
    def verdict(name: str) -> str:
        (claim,) = (claim for claim in CLAIMS if claim.id == "C11")
        folder = project / "data" / "gpu" / name
        folder.mkdir(parents=True)
        (folder / "time_model.csv").write_text("mape,r_squared,error_256\n2.0,0.99,5.0\n")
        return judge(claim, Evidence("paper")).verdict

    assert verdict("h200") == "not testable here"
    assert verdict("a100-sxm-80g") == "reproduced"


def test_another_devices_numbers_stand_beside_a_claim_that_they_do_not_decide(project):
    (claim,) = (claim for claim in CLAIMS if claim.id == "C11")
    (project / "data" / "gpu" / "h200").mkdir(parents=True)
    table = project / "data" / "gpu" / "h200" / "time_model.csv"
    table.write_text("mape,r_squared,error_256\n2.5,0.98,5.0\n")
    judged = judge(claim, Evidence("paper"))
    said = sentences.explanation(judged)
    assert judged.verdict == "not testable here" and "No recording a100*" in said
    assert "another device, h200: mean absolute error of the linear model 2.5 %" in said and "0.98" in said
    assert "data/gpu/h200/time_model.csv" in files([claim], "paper")
    table.unlink()
    assert "h200" not in sentences.explanation(judge(claim, Evidence("paper")))


# --- evidence that is not what it says -----------------------------------------------------------------------------


def refused(capsys, *arguments: str) -> str:
    assert cli.main(["claims", *arguments]) != 0
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


def test_an_edited_table_is_named(project, capsys):
    table = project / "results/paper/e1/metrics/wait.csv"
    table.write_text(table.read_text().replace("144.0", "143.0"))
    assert "results/paper/e1/metrics/wait.csv: altered" in refused(capsys, "--only", "C2")
    assert any(f.path == "paper/e1/metrics/wait.csv" and f.status == ALTERED for f in verify(project / "results"))


def test_a_corrupted_record_behind_a_table_is_named(project, capsys):
    records = project / "results/paper/e1/records/wait.parquet"
    records.write_bytes(records.read_bytes()[:-1])
    assert "e1/records/wait.parquet" in refused(capsys, "--only", "C2")
    assert any("e1/records/wait.parquet" in f.path + f.detail for f in verify(project / "results"))


def swap(one: Path, other: Path) -> None:
    """Exchange two artifacts together with their sidecars."""
    for a, b in ((one, other), (sidecar_path(one), sidecar_path(other))):
        content = a.read_bytes()
        a.write_bytes(b.read_bytes())
        b.write_bytes(content)


@pytest.mark.parametrize("folder", ["metrics", "boundary"])
def test_two_policies_outputs_swapped_are_named(folder, project, capsys):
    """Each file fits the sidecar beside it; the sidecar names the other policy's file."""
    swap(*(project / f"results/paper/e1/{folder}/{policy}.csv" for policy in ("wait", "sarathi")))
    assert "its sidecar is that of" in refused(capsys, "--only", "C2" if folder == "metrics" else "C1")
    swapped = [f.path for f in verify(project / "results") if "its sidecar is that of" in f.detail]
    assert swapped == [f"paper/e1/{folder}/{policy}.csv" for policy in ("sarathi", "wait")]


@pytest.mark.parametrize("folder", ["metrics", "boundary"])
def test_two_experiments_outputs_swapped_are_named(folder, project, capsys):
    swap(*(project / f"results/paper/{experiment}/{folder}/wait.csv" for experiment in ("e1", "e2")))
    assert "wait.csv: altered: it was made for" in refused(capsys, "--only", "C2" if folder == "metrics" else "C1")


def test_a_table_without_a_sidecar_is_no_evidence(project, capsys):
    sidecar_path(project / "results/paper/e1/metrics/wait.csv").unlink()
    assert "has no sidecar" in refused(capsys, "--only", "C2")


def test_what_is_not_made_yet_is_told_with_the_command_that_makes_it(project, capsys):
    (project / "results/paper/e2/boundary/wait.csv").unlink()
    line = refused(capsys)
    assert "results/paper/e2/boundary/wait.csv: not made yet (snakemake" in line and "experiments=e2" in line
    assert not (project / "results/paper/claims.json").exists()


def test_a_wrong_column_is_one_line(project, capsys):
    claims = project / "paper" / "claims.yaml"
    claims.write_text(claims.read_text().replace("value: wait.lambda_star\n", "value: wait.lambda_stare\n"))
    assert "C1: stability boundary of WAIT: " in refused(capsys)


def test_an_unknown_claim_is_told_with_the_nearest(project, capsys):
    assert "--only: no claim 'c7' (did you mean 'C7'?)" in refused(capsys, "--only", "c7")


# --- selection and comparison --------------------------------------------------------------------------------------


def test_claims_of_some_experiments_need_only_those():
    some = within(CLAIMS, {"e1", "e5"})
    assert {claim.id for claim in some} == {"C1", "C2", "C7", "C8", "C9", "C11", "C12", "C13"}
    assert {Path(name).parts[2] for name in files(some, "paper") if name.startswith("results/")} == {"e1", "e5"}
    assert [len(claim.remedies) for claim in some[:2]] == [0, 1]


def test_verdicts_of_two_runs_are_compared(project, tmp_path, capsys):
    assert cli.main(["claims"]) == 0
    mine = project / "results/paper/claims.json"
    other = tmp_path / "other.json"
    shutil.copy(mine, other)
    assert cli.main(["claims", "--compare", str(other)]) == 0
    assert "0 verdicts differ" in capsys.readouterr().out
    data = json.loads(other.read_text())
    data[0]["verdict"] = "reproduced"
    other.write_text(json.dumps(data[:-1]))
    assert cli.main(["claims", "--compare", str(other)]) == 1
    out = capsys.readouterr().out
    assert "C1: partly, but reproduced in" in out and "C18: reproduced, but absent in" in out
    assert cli.main(["claims", "--only", "C2", "--compare", str(other)]) == 0
    other.write_text("{}")
    assert "not a claims.json" in refused(capsys, "--compare", str(other))


def test_another_scale_says_what_it_cannot_show():
    assert scorecard.warning("paper") is None and scorecard.warning("paper-seeds2") is None
    assert "not evidence for claims near a boundary" in scorecard.warning("quick")
