"""Bad input, odd commands and corner cases, at random: nothing may end in a traceback, hang, or leave a file behind.

    python benchmarks/fuzz.py [--share 0.05] [--only simulations] [--seed 0]
    python benchmarks/fuzz.py --only inputs --seed 4711 --count 1     # a failure again

Four kinds, each a function of a seed alone:

* ``inputs``: a file that ships, mutated, read in this process: experiments, workloads, policies, hardware, studies,
  claims, targets, tables, traces, measurements, bundles, sidecars. It is read, or refused in one line.
* ``commands``: the command line with mutated files, odd arguments and a hostile environment. It ends with 0, 1 or 2
  and at most one line of error; what it wrote has its sidecar, and a failure leaves nothing.
* ``simulations``: small runs in corners, every invariant checked: conservation, memory, causality, an end.
* ``vidur``: the same in real Vidur, to 1e-9 s on every request.

A worker process runs the seeds; one that does not answer in time is killed and the seed told as a hang. The full size
(``--share 1``) is 50,000 inputs, 500 commands, 200,000 simulations and 5,000 comparisons.
"""

from __future__ import annotations

import argparse
import functools
import gzip
import os
import resource
import select
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "engines"))

from engine_cases import A100, corner_case, in_vidur, prepared  # noqa: E402

from fluidwait.base.errors import FluidwaitError  # noqa: E402
from fluidwait.device.timing import TimeModel, linear  # noqa: E402
from fluidwait.engines.simulator import LOG_COLUMNS, simulate  # noqa: E402
from fluidwait.workload import Requests  # noqa: E402

FULL = {"inputs": 50_000, "commands": 500, "simulations": 200_000, "vidur": 5_000}
PATIENCE = {"inputs": 30, "commands": 120, "simulations": 30, "vidur": 60}  # s of processor for one seed
COMPILING = 600  # s more for the first one
IDLE = 20  # times that long on the clock: the machine may be busy, but a worker may also wait for ever
MEMORY = 12 << 30  # bytes that a worker may have: what asks for more is told, not killed by the system
TOLERANCE = 1e-9  # s


class Fault(Exception):
    """What the fuzzer looks for."""


# --- mutations -------------------------------------------------------------------------------------------------------

WORDS = (
    """
2020-02-30T99:99:99Z|2024-05-01|9223372036854775808|-9223372036854775809|1000000000000000000000000000000|1.0e+18
-1|0|1|.inf|-.inf|.nan|1e-320|1e308|0x1p3|0b1|1_000|12:30:45|~|true|[]|{}|[[]]|[1.5]|{a: 1}|""|" "|"a\\0b"|"\\ud800"
"\\x07"|!!int x|!!float x|!!bool x|!!binary x|!!timestamp x|!!set {a}|!!python/object:os.system x|&a [*a]|*b|<<: 1
? [1]|"|'|%|@|`|[|{|- -|é|≥|../../etc/passwd|/dev/zero|/dev/null|.|..|/|sarathi|fluid|trace|table|null
""".strip()
    .replace("\n", "|")
    .split("|")
)
"""Values as YAML and CSV have them; none of them is right everywhere, and most are wrong."""

WORDS += ["9" * 5000, "x" * 300, "[" * 2000, "a: " * 200]


def mutated(g: np.random.Generator, content: bytes) -> bytes:
    """The bytes of a file, changed in one to three places."""
    for _ in range(int(g.integers(1, 4))):
        content = MUTATIONS[int(g.choice(len(MUTATIONS), p=WEIGHTS))](g, content)
    return content


def other_value(g: np.random.Generator, content: bytes) -> bytes:
    """Another value behind a key, or in a cell."""
    lines = content.split(b"\n")
    at = int(g.integers(len(lines)))
    word = WORDS[int(g.integers(len(WORDS)))].encode("utf-8", "surrogatepass")
    if b":" in lines[at]:
        lines[at] = lines[at].split(b":")[0] + b": " + word
    else:
        cells = lines[at].split(b",")
        cells[int(g.integers(len(cells)))] = word
        lines[at] = b",".join(cells)
    return b"\n".join(lines)


