"""The pages of docs/ do what they say: their files are written, their commands run, their output compared."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from fluidwait import cli
from fluidwait.artifacts.verify import verify
from fluidwait.base.paths import ROOT_VARIABLE
from fluidwait.device.timing import linear
from fluidwait.engines import core, simulator
from fluidwait.fluid.question import ThresholdsFile
from fluidwait.pipeline import schemas
from fluidwait.policies import load_policy
from fluidwait.policies.contract import Defaults
from fluidwait.workload import Requests

CHECKOUT = Path(__file__).resolve().parents[1]
PAGES = (
    "adding-a-claim.md",
    "adding-a-figure.md",
    "adding-a-policy.md",
    "adding-a-table.md",
    "adding-a-workload.md",
    "adding-an-experiment.md",
    "adding-hardware.md",
    "claims.md",
    "frontier.md",
)

FENCE = re.compile(r"^```(?P<language>\w+)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
FILE_NAME = re.compile(r"(?P<more>At the end of )?`(?P<path>[^`\n]+)`:\n\n\Z")  # above a block that is a file
COMMAND = re.compile(r"^\$ (?P<line>.*)\n(?P<output>(?:(?!\$ ).*\n?)*)", re.MULTILINE)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project folder with what ships, and nothing of the page yet."""
    for name in ("config", "data", "paper", "workflow"):
        shutil.copytree(CHECKOUT / name, tmp_path / name)
    (tmp_path / "profiles").symlink_to("workflow/profiles")
    for name in ("Snakefile", "environment.yml"):
        shutil.copy(CHECKOUT / name, tmp_path / name)
    monkeypatch.setenv(ROOT_VARIABLE, str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def follow(text: str, project: Path, run) -> int:
    """Do what a page says, top to bottom; returns the number of commands."""
    commands = 0
    for block in FENCE.finditer(text):
        name = FILE_NAME.search(text, 0, block.start())
        if name:
            path = project / name["path"]
            path.parent.mkdir(parents=True, exist_ok=True)
            before = path.read_text() if name["more"] else ""
            path.write_text(before + block["body"])
        elif block["language"] == "console":
            for command in COMMAND.finditer(block["body"]):
                run(command["line"], command["output"])
                commands += 1
        else:
            pytest.fail(f"a block of {block['language']} is neither a file nor a command: {block['body'][:60]}")
    return commands


@pytest.mark.parametrize("page", PAGES)
def test_a_page_does_what_it_says(page, project, capsys):
    text = (CHECKOUT / "docs" / page).read_text()
    if "--engine vidur" in text and not find_spec("vidur"):
        pytest.skip("Vidur is not installed (pip install 'fluidwait[vidur]')")

    if "$ snakemake" in text and not find_spec("snakemake"):
        pytest.skip("Snakemake is not installed (pip install 'fluidwait[workflow]')")

    def run(line: str, output: str) -> None:
        program, *arguments = shlex.split(line)
        if program == "snakemake":
            said = snakemake(arguments, project)
            assert said.returncode == 0, said.stdout[-4000:]
            return
        assert program == "fluidwait"
        assert cli.main(arguments) == 0, capsys.readouterr().err
        assert capsys.readouterr().out.rstrip() == output.rstrip(), f"{page}: $ {line}"

    assert follow(text, project, run) >= 3
    if page == "adding-a-policy.md":
        check_the_policy_of_the_page(project)
    if page == "adding-a-figure.md":
        check_the_figure_of_the_page(project)
    if page == "frontier.md":
        rows = (project / "results" / "quick" / "mine" / "frontier.csv").read_text().splitlines()
        assert [row.split(",")[1] for row in rows] == ["policy", "vllm_v1", "vllm_512"]
    if page == "adding-a-table.md":
        table = (project / "results" / "quick" / "long_prompts" / "tail.csv").read_text().splitlines()
        assert table[0] == "policy,rate,p99_over_mean" and len(table) == 1 + 2 * 2
        assert all(float(line.split(",")[2]) > 1 for line in table[1:])


def snakemake(arguments: list[str], project: Path) -> subprocess.CompletedProcess:
    """Snakemake as a user starts it, in the folder of the project."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    # the profile's long timespan is for many jobs, and would let this small run end seconds later
    command = [sys.executable, "-m", "snakemake", *arguments, "--max-jobs-per-timespan", "100/1s"]
    return subprocess.run(
        command,
        cwd=project,
        env=os.environ | {"PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )


def check_the_policy_of_the_page(project: Path) -> None:
    """Its results are there, a change of its file runs what depends on it again, and a mistake in it is told first."""
    arguments = ["--cores", "2", "--config", "scale=quick", "experiments=batching", "studies=", "real="]
    results = project / "results" / "quick"
    stability = (results / "batching" / "stability.csv").read_text()
    (row,) = [line for line in stability.splitlines() if line.startswith("batch_of_16,Static batching,")]
    assert float(row.split(",")[2]) > 4
    assert "batch_of_16" in (results / "batching" / "audit.csv").read_text()
    assert (project / "figures" / "quick" / "batching_latency.png").is_file()
    sidecar = json.loads((results / "batching" / "records" / "batch_of_16.parquet.json").read_text())
    assert "policies/batch_of.py" in sidecar["code"]

    policy = project / "policies" / "batch_of.py"
    policy.write_text(policy.read_text() + "# changed\n")
    stale = {f.path for f in verify(results) if "policies/batch_of.py has changed" in f.detail}
    assert stale >= {
        "batching/records/batch_of_16.parquet",
        "batching/boundary/batch_of_16.csv",
        "batching/audit.csv",
        "batching/stability.csv",
        "parameters.csv",
    }
    assert not [path for path in stale if "sarathi" in path]
    planned = snakemake(["-n", "--quiet", "progress", *arguments], project).stdout
    again = set(re.findall(r"^rule (\w+):", planned, re.MULTILINE))
    assert {"sweep_batching", "audit"} <= again and "thresholds" not in again, planned[-3000:]

    policy.write_text(policy.read_text().replace("view.free\n", "view.fre\n"))
    told = snakemake(arguments, project)
    assert told.returncode != 0
    last = told.stdout.rstrip().splitlines()[-1]
    expected = "policies/batch_of.py:26: view has no 'fre' (did you mean 'free'?)"
    assert last == f"fluidwait: error: experiment batching: policies.batch_of_16: {expected}"


def check_the_figure_of_the_page(project: Path) -> None:
    """It is drawn with its caption, and another caption draws it again and nothing else."""
    caption = (project / "figures" / "quick" / "long_prompts_first_token.txt").read_text()
    assert caption.startswith("Token budgets of Sarathi with long prompts. Mean time to first token")
    kind = project / "plots" / "first_token.py"
    kind.write_text(kind.read_text().replace("Mean time to first token against", "Time to first token against"))
    target = "figures/quick/long_prompts_first_token.png"
    arguments = ["--config", "scale=quick", "experiments=long_prompts", "studies=", "real="]
    planned = snakemake(["-n", "--quiet", "progress", "--cores", "1", target, *arguments], project).stdout
    assert set(re.findall(r"^rule (\w+):", planned, re.MULTILINE)) == {"figures_long_prompts"}, planned[-3000:]


def test_every_command_of_the_pages_is_in_a_block_that_runs():
    """A command in running text would go untested."""
    for page in (CHECKOUT / "docs").glob("*.md"):
        outside = FENCE.sub("", page.read_text())
        assert not re.search(r"^\s*\$? ?fluidwait \w+ -", outside, re.MULTILINE), page.name


def test_the_page_on_policies_names_every_function_of_the_contract():
    text = (CHECKOUT / "docs" / "adding-a-policy.md").read_text()
    known = {name for name in vars(Defaults) if not name.startswith("_")} | {"prepare"}
    assert set(re.findall(r"^\| `(\w+)\(", text, re.MULTILINE)) == known


def links(page: Path) -> list[str]:
    return [t.split("#")[0] for t in re.findall(r"\]\(([^)\s]+)\)", page.read_text()) if "://" not in t]


@pytest.mark.parametrize("page", sorted((CHECKOUT / "docs").glob("*.md")), ids=lambda p: p.name)
def test_links_and_named_files_of_a_page_exist(page):
    for target in filter(None, links(page)):
        assert (page.parent / target).exists(), target
    text = page.read_text()
    written = {FILE_NAME.search(text, 0, block.start()) for block in FENCE.finditer(text)} - {None}
    own = {name["path"] for name in written}
    for named in set(re.findall(r"`((?:src|tests|workflow|config/experiments)/[\w/.-]+)`", text)) - own:
        assert (CHECKOUT / named).exists(), named


def keys_of(schema: dict) -> set[str]:
    """Every key that a schema knows, at any depth."""
    found = set(schema.get("properties", {}))
    for part in [*schema.get("$defs", {}).values(), *schema.get("properties", {}).values()]:
        found |= keys_of(part)
    return found


def test_the_configuration_readme_explains_every_key():
    text = (CHECKOUT / "config" / "README.md").read_text()
    explained = set(re.findall(r"`(?:timing\.)?(\w+)`", text)) | {"timing"}
    known = {key for schema in schemas.schemas().values() for key in keys_of(schema)}
    known |= set(ThresholdsFile.model_fields)
    assert known - explained == set()


def test_the_configuration_readme_names_every_file_that_ships():
    text = (CHECKOUT / "config" / "README.md").read_text()
    for kind in ("policies", "workloads"):
        for path in (CHECKOUT / "config" / kind).glob("*.yaml"):
            assert f"`{path.stem}`" in text, path.name
    for target in filter(None, links(CHECKOUT / "config" / "README.md")):
        assert (CHECKOUT / "config" / target).exists(), target


@pytest.mark.skipif(not find_spec("vidur"), reason="Vidur is not installed (pip install 'fluidwait[vidur]')")
def test_the_repair_that_the_engines_page_describes_is_needed():
    """Vidur's own restart, evicted half-way through a prefill of 10 tokens and after 3 output tokens."""
    from vidur.entities import Request

    request = Request(0.0, 10, 5)
    request._num_processed_tokens = 4
    request.restart()
    assert request.size == (4, 11)  # the rest of the prompt has become output

    request = Request(0.0, 10, 5)
    request._num_processed_tokens = request._num_stage_processed_tokens = 13
    request.restart()
    assert request.size == (13, 2)  # generated tokens are recomputed
    assert request.num_stage_processed_tokens == 13  # and the counter is not reset


def test_the_two_semantics_differ_as_the_engines_page_says():
    """A lone request of 32 + 9 tokens: iterations, KV tokens before it leaves, first token with the prefill."""
    requests = Requests(np.zeros(1), np.array([32]), np.array([9]), np.zeros(1, dtype=np.int64))
    policy = load_policy("vllm_v1")
    knobs = policy.prepare(None)
    for semantics, iterations, tokens in ((core.serving(100), 9, 32 + 9 - 1), (core.paper(1000), 10, 32 + 9)):
        run = simulator.simulate(requests, policy, knobs, linear(1.0, 0.0), semantics, log=True)
        assert (run.iterations, run.completion[0], run.first_token[0]) == (iterations, iterations, 1.0)
        assert run.log[-1][simulator.LOG_COLUMNS.index("kv_tokens")] == tokens


def test_the_commands_of_the_readme_run(project, capsys):
    """Those that need nothing but a checkout; the workflow has tests of its own."""
    lines = re.findall(r"^(fluidwait (?:policies|thresholds|simulate).*?)(?:\s+#.*)?$", readme(), re.MULTILINE)
    assert lines
    for line in lines:
        if "vidur" not in line or find_spec("vidur"):
            assert cli.main(shlex.split(line)[1:]) == 0, capsys.readouterr().err
            assert capsys.readouterr().out


def readme() -> str:
    return (CHECKOUT / "README.md").read_text()
