"""The workflow as a user runs it: Snakemake on a small experiment in a project of its own."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

import projects
from fluidwait.artifacts.verify import verify
from projects import environment

pytest.importorskip("snakemake", reason="Snakemake is not installed (pip install 'fluidwait[workflow]')")

EXPERIMENT = """
id: small
title: Small
hardware: a100-80g_llama-2-7b
workload: p512d20
rates: [12, 24]
figures: [latency, gap, memory]
traces: {rates: [24], policies: [sarathi]}
boundary: {resolution: 1}
scales:
  tiny: {requests: 80, replications: 2, tuning_requests: 60, audit_requests: 40}
policies:
  sarathi: {use: sarathi, label: Sarathi}
  wait: {use: wait_chunked, label: WAIT, settings: {chunk: 512}}
  wait_tuned: {use: wait_chunked, label: "WAIT, tuned", grid: {in_service: [10, 30]}}
"""


def make_project(folder: Path) -> Path:
    projects.make_project(folder)
    (folder / "config" / "experiments" / "small.yaml").write_text(EXPERIMENT)
    return folder


def command() -> list[str]:
    chosen = ["scale=tiny", "experiments=small", "studies=[]", "real=[]"]
    return [*projects.SNAKEMAKE, "--config", *chosen]


def snakemake(project: Path, *more: str) -> str:
    done = subprocess.run(
        [*command(), *more],
        cwd=project,
        env=environment(project),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


TIMED = ("rule_times.csv", "appendix.pdf")  # artifacts that hold wall times, as sidecars and logs do


def contents(project: Path) -> dict[str, bytes]:
    """Every artifact that is the same bytes on every run."""
    found = {}
    for top in ("results", "figures"):
        for path in (project / top).rglob("*"):
            if (
                path.is_file()
                and not {"logs", "benchmarks"} & set(path.parts)
                and path.name not in TIMED
                and not is_sidecar(path)
            ):
                found[path.relative_to(project).as_posix()] = path.read_bytes()
    return found


def is_sidecar(path: Path) -> bool:
    return path.suffix == ".json" and path.with_suffix("").is_file()


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    folder = make_project(tmp_path_factory.mktemp("project"))
    snakemake(folder)
    return folder


def test_everything_is_made_and_verifies(project):
    made = contents(project)
    for name in (
        "results/tiny/small/summary.csv",
        "results/tiny/small/stability.csv",
        "results/tiny/small/boundary/wait_tuned.csv",
        "results/tiny/boundaries.csv",
        "results/tiny/report.pdf",
        "figures/tiny/boundaries.pdf",
        "results/tiny/small/thresholds.csv",
        "results/tiny/small/audit.csv",
        "results/tiny/small/tuning/wait_tuned.csv",
        "results/tiny/small/records/sarathi.parquet",
        "results/tiny/small/trace/sarathi.csv",
        "results/tiny/parameters.csv",
        "figures/tiny/small_latency.png",
        "figures/tiny/small_memory.png",
        "figures/tiny/small_gap.svg",
    ):
        assert name in made
    for folder in ("results", "figures"):
        assert verify(project / folder, project) == []


def test_a_second_run_has_nothing_to_do(project):
    assert "Nothing to be done" in snakemake(project)


def test_the_page_of_all_results_has_every_figure_and_its_words(project):
    told = snakemake(project, "--report", "report.html")
    assert "WARNING" not in told and "ERROR" not in told, told
    page = (project / "report.html").read_text()
    for name in (
        "small_latency.png",
        "small_gap.png",
        "small_memory.png",
        "boundaries.png",
        "report.pdf",
        "appendix.pdf",
    ):
        assert name in page
    assert "is beside it in a" in page and "results/tiny/report.json" in page


def test_one_changed_setting_reruns_only_what_depends_on_it(project, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(project, copy, symlinks=True)
    before = contents(copy)
    times = {name: (copy / name).stat().st_mtime_ns for name in before}
    experiment = copy / "config" / "experiments" / "small.yaml"
    experiment.write_text(experiment.read_text().replace("{chunk: 512}", "{chunk: 256}"))
    snakemake(copy)
    again = {name for name in before if (copy / name).stat().st_mtime_ns != times[name]}
    from_all = {f"results/tiny/{name}.csv" for name in ("small/summary", "small/stability", "boundaries", "parameters")}
    from_all |= {f"results/tiny/report.{suffix}" for suffix in ("json", "pdf")}
    own = ("records/wait.parquet", "metrics/wait.csv", "audit.csv", "boundary/wait.csv")
    of_wait = {f"results/tiny/small/{name}" for name in own}
    drawn = {name for name in before if name.startswith("figures/")}
    assert again == from_all | of_wait | drawn
    changed = {name for name, data in contents(copy).items() if data != before[name]}
    assert "results/tiny/small/records/wait.parquet" in changed
    assert not {name for name in changed if "small_memory" in name}  # drawn with the others, but of Sarathi
    assert verify(copy / "results", copy) == []


def planned(project: Path, source: Path | None = None) -> set[str]:
    """The rules of the jobs that a dry run names, with the code in ``source`` instead of that tested here."""
    done = subprocess.run(
        [*command(), "--dry-run", "--quiet", "progress"],
        cwd=project,
        env=environment(project) | ({} if source is None else {"PYTHONPATH": str(source)}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return set(re.findall(r"^(?:local)?rule (\w+):$", done.stdout, re.MULTILINE))


REPORTED = {"report", "appendix", "default"}  # they are of every result


def test_a_changed_figure_runs_figures_only(project, tmp_path):
    source = tmp_path / "src"
    shutil.copytree(projects.CHECKOUT / "src", source)
    assert planned(project, source) == set()
    module = source / "fluidwait" / "experiments" / "figures" / "latency.py"
    before = module.read_text()
    module.write_text(before + "# changed\n")
    assert planned(project, source) == {"figures_small"} | REPORTED
    module.write_text(before)
    shutil.copy(module, module.with_name("another.py"))  # a new kind, which no experiment names
    assert planned(project, source) == set()


def test_a_changed_label_simulates_nothing_again(project, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(project, copy, symlinks=True)
    experiment = copy / "config" / "experiments" / "small.yaml"
    experiment.write_text(experiment.read_text().replace("label: Sarathi}", "label: Another}"))
    tables = {"summary", "parameters", "boundaries", "boundaries_figure"}
    assert planned(copy) == {"figures_small"} | tables | REPORTED


OWN_FIGURE = """from pathlib import Path

