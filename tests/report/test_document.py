"""The report prints what the tables say, nothing that was typed, and the same bytes every time."""

from __future__ import annotations

import json
import re
import shutil
import string
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from fluidwait.artifacts.embedded import embedded_hash
from fluidwait.artifacts.sidecar import read_sidecar
from fluidwait.artifacts.verify import verify_artifact
from fluidwait.base.errors import ConfigError
from fluidwait.base.paths import ROOT_VARIABLE
from fluidwait.claims.claim import load_claims
from fluidwait.report import printed, rule_times
from fluidwait.report.captions import HOISTED, hoist
from fluidwait.report.gather import gather
from fluidwait.report.steps import report_steps
from fluidwait.report.typesetting import typeset

CHECKOUT = Path(__file__).resolve().parents[2]
PAPER = CHECKOUT / "paper"

EXPERIMENT = "{id: e2, title: Two, hardware: a100-80g_llama-2-7b, workload: two_types, policies: {}}"
CLAIM = {
    "id": "C1",
    "statement": "WAIT is stable up to 23 requests/s.",
    "experiment": "e1",
    "verdict": "partly",
    "explanation": "1 of 2 checks hold.",
    "remedy": None,
    "remedies": [],
}
CHECK = {"unit": "requests/s", "paper": "23 ± 1", "at": None, "artifact": ["results/tiny/e1/boundary/wait.csv"]}
CHECKS = [
    CHECK | {"quantity": "boundary of WAIT", "measured": 23.4567, "low": 23.1, "high": 23.8, "holds": True},
    CHECK | {"quantity": "boundary of Sarathi", "measured": 25.0, "low": 25.0, "high": 25.0, "holds": False},
]
AUDIT = {
    "policy": ["wait", "wait"],
    "rate": [12.0, 24.0],
    "requests": [80, 90],
    "scheduler": ["Vidur's", "ours in Vidur"],
    "evictions": [0, 3],
    "max_abs_first_token": [0.0, 2e-11],
    "max_abs_completion": [4e-11, 0.0],
}