def line_elsewhere(g: np.random.Generator, content: bytes) -> bytes:
    """A line gone, twice, or in another place."""
    lines = content.split(b"\n")
    line = lines.pop(int(g.integers(len(lines))))
    for _ in range(int(g.integers(3))):
        lines.insert(int(g.integers(len(lines) + 1)), line)
    return b"\n".join(lines)


def other_bytes(g: np.random.Generator, content: bytes) -> bytes:
    """Bytes changed, put in, or taken out."""
    data = bytearray(content)
    for _ in range(int(g.integers(1, 4))):
        at = int(g.integers(len(data) + 1))
        data[at : at + int(g.integers(3))] = bytes(g.integers(0, 256, int(g.integers(3))).astype(np.uint8))
    return bytes(data)


def cut(g: np.random.Generator, content: bytes) -> bytes:
    """The beginning of it."""
    return content[: int(g.integers(len(content) + 1))]


def other_file(g: np.random.Generator, content: bytes) -> bytes:
    """Something else altogether: compressed, UTF-16, an unclosed quote, empty, binary."""
    kinds = [
        lambda: gzip.compress(content, mtime=0),
        lambda: content.decode(errors="replace").encode("utf-16"),
        lambda: content.replace(b"\n", b'\n"', 1) + b"x" * 140_000,
        lambda: b"",
        lambda: b"\xef\xbb\xbf" + content,
        lambda: content.replace(b"\n", b"\r"),
        lambda: bytes(g.integers(0, 256, 300).astype(np.uint8)),
        lambda: b"\n" * 50,
    ]
    return kinds[int(g.integers(len(kinds)))]()


MUTATIONS: list[Callable] = [other_value, line_elsewhere, other_bytes, cut, other_file]
WEIGHTS = [0.55, 0.15, 0.15, 0.08, 0.07]


# --- inputs ----------------------------------------------------------------------------------------------------------


class Reader(NamedTuple):
    """Files of one kind and what reads them; ``read`` gets the path of the mutated copy."""

    files: tuple[str, ...]  # patterns from the project's root
    read: Callable[[Path], object]


def read_workload(path: Path) -> None:
    from fluidwait.workload import generate, length_law, load_workload, mean_rate

    workload = load_workload(path)
    length_law(workload)
    mean_rate(workload, 3.0)
    generate(workload, n=50, rate=3.0, seed=1)


def read_hardware(path: Path) -> None:
    from fluidwait.device.hardware import load_hardware

    hardware = load_hardware(path)
    assert hardware.kv_blocks >= 1
    hardware.time_model()


def read_policy(path: Path) -> None:
    from fluidwait.policies import load_policy
    from fluidwait.policies.contract import Context
    from fluidwait.workload import LengthLaw

    law = LengthLaw(np.array([20.0, 30.0]), np.array([5.0, 12.0]), np.array([0.5, 0.5]))
    load_policy(path).prepare(Context(law, 1.0, A100, (0.0106, 4e-7), 4000, True))


def read_experiment(path: Path) -> None:
    from fluidwait.experiments.experiment import load_experiment

    experiment = load_experiment(path)
    for scale in experiment.scales:
        experiment.rates_at(scale)


def read_study(path: Path) -> None:
    from fluidwait.studies.registry import load_study

    load_study(path)


def read_claims(path: Path) -> None:
    from fluidwait.claims.claim import load_claims

    load_claims(path)


def read_target(path: Path) -> None:
    from fluidwait.real.target import load_target

    load_target(str(path), {}, {})


def read_trace(path: Path) -> None:
    from fluidwait.workload.table import make_table

    out = path.parent / "made.csv"
    make_table(path, out)
    out.unlink()


def read_histogram(path: Path) -> None:
    from fluidwait.workload.table import read_table

    read_table(path)


def read_iterations(path: Path) -> None:
    from fluidwait.device.iteration_times import calibrate_iterations

    out = path.parent / "made.yaml"
    calibrate_iterations(path, ROOT / "data" / "hardware" / "a100-80g_llama-2-7b.yaml", out)
    out.unlink()


def read_bundle(path: Path) -> None:
    from fluidwait.real.bundle import read_bundle as read

    read(path.rename(path.with_name("bundle.json")).parent)


def read_sidecar(path: Path) -> None:
    from fluidwait.artifacts.verify import verify

    path.rename(path.with_name("table.csv.json"))
    (path.parent / "table.csv").write_text("a\n1\n")
    verify(path.parent)


