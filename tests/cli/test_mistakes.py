"""A mistake of the user is one line and exit code 2, and nothing is written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_cases import (
    A100,
    LONG_MODEL,
    OUTPUTS,
    RUN,
    SIMULATE,
    everything,
    fixed,
    hardware,
    question,
    write,
)

from fluidwait import cli


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
        ["m.csv: no column 'kv_tokens' (did you mean 'tokens'?)"],
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