def captioned(letter: str) -> str:
    return f"Panel of {letter}. Dotted: the boundary. Bands: intervals; N = 80 requests per run. Dashed: ideal."


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A project with two experiments, e1 whole and e2 not made, and one study."""
    for name in ("config", "data", "paper"):
        shutil.copytree(CHECKOUT / name, tmp_path / name)
    for path in (tmp_path / "config" / "experiments").glob("*.yaml"):
        path.unlink()
    experiments = tmp_path / "config" / "experiments"
    experiments.joinpath("e1.yaml").write_text(EXPERIMENT.replace("e2", "e1").replace("Two", "One type"))
    experiments.joinpath("e2.yaml").write_text(EXPERIMENT)
    monkeypatch.setenv(ROOT_VARIABLE, str(tmp_path))
    monkeypatch.chdir(tmp_path)
    folder, figures = tmp_path / "results" / "tiny", tmp_path / "figures" / "tiny"
    (folder / "e1").mkdir(parents=True)
    (folder / "e11").mkdir()
    figures.mkdir(parents=True)
    summary = {"policy": ["wait", "wait", "sarathi", "sarathi"], "rate": [12.0, 24.0] * 2}
    pl.DataFrame(summary | {"replications": [2, 2, 2, 2], "requests": [80.0] * 4}).write_csv(
        folder / "e1" / "summary.csv"
    )
    fluid = {"capacity": 137497.0, "boundary_rate": 190.6, "calibrated_boundary": {"rate": 25.9}}
    (folder / "e1" / "thresholds.json").write_text(json.dumps(fluid))
    pl.DataFrame(AUDIT).write_csv(folder / "e1" / "audit.csv")
    (folder / "e11" / "exponents.csv").write_text(
        "case,quantity,exponent,low,high,expected,decades,replications\nslack,gap,-0.49,-0.52,-0.46,-0.5,3,20\n"
    )
    (folder / "claims.json").write_text(json.dumps([CLAIM | {"checks": CHECKS}]))
    for name in ("e1_latency", "e1_gap", "e11_scaling"):
        Figure(figsize=(7.1, 3)).savefig(figures / f"{name}.pdf", metadata={"CreationDate": None})
        (figures / f"{name}.txt").write_text(captioned(name) + "\n")
        (figures / f"{name}.png").write_bytes(b"")
    return tmp_path


def files(project: Path) -> list[Path]:
    tables = [path for path in (project / "results").rglob("*") if path.is_file() and "report" not in path.name]
    return sorted([*tables, *(project / "figures").rglob("*.png")])


def make(project: Path, given: list[Path] | None = None) -> bytes:
    """The PDF, from these files only."""
    used = [path.relative_to(project).as_posix() for path in (files(project) if given is None else given)]
    report, _ = report_steps("tiny", used)
    report.make()
    return (project / "results" / "tiny" / "report.pdf").read_bytes()


# --- gathering -----------------------------------------------------------------------------------------------------


def test_totals_are_sums_over_the_tables(project):
    data = gather("tiny", files(project))
    assert data["totals"] == {
        "experiments": 2,
        "runs": 8,
        "requests": 640,
        "replications": [2, 2],
        "run_requests": [80, 80],
    }
    assert data["audit"]["all"] == {
        "policies": 1,
        "runs": 2,
        "native": 1,
        "requests": 170,
        "evictions": 3,
        "largest": 4e-11,
    }
    assert data["hardware"][0]["capacity"] == 137497.0
    assert data["verdicts"] == {"partly": 1}


def test_what_was_not_made_is_named(project):
    data = gather("tiny", files(project))
    assert [about["id"] for about in data["experiments"]] == ["e1", "e11"]
    assert "e2" in [about["id"] for about in data["missing"]]
    assert data["unjudged"] == [claim.id for claim in load_claims() if claim.id != "C1"]


def test_a_report_is_made_of_what_is_handed_over_only(project):
    """Files of experiments that are not configured any more may lie in the folder."""
    kept = [path for path in files(project) if "e11" not in path.as_posix() and path.name != "claims.json"]
    data = gather("tiny", kept)
    assert [about["id"] for about in data["experiments"]] == ["e1"]
    assert (data["claims"], data["tables"], data["unjudged"]) == ([], {}, [])
    assert make(project, kept).startswith(b"%PDF")


def copied(project: Path, name: str) -> None:
    """Another experiment like e2, with a figure like e1's."""
    experiments, figures = project / "config" / "experiments", project / "figures" / "tiny"
    shutil.copy(experiments / "e2.yaml", experiments / f"{name}.yaml")
    for suffix in (".pdf", ".txt", ".png"):
        shutil.copy(figures / f"e1_latency{suffix}", figures / f"{name}_latency{suffix}")


TRIED = [{"setting": "small", "checks": [CHECKS[0] | {"artifact": ["results/tiny/e1_small/metrics/wait.csv"]}]}]


def test_figures_of_remedies_are_not_shown(project):
    copied(project, "e1_small")
    (project / "results" / "tiny" / "claims.json").write_text(
        json.dumps([CLAIM | {"checks": CHECKS, "remedies": TRIED}])
    )
    data = gather("tiny", files(project))
    assert data["aside"] == ["e1_gap", "e1_small_latency"]
    assert data["figures"]["e1_small_latency"]["experiment"] == "e1_small"
    (project / "results" / "tiny" / "claims.json").unlink()
    assert gather("tiny", files(project))["aside"] == ["e1_gap"]


def test_what_is_only_tried_as_a_remedy_is_in_no_table(project):
    folder = project / "results" / "tiny"
    rows = "".join(f"p512d20,{name},wait,WAIT,23.1,23,23.2,25.9,0.9\n" for name in ("e1", "e1_small"))
    header = "workload,experiment,policy,label,lambda_star,low,high,fluid_bound,share\n"
    (folder / "boundaries.csv").write_text(header + rows)
    (folder / "claims.json").write_text(json.dumps([CLAIM | {"checks": CHECKS, "remedies": TRIED}]))
    data = gather("tiny", files(project))
    assert [row["experiment"] for row in data["tables"]["boundaries"]] == ["e1"]


ROWS = st.lists(st.dictionaries(st.sampled_from("abc"), st.integers(0, 2)), max_size=5)