def _trace() -> bytes:
    return b"arrival,prompt,output\n" + b"".join(b"%d.5,%d,%d\n" % (i, 10 + i, 1 + i % 7) for i in range(40))


def _iterations() -> bytes:
    g = np.random.default_rng(0)
    lines = ["prefill_chunks,decodes,decode_context,seconds"]
    for _ in range(60):
        chunk, decodes = int(g.integers(1, 300)), int(g.integers(0, 20))
        lines.append(f"{chunk}@0,{decodes},{decodes * 40},{0.01 + 1e-4 * chunk + 1e-5 * decodes}")
    return "\n".join(lines).encode()


def _sidecar() -> bytes:
    """That of an artifact which was made just now."""
    from fluidwait.artifacts.sidecar import write_artifact
    from fluidwait.base.files import sidecar_path

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "table.csv"
        write_artifact(
            out,
            lambda path, _: path.write_text("a\n1\n"),
            config={"rates": [1.0, float("inf")], "policy": {"name": "x"}},
            inputs=[ROOT / "config" / "workloads" / "p512d20.yaml"],
            code=["fluidwait.base.errors"],
            rule="fuzz",
        )
        return sidecar_path(out).read_bytes()


READERS = {
    "workload": Reader(("config/workloads/*.yaml",), read_workload),
    "hardware": Reader(("data/hardware/*.yaml",), read_hardware),
    "policy": Reader(("config/policies/*.yaml",), read_policy),
    "experiment": Reader(("config/experiments/*.yaml",), read_experiment),
    "study": Reader(("config/studies/*.yaml",), read_study),
    "claims": Reader(("paper/claims.yaml",), read_claims),
    "target": Reader(("config/real/*.yaml",), read_target),
    "histogram": Reader(("data/lengths/*.csv", "data/workloads/*.csv"), read_histogram),
    "bundle": Reader(("data/*/*/bundle.json",), read_bundle),
    "trace": Reader((), read_trace),
    "iterations": Reader((), read_iterations),
    "sidecar": Reader((), read_sidecar),
}
MADE = {"trace": _trace, "iterations": _iterations, "sidecar": _sidecar}
"""Inputs of which no small one ships."""


@functools.cache
def originals(kind: str) -> list[tuple[str, bytes]]:
    """(suffix, content) of the files of a kind, at most 200 lines of each."""
    if kind in MADE:
        return [(".json" if kind == "sidecar" else ".csv", MADE[kind]())]
    paths = sorted(path for pattern in READERS[kind].files for path in ROOT.glob(pattern))
    return [(p.suffix, b"\n".join(p.read_bytes().split(b"\n")[: 200 if p.suffix == ".csv" else None])) for p in paths]


def one_input(seed: int, folder: Path) -> str:
    g = np.random.default_rng([seed, 1])
    kinds = [kind for kind in READERS if originals(kind)]
    kind = kinds[int(g.integers(len(kinds)))]
    suffix, content = originals(kind)[int(g.integers(len(originals(kind))))]
    path = folder / f"input{suffix}"
    path.write_bytes(mutated(g, content))
    try:
        READERS[kind].read(path)
        return "read"
    except FluidwaitError as error:
        check_line(str(error))
        return "refused"
    finally:
        known = {"input" + suffix, "bundle.json", "table.csv", "table.csv.json"}
        left = sorted(p.name for p in folder.iterdir() if p.name not in known)
        clear(folder)
        if left and not isinstance(sys.exc_info()[1], Exception):
            raise Fault(f"{kind}: left behind: {left}")


def check_line(message: str) -> None:
    if "\n" in message or not message.strip() or len(message) > 2000:
        raise Fault(f"not one line: {message[:300]!r}")


def clear(folder: Path) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


# --- commands --------------------------------------------------------------------------------------------------------

ODD_OUTPUTS = [
    "out.parquet",
    "out.parquet",
    ".",
    "",
    "..",
    "/dev/null",
    "a" * 240,
    "no/such/folder/out",
    "out\udcff.csv",
]
ODD_OUTPUTS += ["é≥.csv", "folder", "loop/out.csv", "x" * 5000, "out.json"]


