"""The command line: what it prints, and one line for every mistake."""

from __future__ import annotations

import importlib.metadata
import itertools
import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import yaml

from fluidwait import cli, policies
from fluidwait.artifacts import records
from fluidwait.artifacts import verify as verification
from fluidwait.base.errors import ConfigError, FluidwaitError
from fluidwait.base.paths import ROOT_VARIABLE
from fluidwait.cli.simulate import Engine
from fluidwait.device.hardware import load_hardware
from fluidwait.device.timing import iteration_time
from fluidwait.stats.metrics import run_metrics

A100 = "a100-80g_llama-2-7b"
CHECKOUT = Path(__file__).resolve().parents[2]
SIMULATE = ["simulate", "--policy", "sarathi", "--requests", "200"]
RUN = [*SIMULATE, "--workload", "p512d20", "--rate", "12"]
LONG_MODEL = {"max_model_len": 300_000, "round_to_max_model_len": False}


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.delenv(ROOT_VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)


def write(name: str, content) -> str:
    Path(name).write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return name


def succeeds(capsys, *arguments: str) -> str:
    code = cli.main(list(arguments))
    told = capsys.readouterr()
    assert (code, told.err) == (0, "")
    return told.out


def cells(printed: str, first: str) -> list[str]:
    """The words of the line that starts with ``first``, behind it."""
    line = next(line for line in printed.splitlines() if line.strip().startswith(first))
    return line.strip().removeprefix(first).split()


def everything() -> dict[str, bytes]:
    return {str(p): p.read_bytes() if p.is_file() else b"" for p in Path().rglob("*")}


# --- mistakes: one line, exit code 2, nothing written ---------------------------------------------------------------


def fixed(prompt=512, output=20, **more):
    return {
        "name": "mine",
        "lengths": {"kind": "fixed", "prompt": prompt, "output": output},
        "arrivals": {"process": "poisson"},
    } | more


def question(**more):
    return {"hardware": A100, "workload": "p512d20", "rates": [12, 20]} | more


def hardware(**more):
    data = yaml.safe_load((CHECKOUT / "data" / "hardware" / f"{A100}.yaml").read_text())
    return data | more


def trace(columns: str) -> dict:
    write("trace.csv", f"{columns}\n0.5,100,20\n0.9,200,10\n")
    return fixed(lengths={"kind": "trace", "file": "trace.csv"}, arrivals={"process": "trace"})


