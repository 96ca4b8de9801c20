"""Files, commands and what they print, for the tests of the command line."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

import yaml

from fluidwait import cli
from fluidwait.device.hardware import load_hardware
from fluidwait.device.timing import BatchSums, iteration_time

A100 = "a100-80g_llama-2-7b"
CHECKOUT = Path(__file__).resolve().parents[2]
SIMULATE = ["simulate", "--policy", "sarathi", "--requests", "200"]
RUN = [*SIMULATE, "--workload", "p512d20", "--rate", "12"]
LONG_MODEL = {"max_model_len": 300_000, "round_to_max_model_len": False}


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
        seconds = iteration_time(times._replace(per_kv=0.0), BatchSums(*sums))
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


def in_a_process(*arguments: str, redirect: str = "", **environment: str | None) -> subprocess.CompletedProcess:
    """A command in a process of its own, through a shell that redirects; a variable that is None is unset."""
    whole = {**os.environ, "PYTHONPATH": str(CHECKOUT / "src"), **environment}
    whole = {key: value for key, value in whole.items() if value is not None}
    command = f'exec "$@" {redirect}'
    words = [sys.executable, "-m", "fluidwait", *arguments]
    return subprocess.run(["bash", "-c", command, "bash", *words], env=whole, capture_output=True, text=True)