@given(ROWS)
def test_taking_out_what_is_common_loses_nothing(rows):
    before = [dict(row) for row in rows]
    common = printed.take_common(rows)
    for row, old in zip(rows, before, strict=True):
        assert row | {name: common[name] for name in common.keys() & old.keys()} == old
        assert not row.keys() & common.keys()


def test_settings_group_equal_policies_and_shorten_grids():
    shared = {"workload": "w", "requests": "2000 4000 6000", "grid_size": 3, "name": "sarathi"}
    rows = [
        {"experiment": "e1"} | shared | {"label": "Sarathi", "max_requests": "tuned: 8 16 24", "segments": "none"},
        {"experiment": "e2"} | shared | {"label": "Sarathi", "max_requests": "tuned: 8 16 24", "segments": "none"},
        {"experiment": "e2"} | shared | {"label": "other", "max_requests": 128, "segments": "20 50"},
    ]
    first, second = printed.settings(rows)
    assert (first["experiments"], first["settings"]) == (["e1", "e2"], {"max_requests": "tuned: 8 to 24 (3)"})
    assert (second["experiments"], second["settings"]) == (["e2"], {"max_requests": 128, "segments": "20 50"})
    assert [row["experiment"] for row in printed.setups(rows)] == ["e1", "e2"]
    assert printed.setups(rows)[0]["requests"] == "2000 to 6000 (3)"


SENTENCES = st.lists(st.text(string.ascii_uppercase, min_size=1).map(lambda t: f"{t}."), min_size=1, unique=True)


@given(st.lists(SENTENCES, min_size=1, max_size=4))
def test_hoisting_loses_no_sentence(captions):
    figures = [{"kind": "latency", "caption": " ".join(sentences)} for sentences in captions]
    common = hoist(figures).get("latency", "").split()
    for figure, sentences in zip(figures, captions, strict=True):
        assert sorted(common + figure["caption"].split()) == sorted(sentences)
    assert not common or len(captions) >= HOISTED


def test_the_size_of_the_runs_stays_in_every_caption(project):
    (project / "results" / "tiny" / "claims.json").unlink()
    copied(project, "e3")
    data = gather("tiny", files(project))
    assert data["reading"] == {"latency": "Panel of e1_latency. Dotted: the boundary. Dashed: ideal."}
    assert data["figures"]["e3_latency"]["caption"] == "Bands: intervals; N = 80 requests per run."


def test_numbers_of_a_table_stay_numbers(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("# comment\na,b,c,d,e\n1,2.5,,inf,x\n")
    assert printed.read_rows(path) == [{"a": 1, "b": 2.5, "c": None, "d": "inf", "e": "x"}]


def test_mistakes_are_one_line(project):
    with pytest.raises(ConfigError, match="nothing.csv: no such file"):
        gather("tiny", [project / "results" / "tiny" / "nothing.csv"])
    (project / "results" / "tiny" / "claims.json").write_text("{}")
    with pytest.raises(ConfigError, match="claims.json: not a list"):
        gather("tiny", files(project))
    (project / "results" / "tiny" / "claims.json").unlink()
    (project / "paper" / "report.typ").write_text("#unknown")
    with pytest.raises(ConfigError, match="report.typ: error: unknown variable") as caught:
        make(project)
    assert "\n" not in str(caught.value)
    assert not (project / "results" / "tiny" / "report.pdf").exists()


# --- the document --------------------------------------------------------------------------------------------------


def test_the_same_tables_give_the_same_bytes(project):
    first = make(project)
    assert make(project) == first
    out = project / "results" / "tiny" / "report.pdf"
    assert embedded_hash(out) == read_sidecar(out).config_hash
    for name in ("report.json", "report.pdf"):
        assert verify_artifact(project / "results" / "tiny" / name) == []


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("e1/audit.csv", "4e-11", "5e-11"),
        ("e11/exponents.csv", "-0.49", "-0.48"),
        ("claims.json", "23.4567", "23.5567"),
        ("e1/summary.csv", "2,80", "3,80"),
    ],
)
def test_a_changed_number_changes_the_page(project, name, old, new):
    pages = rendered(project)
    path = project / "results" / "tiny" / name
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    assert rendered(project) != pages


