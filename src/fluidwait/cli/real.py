"""Commands for the real engine: ``fluidwait real ...``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="vLLM itself: record a machine, keep and draw a recording, load a server.")

Out = Annotated[Path, typer.Option("--out", help="file to write")]
BundleFolder = Annotated[Path, typer.Argument(metavar="BUNDLE", help="folder with a bundle.json")]


@app.command()
def record(
    target: Annotated[str, typer.Argument(metavar="TARGET", help="name in config/real, or a YAML file")],
    out: Annotated[Path | None, typer.Option(help="folder; without it data/<device>/<machine>")] = None,
    budget: Annotated[float | None, typer.Option(min=1, help="seconds, instead of the target's")] = None,
    kv_blocks: Annotated[int | None, typer.Option(min=1, help="KV blocks, instead of the target's")] = None,
    rehearse: Annotated[bool, typer.Option("--rehearse", help="try the steps with a tiny model on this CPU")] = False,
) -> None:
    """Calibrate vLLM on this machine and run every policy on it; continues where it was interrupted."""
    from fluidwait.real.bundle import home
    from fluidwait.real.machine import describe_machine
    from fluidwait.real.record import record as run
    from fluidwait.real.target import load_target, rehearsal

    if rehearse and out is None:
        raise typer.BadParameter("a rehearsal needs --out: it is no measurement to keep", param_hint="--out")
    chosen = load_target(target, {"budget": budget}, {"kv_blocks": kv_blocks})
    if rehearse:
        chosen = rehearsal(chosen)
    bundle = run(chosen, out or home(chosen.device, describe_machine(chosen.device)["short"]))
    state = "complete" if bundle.about.complete else f"{bundle.about.points} of {bundle.about.planned} points"
    print(f"wrote {bundle.folder}: {state}, {bundle.about.seconds:.0f} s")


@app.command()
def keep(bundle: BundleFolder) -> None:
    """Copy a bundle to data/<device>/<machine>, so that it can be committed."""
    from fluidwait.real.bundle import keep as copy
    from fluidwait.real.bundle import read_bundle

    print(f"wrote {copy(read_bundle(bundle))}")


@app.command()
def draw(
    bundle: BundleFolder,
    name: Annotated[str, typer.Option("--as", help="name of the folders below results/ and figures/")] = "mine",
) -> None:
    """Tables and figures of E9 and E10 from any bundle, below results/NAME and figures/NAME."""
    from fluidwait.real.steps import machine_steps

    for step in machine_steps(bundle.resolve().name, bundle.as_posix(), name):
        step.make()
        print(f"wrote {step.outputs[0]} and {len(step.outputs) - 1} more")


@app.command()
def pack(
    source: Annotated[Path, typer.Argument(metavar="FOLDER", help="requests.csv, block_hashes.csv, engine.yaml, ...")],
    name: Annotated[str, typer.Option("--as", help="name of the folder below data/records")],
    title: Annotated[str, typer.Option(help="model and device, in words")],
    hardware: Annotated[str, typer.Option(help="name in data/hardware")],
    origin: Annotated[str, typer.Option(help="who recorded it, and the licence")],
) -> None:
    """Pack a published recording of vLLM so that the workflow replays it."""
    from fluidwait.real.published import pack as make

    packed = make(source, name, title, hardware, origin)
    print(f"wrote {packed.folder}: {packed.table.height} requests")


@app.command()
def load(
    url: Annotated[str, typer.Argument(help="URL of an OpenAI-compatible server, http://host:port")],
    workload: Annotated[str, typer.Option(help="name in config/workloads, or a YAML file")],
    rate: Annotated[float, typer.Option(min=1e-6, help="requests/s")],
    out: Out,
    requests: Annotated[int, typer.Option(min=1, help="number of requests")] = 100,
    seed: Annotated[int, typer.Option(min=0)] = 1,
    model: Annotated[str | None, typer.Option(help="name of the model (default: the server's first)")] = None,
    vocabulary: Annotated[int, typer.Option(min=4, help="prompts are random token ids below this")] = 1000,
) -> None:
    """Send a workload to a server, open loop, and record every request."""
    from fluidwait.real.load import load_server

    print(load_server(url, workload, rate, requests, seed, model, vocabulary, out))