import polars as pl
from fluidwait.drawing import style
from fluidwait.drawing.reading import shown

INPUTS = ("peaks.csv",)


def make(results, experiment):
    table = pl.read_csv(Path(results) / "peaks.csv")
    figure = style.new_figure(3.4, 2.0, [])
    axes = style.add_axes(figure, 0.6, 0.4, 2.7, 1.5)
    axes.bar(table["policy"], table["peak"])
    return figure


def caption(results, experiment):
    return f"{shown(experiment, results).title}: largest latencies."
"""
OWN_TABLE = """import polars as pl

INPUTS = ("metrics/{policy}.csv",)


def table(setting, scale, results):
    keys = list(setting.experiment.policies)
    peaks = [pl.read_csv(results / "metrics" / f"{key}.csv")["p99_latency"].max() for key in keys]
    return pl.DataFrame({"policy": keys, "peak": peaks})
"""
OWN = {"figures/mine.py": OWN_FIGURE, "tables/peaks.py": OWN_TABLE}


def with_own_kinds(project: Path, folder: Path, **changed: str) -> Path:
    """A copy of the project, whose experiment has a figure and a table of its own."""
    shutil.copytree(project, folder, symlinks=True)
    for name, text in (OWN | changed).items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    experiment = folder / "config" / "experiments" / "small.yaml"
    kinds = "figures: [latency, gap, memory, figures/mine.py]\ntables: [tables/peaks.py]"
    experiment.write_text(experiment.read_text().replace("figures: [latency, gap, memory]", kinds))
    return folder


def test_a_users_own_figure_and_table_are_drawn(project, tmp_path):
    copy = with_own_kinds(project, tmp_path / "copy")
    assert planned(copy) == {"table_peaks", "figures_small"} | REPORTED
    snakemake(copy)
    assert (copy / "results/tiny/small/peaks.csv").read_text().startswith("policy,peak\nsarathi,")
    for suffix in ("png", "pdf", "svg"):
        assert (copy / f"figures/tiny/small_mine.{suffix}").stat().st_size > 1000
    assert (copy / "figures/tiny/small_mine.txt").read_text() == "Small: largest latencies.\n"
    assert planned(copy) == set()
    for folder in ("results/tiny", "figures/tiny"):
        assert verify(copy / folder, copy) == []
    (copy / "tables/peaks.py").write_text(OWN_TABLE + "# changed\n")
    assert planned(copy) == {"table_peaks", "figures_small"} | REPORTED
    (copy / "tables/peaks.py").write_text(OWN_TABLE)
    (copy / "figures/mine.py").write_text(OWN_FIGURE + "# changed\n")
    assert planned(copy) == {"figures_small"} | REPORTED


DRAWN = "a name that is not defined, when it is drawn"
OWN_MISTAKES = {
    "a name that is not defined, at once": (
        "figures/mine.py",
        ('("peaks.csv",)', "(PEAKS,)"),
        "figures: figures/mine.py:7: NameError: name 'PEAKS' is not defined",
    ),
    "no Python": (
        "tables/peaks.py",
        ("    keys =", "    keys ==="),
        "tables: tables/peaks.py:7: SyntaxError: invalid syntax",
    ),
    DRAWN: (
        "figures/mine.py",
        ('axes.bar(table["policy"]', 'axes.bar(tabel["policy"]'),
        "figures: figures/mine.py:14: NameError: name 'tabel' is not defined",
    ),
    "a column that is not there": (
        "tables/peaks.py",
        ("p99_latency", "p99"),
        'tables: tables/peaks.py:8: ColumnNotFoundError: "p99" not found',
    ),
    "nothing that draws": (
        "figures/mine.py",
        ("def make(", "def draw("),
        "figures: figures/mine.py: defines no 'make'",
    ),
}


@pytest.mark.parametrize("mistake", OWN_MISTAKES)
def test_a_mistake_in_a_users_own_kind_is_one_line(mistake, project, tmp_path):
    name, (old, new), told = OWN_MISTAKES[mistake]
    assert old in OWN[name]
    copy = with_own_kinds(project, tmp_path / "copy", **{name: OWN[name].replace(old, new)})
    done = subprocess.run(
        command(), cwd=copy, env=environment(copy), capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode != 0
    last = (done.stdout + done.stderr).rstrip().splitlines()[-1]
    assert last.startswith("fluidwait: error: ") and told in last, done.stdout[-2000:] + done.stderr[-2000:]
    assert not (copy / "figures/tiny/small_mine.png").exists()
    assert (copy / "results/tiny/small/peaks.csv").exists() == (mistake == DRAWN)


def test_killed_and_started_again_gives_the_same_bytes(project, tmp_path):
    other = make_project(tmp_path / "other")
    records = other / "results" / "tiny" / "small"
    process = subprocess.Popen(
        command(),
        cwd=other,
        env=environment(other),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 300
    while not list(records.glob("records/*.parquet")) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert process.poll() is None, "the run ended before it could be killed"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert len(contents(other)) < len(contents(project))
    snakemake(other)
    assert contents(other) == contents(project)
    for folder in ("results", "figures"):
        assert verify(other / folder, other) == []


MISTAKES = {
    "a misspelt key": (
        "config/experiments/small.yaml",
        ("replications: 2", "replication: 2"),
        "small.yaml: scales.tiny.replication: unknown key (did you mean 'replications'?)",
    ),
    "a misspelt setting": (
        "config/policies/sarathi.yaml",
        ("token_budget", "token_buget"),
        "policies.sarathi: config/policies/sarathi.yaml: token_buget: unknown key (did you mean 'token_budget'?)",
    ),
    "a negative rate": (
        "config/experiments/small.yaml",
        ("[12, 24]", "[-12, 24]"),
        "small.yaml: rates: must be increasing rates above 0 requests/s",
    ),
    "an unknown scale": (
        "config/experiments/small.yaml",
        ("tiny:", "tinny:"),
        "experiment small: scale 'tiny' is not defined (did you mean 'tinny'?)",
    ),
    "a prompt longer than a policy takes": (
        "config/experiments/small.yaml",
        ("{use: sarathi, label: Sarathi}", "{use: vllm_v0, label: vLLM, settings: {token_cap: 256}}"),
        "experiment small: policies.sarathi: request 0: prompt 512 + output 20 = 532 tokens, but 'vllm_v0' prefills at "
        "most 256 tokens at once (nearest valid value: 256)",
    ),
    "a wrong value in a grid": (
        "config/experiments/small.yaml",
        ("[10, 30]", "[10, ten]"),
        "experiment small: policies.wait_tuned.grid: in_service: input should be a valid integer",
    ),
    "a bracket that is not closed": (
        "config/config.yaml",
        ("scale: paper", "scale: [paper"),
        "config.yaml: not valid YAML at line 3, column 1",
    ),
    "a prompt longer than the memory": (
        "config/workloads/p512d20.yaml",
        ("prompt: 512", "prompt: 512000"),
        "experiment small: workload p512d20: ",
    ),
}


def mistaken(project: Path) -> str:
    """Run, expect one line on stderr besides what Snakemake says of its configuration, and nothing made."""
    done = subprocess.run(
        command(), cwd=project, env=environment(project), capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("fluidwait: error: ")]
    return line


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_before_anything_runs(mistake, tmp_path):
    project = make_project(tmp_path / "mistaken")
    name, (old, new), message = MISTAKES[mistake]
    path = project / name
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    assert message in mistaken(project)
    assert not (project / "results").exists()


LATE = """
from fluidwait.policies.contract import PolicySettings, admit_in_order, jit