def one_command(seed: int, folder: Path) -> str:
    g = np.random.default_rng([seed, 2])
    work = folder / "work"
    (work / "folder").mkdir(parents=True)
    (work / "loop").symlink_to("loop")
    out = str(g.choice(len(ODD_OUTPUTS)))
    out = ODD_OUTPUTS[int(out)]
    arguments, writes = _arguments(g, work, out)
    environment, stdout = _environment(g)
    command = [sys.executable, "-m", "fluidwait", *arguments]
    done = subprocess.run(
        [b if isinstance(b, bytes) else os.fsencode(b) for b in command],
        cwd=work,
        env=environment,
        stdout=stdout,
        stderr=subprocess.PIPE,
        timeout=PATIENCE["commands"] * IDLE / 2,
    )
    told = done.stderr.decode(errors="replace")
    if hasattr(stdout, "close"):
        stdout.close()
    shown = f"{arguments} -> {done.returncode}: {told[-1500:]}"
    if "Traceback" in told or done.returncode not in (0, 1, 2):
        raise Fault(shown)
    if done.returncode == 2 and len([line for line in told.splitlines() if line.startswith("fluidwait: error")]) != 1:
        raise Fault("not one line of error: " + shown)
    known = {"folder", "loop", *(p.name for p in work.iterdir() if p.name.startswith("input"))}
    left = {str(p.relative_to(work)) for p in work.rglob("*") if p.name not in known and not p.is_dir()}
    if any(".tmp" in name for name in left) or (left and done.returncode != 0) or (left and not writes):
        raise Fault(f"left behind {sorted(left)}: " + shown)
    if writes == "artifact" and any(name + ".json" not in left for name in left if not name.endswith(".json")):
        raise Fault(f"without a sidecar {sorted(left)}: " + shown)
    return f"exit {done.returncode}"


def _arguments(g: np.random.Generator, work: Path, out: str) -> tuple[list[str], str]:
    """(arguments, what the command writes: '', 'file' or 'artifact')"""

    def an_input(kind: str) -> str:
        suffix, content = originals(kind)[int(g.integers(len(originals(kind))))]
        path = work / f"input-{kind}{suffix}"
        path.write_bytes(mutated(g, content) if g.random() < 0.6 else content)
        return str(path)

    run = ["simulate", "--policy", "sarathi", "--workload", "p512d20", "--rate", "10", "--requests", "60"]
    odd = str(g.choice(["0", "-1", "1e400", "nan", "x", "10000000000000000000000", ""]))
    kinds = [
        lambda: ([*run[:2], an_input("policy"), *run[3:], "--out", out], "artifact"),
        lambda: ([*run[:4], an_input("workload"), *run[5:], "--out", out], "artifact"),
        lambda: ([*run, "--hardware", an_input("hardware"), "--out", out], "artifact"),
        lambda: ([*run[:-1], odd], ""),
        lambda: ([*run, "--out", out], "artifact"),
        lambda: (["table", an_input("trace"), "--out", out], "file"),
        lambda: (["calibrate", "iterations", an_input("iterations"), "--template", _template(), "--out", out], "file"),
        lambda: (["thresholds", an_input("experiment"), "--json", out], "file"),
        lambda: (["verify", str(g.choice(["loop", "folder", "x" * 5000, ".", "loop/x"]))], ""),
        lambda: (["study", "toy", an_input("study"), "--scale", "quick", "--out", out], "artifact"),
        lambda: (["claims", "--scale", "quick", "--file", an_input("claims"), "--no-write"], ""),
        lambda: (["real", "tables", str(work), "--e9", "folder", "--e10", "folder"], ""),
        lambda: (
            [
                "experiment",
                "summary",
                "e1",
                an_input("trace"),
                "--stability",
                "s.csv",
                "--boundary",
                an_input("trace"),
                "--out",
                out,
            ],
            "",
        ),
        lambda: (
            [
                "report",
                "document",
                "paper/report.typ",
                an_input("trace"),
                "--data",
                "data.json",
                "--scale",
                "quick",
                "--out",
                out,
            ],
            "",
        ),
        lambda: (["policies"], ""),
        lambda: ([str(word) for word in g.choice(["--out", "x", "simulate", "é", "--", "-h", "\0a"[1:]], 3)], "file"),
    ]
    return kinds[int(g.integers(len(kinds)))]()