MISTAKES = {
    "a misspelt key of a policy": (
        lambda: [*RUN[:2], write("p.yaml", {"policy": "sarathi", "token_budgt": 512}), *RUN[3:]],
        ["p.yaml: token_budgt: unknown key (did you mean 'token_budget'?)"],
    ),
    "a misspelt key of a workload": (
        lambda: [*SIMULATE, "--workload", write("w.yaml", fixed(lenghts=1))],
        ["w.yaml: lenghts: unknown key (did you mean 'lengths'?)"],
    ),
    "a misspelt key of a question": (
        lambda: ["thresholds", write("q.yaml", question(segmets=2))],
        ["q.yaml: segmets: unknown key (did you mean 'segments'?)"],
    ),
    "a misspelt key of an experiment": (
        lambda: ["thresholds", write("e.yaml", question(id="e", title="t", scales={}, policies={}, sed=3))],
        ["e.yaml: sed: unknown key (did you mean 'seed'?)"],
    ),
    "an unknown policy": (
        lambda: ["simulate", "--policy", "sarati", *RUN[3:]],
        ["sarati.yaml: no such file (did you mean 'sarathi.yaml'?)"],
    ),
    "an unknown policy in a file": (
        lambda: [*RUN[:2], write("p.yaml", {"policy": "vllm_v2"}), *RUN[3:]],
        ["p.yaml: policy: 'vllm_v2' is not a policy (did you mean 'vllm_v"],
    ),
    "an unknown workload": (
        lambda: [*SIMULATE, "--workload", "p512d2", "--rate", "1"],
        ["workload 'p512d2'", "(did you mean 'p512d20'?)"],
    ),
    "an unknown hardware": (
        lambda: [*RUN, "--hardware", "a100"],
        [f"a100.yaml: no such file (did you mean '{A100}.yaml'?)"],
    ),
    "a negative rate": (lambda: [*RUN[:-1], "-3"], ["rate: must be above 0 requests/s and finite, found -3"]),
    "a rate of zero": (lambda: [*RUN[:-1], "0"], ["rate: must be above 0 requests/s and finite, found 0"]),
    "a negative rate in a file": (
        lambda: ["thresholds", write("q.yaml", question(rates=[12, -1]))],
        ["q.yaml: rates.1: input should be greater than 0, found -1"],
    ),
    "no rate anywhere": (lambda: [*SIMULATE, "--workload", "p512d20"], ["arrivals.rate: not set"]),
    "no requests": (lambda: [*RUN, "--requests", "0"], ["n: must be at least 1 request, found 0"]),
    "a negative seed": (lambda: [*RUN, "--seed", "-1"], ["seed: must be at least 0, found -1"]),
    "text for a rate": (lambda: [*RUN[:-1], "fast"], ["--rate", "number", "(see fluidwait simulate --help)"]),
    "text in a file": (
        lambda: ["thresholds", write("q.yaml", question(rates=["fast"]))],
        ["q.yaml: rates.0: input should be a valid number", "found 'fast'"],
    ),
    "text for a length": (
        lambda: [*SIMULATE, "--workload", write("w.yaml", fixed(prompt="long"))],
        ["w.yaml: lengths.prompt: input should be a valid integer", "'long'"],
    ),
    "text in a data set": (
        lambda: ["table", write("t.csv", "prompt,output\n5,7\nmany,20\n"), "--out", "o.csv"],
        ["t.csv: line 3, column 'prompt': 'many' is not a number"],
    ),
    "a trace with a missing column": (
        lambda: [*SIMULATE, "--workload", write("w.yaml", trace("arrival,prompt,outptu"))],
        ["trace.csv: no column 'output' (did you mean 'outptu'?)"],
    ),
    "a data set with a missing column": (
        lambda: ["table", write("t.csv", "prompts,output\n5,7\n"), "--out", "o.csv"],
        ["t.csv: no column 'prompt' (did you mean 'prompts'?)"],
    ),
    "measurements with a missing column": (
        lambda: [
            *("calibrate", "iterations", write("m.csv", "tokens,prefills\n1,1\n")),
            *("--template", write("h.yaml", hardware()), "--out", "o.yaml"),
        ],
        ["m.csv: line 1: column 'prefill_tokens' is missing"],
    ),
    "a prompt longer than the memory": (
        lambda: [
            *SIMULATE,
            "--workload",
            write("w.yaml", fixed(prompt=200_000)),
            "--rate",
            "1",
            "--hardware",
            write("h.yaml", hardware(**LONG_MODEL)),
        ],
        ["workload mine", "200000", "memory holds 136128"],
    ),
    "a prompt longer than the memory, thresholds": (
        lambda: [
            "thresholds",
            write(
                "q.yaml",
                question(
                    workload=write("w.yaml", fixed(prompt=200_000)), hardware=write("h.yaml", hardware(**LONG_MODEL))
                ),
            ),
        ],
        ["q.yaml", "200000", "memory holds 137497"],
    ),
    "a prompt longer than the model takes": (
        lambda: [*SIMULATE, "--workload", write("w.yaml", fixed(prompt=5_000)), "--rate", "1"],
        ["workload mine", "5000", "max_model_len of the hardware is 4096"],
    ),
    "a device too small for the model": (
        lambda: [*RUN, "--hardware", write("h.yaml", hardware(memory_gib=8))],
        ["h.yaml", "8 GiB", "leaves room for 0 KV tokens"],
    ),
    "infeasible thresholds: load": (
        lambda: ["simulate", "--policy", "wait", *RUN[3:-1], "400"],
        ["no feasible thresholds (unstable)", "400"],
    ),
    "infeasible thresholds: memory": (
        lambda: ["simulate", "--policy", "wait", "--workload", "p512d1000", "--rate", "2.2"],
        ["no feasible thresholds (memory)", "the largest rate that fits is"],
    ),
    "infeasible thresholds: whole numbers": (
        lambda: ["simulate", "--policy", "wait", "--workload", "p512d1000", "--rate", "0.5"],
        ["no feasible thresholds (integrality)"],
    ),
    "a missing file": (lambda: ["thresholds", "absent.yaml"], ["absent.yaml: no such file"]),
    "a missing data set": (lambda: ["table", "absent.csv", "--out", "o.csv"], ["absent.csv: no such file"]),
    "a missing results folder": (lambda: ["verify", "absent"], ["absent: no such folder"]),
    "broken YAML": (lambda: ["thresholds", write("q.yaml", "rates: [1,\n")], ["q.yaml: not valid YAML at line 2"]),
    "a key twice": (lambda: ["thresholds", write("q.yaml", "rates: [1]\nrates: [2]\n")], ["q.yaml", "'rates' again"]),
    "semantics that Vidur has not": (
        lambda: [*RUN, "--engine", "vidur", "--semantics", "paper"],
        ["vidur: semantics", "nearest valid: 'serving'"],
    ),
    "an unknown engine": (lambda: [*RUN, "--engine", "vidu"], ["--engine", "'vidu'", "'simulator', 'vidur'"]),
    "an unknown option": (lambda: [*RUN, "--polcy", "wait"], ["No such option", "--polcy", "--policy"]),
    "an unknown command": (lambda: ["simulat"], ["No such command 'simulat'", "(see fluidwait --help)"]),
    "a missing option": (lambda: ["simulate"], ["Missing option '--policy'"]),
    "half a command": (lambda: ["calibrate"], ["Missing command", "(see fluidwait calibrate --help)"]),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_and_leaves_nothing_behind(name, capsys):
    prepare, expected = MISTAKES[name]
    arguments = prepare()
    before = everything()
    assert cli.main(arguments) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("fluidwait: error: ") and told.err.count("\n") == 1
    for part in expected:
        assert part in told.err
    assert everything() == before


def measurements() -> str:
    """Iterations of the A100 with other coefficients' worth of shapes, as a CSV file."""
    times = load_hardware(A100).time_model("linear")._replace(decode_context=3e-7, compute_slope=5e-5)
    header = "tokens,prefills,prefill_tokens,prefill_squares,prefill_context,decodes,decode_context,kv_tokens,seconds"
    rows = []
    for chunk, decodes, each in itertools.product((0, 64, 128, 512), (0, 4, 16), (100, 700)):
        if chunk + decodes == 0:
            continue
        context, prefills = decodes * each, int(chunk > 0)
        sums = (chunk + decodes, chunk + context, prefills, chunk, chunk**2, 0, decodes, context)
        seconds = iteration_time(times._replace(per_kv=0.0), *sums)
        tokens, kv, *rest = sums
        rows.append(",".join(map(repr, [tokens, *rest, kv, float(seconds)])))
    return write("m.csv", "\n".join([header, *rows]) + "\n")


OUTPUTS = {
    "simulate": lambda out: [*RUN, "--out", f"{out}.parquet"],
    "table": lambda out: ["table", write("t.csv", "prompt,output\n5,7\n"), "--out", f"{out}.csv"],
    "thresholds": lambda out: ["thresholds", write("q.yaml", question()), "--json", f"{out}.json"],
    "calibrate": lambda out: [
        *("calibrate", "iterations", measurements()),
        *("--template", write("h.yaml", hardware()), "--out", f"{out}.yaml"),
    ],
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_an_output_that_cannot_be_written_is_one_line(name, capsys):
    write("file", "not a folder")
    arguments = OUTPUTS[name]("file/out")
    before = everything()
    assert cli.main(arguments) == 2
    told = capsys.readouterr()
    assert told.out == "" and told.err.count("\n") == 1
    assert "file/out" in told.err and "cannot be written" in told.err
    assert everything() == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere: run the tests as another user")
@pytest.mark.parametrize("name", OUTPUTS)
def test_a_read_only_folder_is_one_line(name, capsys):
    folder = Path("locked")
    folder.mkdir()
    arguments = OUTPUTS[name]("locked/out")
    folder.chmod(0o555)
    try:
        assert cli.main(arguments) == 2
        told = capsys.readouterr()
        assert told.out == "" and told.err.count("\n") == 1 and "cannot be written" in told.err
        assert list(folder.iterdir()) == []
    finally:
        folder.chmod(0o755)


@pytest.mark.parametrize(
    "name", ["a misspelt key of a policy", "a negative rate", "an unknown option", "infeasible thresholds: load"]
)
def test_the_real_command_says_the_same(name):
    prepare, expected = MISTAKES[name]
    done = subprocess.run([sys.executable, "-m", "fluidwait", *prepare()], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr
    for part in expected:
        assert part in done.stderr


def test_the_installed_command_is_this_one():
    (entry,) = (e for e in importlib.metadata.entry_points(group="console_scripts") if e.name == "fluidwait")
    assert entry.value == "fluidwait.cli:main"


def test_starting_up_imports_nothing_heavy():
    heavy = {"numpy", "numba", "scipy", "polars", "pyarrow", "matplotlib", "vidur"}
    code = f"import sys, fluidwait.cli; fluidwait.cli.main([]); print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.startswith("Usage: fluidwait") and done.stdout.endswith("[]\n")


def test_an_interruption_is_quiet(capsys, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(verification, "verify", interrupted)
    assert cli.main(["verify", "."]) == 130
    assert capsys.readouterr() == ("", "")


def test_an_error_of_ours_keeps_its_traceback(monkeypatch):
    def broken(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(verification, "verify", broken)
    with pytest.raises(ZeroDivisionError):
        cli.main(["verify", "."])


# --- what the commands do -------------------------------------------------------------------------------------------


def test_thresholds_of_a_small_file(capsys):
    printed = succeeds(capsys, "thresholds", write("q.yaml", question(rates=[12, 400])))
    summary = json.loads(succeeds(capsys, "thresholds", "q.yaml", "--json", "-"))
    assert succeeds(capsys, "thresholds", "q.yaml", "--json", "out.json") == printed
    assert json.loads(Path("out.json").read_text()) == summary
    law_work = 21 * (512 + 10)  # (l' + 1)(l + l'/2)
    timing = load_hardware(A100).timing.linear
    expected = timing.d0 / (1 - timing.d1 * 12 * law_work)
    assert summary["rates"][0]["iteration_time"] == pytest.approx(expected, rel=1e-12)
    assert cells(printed, "12 ")[:2] == [f"{1e3 * expected:.4g}", f"{12 * law_work * expected:.0f}"]
    assert cells(printed, "400 ")[:4] == ["-"] * 4
    assert "no thresholds: unstable" in printed and summary["rates"][1]["iteration_time"] is None


def test_thresholds_of_an_experiment(capsys):
    data = question(
        id="e",
        title="t",
        rates={"start": 10, "stop": 14, "step": 2},
        scales={},
        policies={"a": {"use": "sarathi", "label": "A"}},
    )
    printed = succeeds(capsys, "thresholds", write("e.yaml", data))
    small = succeeds(capsys, "thresholds", write("q.yaml", question(rates=[10, 12, 14])))
    assert printed == small


def test_thresholds_per_segment(capsys):
    data = question(workload="two_types", boundaries=[20, 50])
    assert "Nested WAIT, one per segment, ends [20, 50]" in succeeds(capsys, "thresholds", write("q.yaml", data))
    assert "ends [20, 50]" in succeeds(
        capsys, "thresholds", write("q.yaml", question(workload="two_types", segments=2))
    )


def test_segments_beside_boundaries_are_refused(capsys):
    """The boundaries were taken, without a word of the segments."""
    path = write("q.yaml", question(workload="two_types", segments=4, boundaries=[20, 50]))
    assert cli.main(["thresholds", path]) == 2
    assert capsys.readouterr().err.startswith("fluidwait: error: q.yaml: (top level): segments and boundaries both say")


def test_calibrate_iterations_prints_what_it_left_over(capsys):
    path = write("h.yaml", hardware())
    printed = succeeds(capsys, "calibrate", "iterations", measurements(), "--template", path, "--out", "mine.yaml")
    fit = load_hardware("mine.yaml").fit
    assert cells(printed, "held_out  mape") == [f"{fit['held_out']['mape']:.4g}"]
    assert fit["all_rows"]["mape"] < 1e-3  # the measurements are of the fitted form
    assert "wrote mine.yaml" in printed
    succeeds(capsys, *RUN, "--hardware", "mine.yaml")


def test_calibrate_profile_takes_several_attention_files(capsys):
    shape = load_hardware(A100).model
    sizes = f"{shape.query_heads},{shape.kv_heads},{shape.hidden},{shape.mlp_hidden}"
    header = "num_tokens,num_tensor_parallel_workers,n_head,n_kv_head,n_embd,n_expanded_embd,time_stats.mlp.median"
    compute = "\n".join([header, *(f"{q},1,{sizes},{0.1 + q / 1000}" for q in (1, 64, 128, 256))])
    header = "phase,num_requests,chunk_tokens,cached_tokens,median_ms_per_layer"
    chunks = itertools.product((64, 128, 256), (0, 512))
    prefill = "\n".join([header, *(f"prefill,1,{q},{k},{0.01 + 1e-6 * q * (q + k)}" for q, k in chunks)])
    counts = itertools.product((1, 8), (100, 900))
    decode = "\n".join([header, *(f"decode,{n},0,{k},{0.01 + 1e-5 * n * (k + 1)}" for n, k in counts)])
    files = [write(n, f"{t}\n") for n, t in (("c.csv", compute), ("p.csv", prefill), ("d.csv", decode))]
    path = write("h.yaml", hardware())
    printed = succeeds(capsys, "calibrate", "profile", *files, "--template", path, "--out", "mine.yaml")
    assert cells(printed, "prefill_attention  points") == ["6"] and cells(printed, "decode_attention   points") == ["4"]
    assert load_hardware("mine.yaml").timing.profile.tokens == [1, 64, 128, 256]


def test_table_counts_the_requests(capsys):
    data = write("t.csv", "n,in,out\n0,5,7\n1,5,7\n2,900,7\n3,5,90\n")
    columns = ["--prompt-column", "in", "--output-column", "out", "--max-prompt", "499", "--max-output", "50"]
    printed = succeeds(capsys, "table", data, "--out", "deep/o.csv", *columns)
    assert [cells(printed, name) for name in ("rows", "too_long", "kept", "cells")] == [["4"], ["2"], ["2"], ["1"]]
    assert Path("deep/o.csv").read_text().splitlines()[-1] == "5,7,2"


def test_simulate_prints_and_records_the_same_run(capsys):
    printed = succeeds(capsys, *RUN, "--out", "deep/run.parquet")
    (run,) = records.iter_runs("deep/run.parquet")
    assert run.parameters == {"rate": 12.0, "requests": 200, "seed": 1, "replication": 0}
    metrics = run_metrics(run.columns)
    assert cells(printed, "mean latency") == [f"{metrics.mean_latency:.4g}", "s"]
    assert cells(printed, "99 % latency") == [f"{metrics.p99_latency:.4g}", "s"]
    assert cells(printed, "mean time per output token") == [f"{1e3 * metrics.mean_tpot:.4g}", "ms"]
    assert cells(printed, "evictions") == ["0"]
    first = Path("deep/run.parquet").read_bytes()
    assert succeeds(capsys, *RUN, "--out", "deep/run.parquet") == printed
    assert Path("deep/run.parquet").read_bytes() == first
    assert succeeds(capsys, "verify", "deep") == "1 artifacts checked, 0 findings\n"


def test_what_is_compiled_once_is_not_compiled_again(tmp_path):
    """Neither for another engine setting, rate or workload, nor for requests read back from a file."""
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}

    def compiled(*arguments):
        done = subprocess.run([sys.executable, "-m", "fluidwait", *arguments], env=environment, text=True)
        assert done.returncode == 0
        return {path.name for path in tmp_path.rglob("*.nbc")}

    first = compiled("compile", "sarathi")
    assert len([name for name in first if "._run_sarathi_" in name]) == 1
    assert compiled(*SIMULATE, "--workload", "lmsys-short", "--rate", "3", "--semantics", "paper") == first
    tables = ("--metrics", "m.csv", "--boundary", "b.csv")
    swept = ("experiment", "sweep", "e3_tight", "sarathi", "--scale", "quick", "--out", "r.parquet", *tables)
    assert {name for name in compiled(*swept) if "_run_" in name} == {name for name in first if "_run_" in name}


def test_simulate_is_one_and_the_same_in_vidur(capsys):
    if not find_spec("vidur"):
        pytest.skip("Vidur is not installed (pip install 'fluidwait[vidur]')")
    ours, vidur = (succeeds(capsys, *RUN, "--engine", name, "--out", f"{name}.parquet") for name in Engine)
    assert cells(ours, "mean latency") == cells(vidur, "mean latency")
    assert cells(ours, "iterations") == cells(vidur, "iterations")
    (a,), (b,) = (records.iter_runs(f"{name}.parquet") for name in Engine)
    np.testing.assert_allclose(a.columns["completion"], b.columns["completion"], rtol=0, atol=1e-9)
    assert a.config_hash != b.config_hash


def test_simulate_under_the_semantics_of_the_paper(capsys):
    """A lone request takes l' + 1 iterations of d0 + d1 (l + s)."""
    work = write("w.yaml", fixed(prompt=100, output=9))
    how = ["--semantics", "paper", "--time-model", "linear"]
    printed = succeeds(
        capsys, "simulate", "--policy", "vllm_v1", "--workload", work, "--rate", "1", "--requests", "1", *how
    )
    timing = load_hardware(A100).timing.linear
    expected = sum(timing.d0 + timing.d1 * (100 + s) for s in range(10))
    assert cells(printed, "mean latency") == [f"{expected:.4g}", "s"]
    assert cells(printed, "iterations") == ["10"]


def test_simulate_names_the_timing_that_a_policy_lacks(capsys):
    data = hardware()
    del data["timing"]["linear"]
    path = write("h.yaml", data)
    succeeds(capsys, *RUN, "--hardware", path)
    assert cli.main(["simulate", "--policy", "wait", *RUN[3:], "--hardware", path]) == 2
    assert "timing.linear: 'wait' needs the paper's d0 and d1" in capsys.readouterr().err


def test_verify_says_what_is_wrong(capsys):
    succeeds(capsys, *RUN, "--out", "results/run.parquet")
    write("results/notes.txt", "by hand")
    with Path("results/run.parquet").open("ab") as file:
        file.write(b"x")
    assert cli.main(["verify", "results"]) == 1
    told = capsys.readouterr()
    assert told.err == ""
    assert told.out.splitlines() == [
        "notes.txt: untracked: has no sidecar",
        "run.parquet: altered: its bytes are not those that were written",
        "1 artifacts checked, 2 findings",
    ]


def test_policies_lists_every_policy_and_setting(capsys):
    printed = succeeds(capsys, "policies")
    for name in policies.names():
        assert f"\n{name}: " in f"\n{printed}"
        for key in policies.load_policy({"policy": name}).module.Settings.model_fields:
            assert f"\n  {key} " in printed
    sarathi = printed[printed.index("\nsarathi: ") :]
    assert cells(sarathi, "token_budget")[0] == "512" and cells(printed, "max_wait")[0] == ".inf"


def test_schemas_are_written_and_compared(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv(ROOT_VARIABLE, str(tmp_path))
    assert cli.main(["schemas", "--check"]) == 1
    assert "workload.schema.json: missing" in capsys.readouterr().out
    succeeds(capsys, "schemas")
    assert "match" in succeeds(capsys, "schemas", "--check")
    folder = tmp_path / "workflow" / "schemas"
    (folder / "hardware.schema.json").write_text("{}")
    (folder / "old.schema.json").write_text("{}")
    assert cli.main(["schemas", "--check"]) == 1
    out = capsys.readouterr().out
    assert "hardware.schema.json: differs from its model" in out and "old.schema.json: belongs to no model" in out
    succeeds(capsys, "schemas")
    assert not (folder / "old.schema.json").exists()
    assert "match" in succeeds(capsys, "schemas", "--check")


# --- a hostile environment --------------------------------------------------------------------------------------------


def in_a_process(*arguments: str, redirect: str = "", **environment: str | None) -> subprocess.CompletedProcess:
    """A command in a process of its own, through a shell that redirects; a variable that is None is unset."""
    whole = {**os.environ, "PYTHONPATH": str(CHECKOUT / "src"), **environment}
    whole = {key: value for key, value in whole.items() if value is not None}
    command = f'exec "$@" {redirect}'
    words = [sys.executable, "-m", "fluidwait", *arguments]
    return subprocess.run(["bash", "-c", command, "bash", *words], env=whole, capture_output=True, text=True)


def test_a_full_screen_is_one_line():
    """Standard output goes to a disk that is full."""
    for command in (["policies"], ["--help"], [*RUN, "--out", "run.parquet"]):
        done = in_a_process(*command, redirect="> /dev/full")
        assert done.returncode == 2
        assert done.stderr == "fluidwait: error: standard output: No space left on device\n"
    assert everything() == {}  # the run was written before what it prints: the command failed all the same


@pytest.mark.parametrize("name", OUTPUTS)
def test_what_cannot_be_told_leaves_no_file(name):
    """The file is written, then the screen's disk is full: the command failed, and nothing says otherwise."""
    arguments = OUTPUTS[name]("out")
    before = everything()
    done = in_a_process(*arguments, redirect="> /dev/full")
    assert done.returncode == 2 and done.stderr == "fluidwait: error: standard output: No space left on device\n"
    assert everything() == before


def test_a_closed_screen_is_no_error():
    done = in_a_process("policies", redirect=">&-")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_reader_that_has_enough_is_no_traceback():
    done = in_a_process("policies", redirect="| head -c 1")
    assert done.stderr == ""


def test_a_screen_with_ascii_only():
    ascii_only = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    write("claims.yaml", {"claims": []})
    name = "w-é≥.yaml"
    done = in_a_process(*SIMULATE, "--workload", name, "--rate", "1", **ascii_only)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "no such file" in done.stderr
    named = write("w.yaml", fixed() | {"name": "at least ≥"})
    done = in_a_process(*SIMULATE, "--workload", named, "--rate", "1", **ascii_only)
    assert (done.returncode, done.stderr) == (0, "")
    assert "at least \\u2265" in done.stdout


def test_a_home_that_is_not_known():
    for root in ("~nobody-of-that-name/x", "~/x"):
        done = in_a_process(*RUN, HOME=None, FLUIDWAIT_ROOT=root)
        assert done.returncode == 2
        assert done.stderr.startswith(f"fluidwait: error: FLUIDWAIT_ROOT={root}: ") and done.stderr.count("\n") == 1


def test_numba_without_a_folder_for_its_machine_code(capsys, monkeypatch):
    """A checkout and a home folder that are both read-only: the variable that helps is named."""
    from numba.core import caching

    from fluidwait.device import timing

    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])
    for folder, says in ((None, "; set NUMBA_CACHE_DIR to a folder"), ("/gone", "NUMBA_CACHE_DIR=/gone: Numba cannot")):
        monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
        if folder:
            monkeypatch.setenv("NUMBA_CACHE_DIR", folder)
        with pytest.raises(FluidwaitError) as error:
            timing.kept_on_disk(lambda x: x)
        assert says in str(error.value) and "\n" not in str(error.value)


def test_errors_of_the_system_and_of_tables_are_one_line(capsys, monkeypatch):
    import polars as pl

    for error, says in (
        (PermissionError(13, "Permission denied", "/locked"), "/locked: Permission denied"),
        (MemoryError("Unable to allocate 8 TiB"), "not enough memory (Unable to allocate 8 TiB)"),
        (pl.exceptions.ColumnNotFoundError("rate\n\nmore"), "not the one that this command reads: rate"),
    ):

        def fails(*_, error=error):
            raise error

        monkeypatch.setattr("fluidwait.artifacts.verify.verify", fails)
        Path("results").mkdir(exist_ok=True)
        assert cli.main(["verify", "results"]) == 2
        told = capsys.readouterr()
        assert says in told.err and told.err.count("\n") == 1


def test_paths_that_cannot_be_looked_at(capsys):
    Path("loop").symlink_to("loop")
    Path("results").mkdir()
    for path in ("loop", "loop/results", "x" * 5000):
        assert cli.main(["verify", path]) == 2
        told = capsys.readouterr()
        assert told.out == "" and told.err.count("\n") == 1
    Path("results/circle").symlink_to("circle")
    assert cli.main(["verify", "results"]) in (0, 2)
    assert "Traceback" not in capsys.readouterr().err


def test_an_input_of_a_sidecar_that_is_a_circle_of_links(capsys):
    succeeds(capsys, *RUN, "--out", "results/run.parquet")
    sidecar = json.loads(Path("results/run.parquet.json").read_text())
    Path("circle").symlink_to("circle")
    sidecar["inputs"] = [{"path": str(Path("circle").absolute()), "sha256": "0" * 64, "of": "bytes"}]
    write("results/run.parquet.json", json.dumps(sidecar))
    assert cli.main(["verify", "results"]) == 1
    assert "is gone" in capsys.readouterr().out


@pytest.mark.skipif(os.geteuid() == 0, reason="root may look anywhere: run the tests as another user")
def test_a_folder_that_may_not_be_searched_is_told(capsys):
    Path("results/locked").mkdir(parents=True)
    Path("results/locked").chmod(0)
    try:
        assert cli.main(["verify", "results"]) == 2
        assert "locked: cannot be read (Permission denied)" in capsys.readouterr().err
    finally:
        Path("results/locked").chmod(0o755)


def test_a_command_that_fails_in_its_last_step_leaves_none_of_its_tables(capsys, monkeypatch):
    from fluidwait.experiments import bisection

    def refuses(*_):
        assert Path("runs.parquet").exists() and Path("metrics.csv").exists()
        raise ConfigError("request 3 does not fit")

    monkeypatch.setattr(bisection, "boundary", refuses)
    small = {
        "id": "small",
        "title": "t",
        "hardware": A100,
        "workload": "p512d20",
        "rates": [10, 12],
        "scales": {"tiny": {"requests": 40, "replications": 1, "tuning_requests": 40, "audit_requests": 0}},
        "policies": {"sarathi": {"use": "sarathi", "label": "Sarathi"}},
    }
    name = write("small.yaml", small)
    outs = ("--out", "runs.parquet", "--metrics", "metrics.csv", "--boundary", "boundary.csv")
    assert cli.main(["experiment", "sweep", name, "sarathi", "--scale", "tiny", *outs]) == 2
    assert "does not fit" in capsys.readouterr().err
    assert list(everything()) == ["small.yaml"]


@pytest.mark.parametrize("out", ["/dev/null", ".", "/proc/report.pdf"])
def test_a_report_that_cannot_be_written_leaves_no_data(out, capsys):
    arguments = [
        "report",
        "document",
        "paper/report.typ",
        "x.csv",
        "--scale",
        "quick",
        "--data",
        "d.json",
        "--out",
        out,
    ]
    assert cli.main(arguments) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert everything() == {}


def test_data_of_a_report_outside_the_project():
    from fluidwait.report.document import write_pdf

    data = Path("numbers.json")
    data.write_text("{}")
    with pytest.raises(ConfigError, match="numbers.json: must lie in the project folder"):
        write_pdf("paper/report.typ", data.absolute(), "report.pdf")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"id": [1.5]}, "id: '[1.5]' is not a study"),
        ({"id": {"a": 1}}, "is not a study"),
    ],
)
def test_a_study_of_no_kind(change, says, capsys):
    name = write("s.yaml", {"title": "t", **change})
    assert cli.main(["study", "toy", name, "--scale", "quick", "--out", "t.csv"]) == 2
    assert says in capsys.readouterr().err
    assert not Path("t.csv").exists()