class Settings(PolicySettings):
    most: int = 20


@jit
def plan(view, knobs, memory, out):
    if view.now > 4.0:  # later than a rehearsal lasts
        return 0, float("inf")
    out.tokens[: len(view.resident)] = 1
    return admit_in_order(view, out, knobs.most, 512, 2048, view.free), float("inf")
"""


def test_the_reason_of_a_failed_job_is_the_last_that_is_said(tmp_path):
    project = make_project(tmp_path / "failing")
    (project / "policies").mkdir()
    (project / "policies" / "late.py").write_text(LATE)
    (project / "config" / "policies" / "late.yaml").write_text("policy: policies/late.py\n")
    experiment = project / "config" / "experiments" / "small.yaml"
    experiment.write_text(experiment.read_text().replace("{use: sarathi, label: Sarathi}", "{use: late, label: Late}"))
    done = subprocess.run(
        [*command(), "--until", "sweep"],
        cwd=project,
        env=environment(project),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode != 0
    *_, rule, reason = done.stdout.rstrip().splitlines()
    assert rule == "rule sweep failed (log: results/tiny/logs/sweep/small.sarathi.log)", done.stdout
    assert reason.startswith("fluidwait: error: policies/late.py: requests stranded at t = ")
    assert not (project / "results" / "tiny" / "small" / "records" / "sarathi.parquet").exists()


def test_results_that_cannot_be_written_are_one_line(tmp_path):
    project = make_project(tmp_path / "mistaken")
    (project / "results").write_text("not a folder")
    assert "results: cannot be written" in mistaken(project)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere: run the tests as another user")
def test_a_read_only_results_folder_is_one_line(tmp_path):
    project = make_project(tmp_path / "mistaken")
    (project / "results").mkdir(mode=0o555)
    assert "results: cannot be written (no permission" in mistaken(project)


def test_the_report_is_made(project):
    snakemake(project, "--report", "report.html")
    assert "small_latency" in (project / "report.html").read_text(encoding="utf-8")