def rendered(project: Path) -> list[bytes]:
    """Every page as a picture, with the same hash whatever it is made from."""
    make(project)
    data = project / "results" / "tiny" / "report.json"
    pages = typeset(project / "paper" / "report.typ", data, "0" * 64, format="png", ppi=60)
    return pages if isinstance(pages, list) else [pages]


def test_the_document_has_the_font_of_the_figures_only(project):
    fonts = set(re.findall(rb"/FontName/[A-Z]{6}\+([\w-]+)", make(project)))
    assert fonts and all(font.startswith(b"DejaVuSans") for font in fonts)


NAMES = r"\b[EC]\d+[a-z]?\b|\bd[01]\b|arXiv \d+\.\d+|95 %"  # experiments, claims, d0 and d1, the paper, every interval
UNTESTED = r"//[^\n]*|#import[^\n]*"


@pytest.mark.parametrize("name", ["report.typ", "appendix.typ"])
def test_no_number_is_typed_into_the_words(name):
    words = re.sub(UNTESTED, "", (PAPER / name).read_text(encoding="utf-8"))
    assert re.findall(r"\w*\d[\w.]*", re.sub(NAMES, "", words)) == []


def test_the_words_of_the_style_have_no_numbers():
    """Its numbers are lengths, shares and places: code, never text in brackets or quotes."""
    text = re.sub(UNTESTED, "", (PAPER / "style.typ").read_text(encoding="utf-8"))
    text = re.sub(r"rgb\(\"#\w{6}\"\)|\"a4\"", "", text)
    words = re.findall(r"\[[^\[\]]*\]|\"[^\"]*\"", re.sub(r"#[\w.-]+\([^()]*\)", "", text))
    assert len(words) > 20
    assert [word for word in words if re.search(r"\d", word) and word not in ('"×10"', '"0"')] == []


# --- times ---------------------------------------------------------------------------------------------------------


HEADER = "s\th:m:s\tmax_rss\tmax_vms\tmax_uss\tmax_pss\tio_in\tio_out\tmean_load\tcpu_time"


def benchmark(project: Path, name: str, seconds: float, memory: float | str, processor: float | str) -> None:
    """A benchmark file as Snakemake writes it."""
    path = project / "results" / "tiny" / "benchmarks" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{HEADER}\n{seconds}\t0:00:01\t{memory}\t1\t1\t1\t1\t1\t90.0\t{processor}\n")


def test_times_add_up_by_rule(project):
    benchmark(project, "sweep/e1.wait.tsv", 1.5, 200.25, 1.25)
    benchmark(project, "sweep/e1.sarathi.tsv", 2.5, 300.5, 2.0)
    benchmark(project, "tune/e1.wait.tsv", 8.0, "NA", "NA")
    times = rule_times.rule_times("tiny")
    assert times["rule"].to_list() == ["tune", "sweep"]
    assert times["seconds"].to_list() == [8.0, 4.0]
    assert times["median"].to_list() == [8.0, 2.0]
    assert times["jobs"].to_list() == [1, 2]
    assert times["processor"].to_list() == [0.0, 3.25]
    assert times["memory"].to_list() == [None, 300.5]
    _, appendix = report_steps("tiny", [])
    appendix.make()
    assert pl.read_csv(project / "results" / "tiny" / "rule_times.csv")["rule"].to_list() == ["tune", "sweep"]
    assert verify_artifact(project / "results" / "tiny" / "appendix.pdf") == []


def test_no_benchmarks_or_other_files_are_one_line(project):
    with pytest.raises(ConfigError, match="results/none/benchmarks: no benchmark files"):
        rule_times.rule_times("none")
    benchmark(project, "sweep/e1.wait.tsv", "soon", 1.0, 1.0)
    with pytest.raises(ConfigError, match="e1.wait.tsv: not a benchmark file of Snakemake"):
        rule_times.rule_times("tiny")


# --- the artifact appendix -----------------------------------------------------------------------------------------


def test_the_artifact_appendix_maps_every_claim_to_its_experiment():
    text = (PAPER / "artifact-appendix.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (C\d+) \| (\w+) \|", text, re.MULTILINE)
    assert rows == [(claim.id, claim.experiment) for claim in load_claims()]