def _template() -> str:
    return str(ROOT / "data" / "hardware" / "a100-80g_llama-2-7b.yaml")


def _environment(g: np.random.Generator):
    """(environment, standard output)"""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "FLUIDWAIT_ROOT": str(ROOT)}
    if g.random() < 0.2:
        environment |= {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    if g.random() < 0.1:
        environment.pop("HOME", None)
        environment["FLUIDWAIT_ROOT"] = str(g.choice(["~", "~nobody-here/x", str(ROOT)]))
    if g.random() < 0.1:
        return environment, open("/dev/full", "wb")
    return environment, subprocess.DEVNULL


# --- simulations -----------------------------------------------------------------------------------------------------

NO_TIME = TimeModel(0.0, 0.0, np.zeros(1), 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
CLOCKS = {"a100": A100, "linear": linear(0.01, 1e-5), "eighths": linear(0.125, 0.0), "none": NO_TIME}


def one_simulation(seed: int, folder: Path) -> str:
    g = np.random.default_rng([seed, 3])
    case = corner_case(seed, paper=True)
    clock = str(g.choice(list(CLOCKS), p=[0.6, 0.2, 0.19, 0.01]))
    case = case._replace(time_model=CLOCKS[clock])
    alone = g.random() < 0.1
    try:
        policy, knobs = prepared(case.spec, case.requests, case.time_model, case.semantics)
        if alone:
            case = case._replace(requests=Requests(*(column[:1] for column in case.requests)))
        run = simulate(case.requests, policy, knobs, case.time_model, case.semantics, check=True, log=True)
    except FluidwaitError as error:
        check_line(str(error))
        if "nearest valid value" in str(error) or "the KV memory has" in str(error):
            return "refused"
        if clock == "none" and "no end in sight" in str(error):
            return "no end told"
        raise Fault(f"{case.spec} {case.semantics}: {error}") from None
    check_laws(case, run, clock)
    return "evicting" if run.evictions.sum() else "run"


def check_laws(case, run, clock: str) -> None:
    """Causality, memory, the tokens that were computed, and what a request takes that is alone."""
    some, log = case.requests, run.log
    tokens, evictions = log[:, LOG_COLUMNS.index("tokens")], int(run.evictions.sum())
    laws = {
        "causality": np.all(some.arrival <= run.first_token) and np.all(run.first_token <= run.completion),
        "memory": 0 < run.peak_blocks <= case.semantics.blocks,
        "iterations one after another": np.all(np.diff(log[:, 0]) >= log[:-1, 1] - TOLERANCE * (1 + log[:-1, 0])),
        "busy": run.busy <= run.completion.max() - some.arrival.min() + 1e-6,
        "no tokens for nothing": np.all(tokens > 0),
    }
    work = some.output - 1 if case.semantics.prefill_emits else some.output
    work = int(work.sum() + (len(some.prompt) if case.semantics.remote_prefill else some.prompt.sum()))
    laws["tokens"] = tokens.sum() == work if evictions == 0 else tokens.sum() > work
    if len(some.arrival) == 1:
        alone = run.completion[0] - some.arrival[0]
        laws["alone: never evicted"] = evictions == 0
        laws["alone: the sum of its iterations"] = abs(alone - log[:, 1].sum()) <= 1e-9 * (1 + run.completion[0])
    for law, holds in laws.items():
        if not holds:
            raise Fault(f"{law}: {clock} {case.spec} {case.semantics}")


def one_comparison(seed: int, folder: Path) -> str:
    from fluidwait.engines.vidur import native_policies

    case = corner_case(seed)
    try:
        policy, knobs = prepared(case.spec, case.requests, case.time_model, case.semantics)
        ours = simulate(case.requests, policy, knobs, case.time_model, case.semantics)
    except FluidwaitError as error:
        if "nearest valid value" in str(error) or "the KV memory has" in str(error):
            return "refused"
        raise Fault(f"{case.spec} {case.semantics}: {error}") from None
    native = case.spec["policy"] in native_policies(case.semantics)
    try:
        theirs = in_vidur(case, native=native)
    except FluidwaitError as error:
        raise Fault(f"{case.spec} {case.semantics}: {error}") from None
    apart = max(np.abs(ours.first_token - theirs.first_token).max(), np.abs(ours.completion - theirs.completion).max())
    if (
        apart > TOLERANCE
        or ours.evictions.tolist() != theirs.evictions.tolist()
        or ours.iterations != theirs.iterations
    ):
        counts = f"{ours.evictions.sum()} evictions against {theirs.evictions.sum()}"
        raise Fault(f"{apart:.3g} s apart, {counts}: {case.spec} {case.semantics}")
    return "native" if native else "ours in Vidur"


# --- workers and their watchdog --------------------------------------------------------------------------------------

ONE = {"inputs": one_input, "commands": one_command, "simulations": one_simulation, "vidur": one_comparison}


def work(kind: str, first: int, count: int) -> None:
    """Run seeds one after another; a line before each, and one after it with its outcome or its fault."""
    if kind != "commands":
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for seed in range(first, first + count):
            print("at", seed, flush=True)
            try:
                outcome = ONE[kind](seed, folder)
            except Exception as error:
                text = str(error) if isinstance(error, Fault) else "".join(traceback.format_exception(error)[-4:])
                print("fault", ascii(text), flush=True)
            else:
                print("done", outcome, flush=True)
            clear(folder)


def watch(kind: str, first: int, count: int) -> tuple[Counter, list[tuple[int, str]]]:
    """(outcomes, faults by seed) of a range of seeds, run by workers that are killed when they hang."""
    outcomes, faults, following = Counter(), [], first
    while following < first + count:
        command = [sys.executable, __file__, "--worker", kind, str(following), str(first + count - following)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ | {"WANDB_MODE": "disabled"})
        for line in lines_of(process, PATIENCE[kind]):
            word, _, rest = line.partition(" ")
            if word == "at":
                following = int(rest) + 1
                if (following - first) % max(1, count // 20) == 0:
                    print(f"{kind}: {following - first} of {count}, {len(faults)} faults", file=sys.stderr, flush=True)
            elif word == "done":
                outcomes[rest] += 1
            elif word in ("fault", "hang", "died"):
                faults.append((following - 1, rest or word))
                print(f"{kind} seed {following - 1}: {word} {rest[:1500]}", flush=True)
    return outcomes, faults


def lines_of(process: subprocess.Popen, patience: float):
    """Lines that a worker prints; ``hang`` when none came in time, ``died`` when it ended in the midst of a seed."""
    buffer, inside, fd = b"", False, process.stdout.fileno()
    used, since, most = 0.0, time.monotonic(), patience + COMPILING
    while True:
        if not select.select([fd], [], [], 1.0)[0]:
            if _processor_time(process.pid) - used < most and time.monotonic() - since < IDLE * most:
                continue
            process.kill()
            process.wait()
            yield "hang"
            return
        chunk = os.read(fd, 1 << 16)
        if not chunk:
            process.wait()
            if inside or process.returncode:
                yield "died"
            return
        *whole, buffer = (buffer + chunk).split(b"\n")
        for line in whole:
            text = line.decode(errors="replace")
            if inside and not text.startswith("at "):  # a seed is done
                most = patience
            inside = text.startswith("at ")
            used, since = _processor_time(process.pid), time.monotonic()
            yield text


def _processor_time(pid: int) -> float:
    """Seconds of processor that a process and its children have used; 0 once it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--share", type=float, default=0.05, help="of the full size")
    parser.add_argument("--only", choices=FULL, help="one kind; all without")
    parser.add_argument("--count", type=int, help="seeds of each kind, instead of the share")
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        kind, first, count = options.worker
        work(kind, int(first), int(count))
        return 0
    failed = 0
    for kind in [options.only] if options.only else FULL:
        count = options.count if options.count is not None else max(1, round(FULL[kind] * options.share))
        start = time.perf_counter()
        outcomes, faults = watch(kind, options.seed, count)
        told = ", ".join(f"{number} {outcome}" for outcome, number in sorted(outcomes.items()))
        seconds = time.perf_counter() - start
        print(
            f"{kind}: seeds {options.seed} to {options.seed + count - 1}, {seconds:.0f} s: {told}; {len(faults)} faults"
        )
        for seed, _ in faults:
            print(f"  again: python benchmarks/fuzz.py --only {kind} --seed {seed} --count 1")
        failed += len(faults)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
