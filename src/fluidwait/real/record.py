"""Record a bundle: calibrate the engine on this machine (E9), then run every policy on it (E10).

One engine serves all of it. Points that were finished before are not measured again, so a recording that was cut short
goes on where it stopped; runs go replication by replication, so what there is can be used. Policies take turns, and in
every other turn in reverse order, so that a machine that slows down does not favour one.
"""

from __future__ import annotations

import asyncio
import datetime
import os
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from fluidwait.artifacts.canonical import config_hash, file_sha256
from fluidwait.artifacts.code import code_fingerprint
from fluidwait.base.files import write_text
from fluidwait.device.hardware import load_hardware
from fluidwait.device.iteration_times import calibrate_iterations
from fluidwait.engines.vllm import calibrate
from fluidwait.engines.vllm.load import engine as loadgen_engine
from fluidwait.engines.vllm.load import generator as loadgen
from fluidwait.engines.vllm.load.engine import Engine
from fluidwait.real import bundle as bundles
from fluidwait.real.agenda import Agenda, Point
from fluidwait.real.bundle import Bundle, Description, Points
from fluidwait.real.evidence import evidence
from fluidwait.real.machine import describe_machine
from fluidwait.real.pace import COMPUTATION, Meter, Pace, worker_core
from fluidwait.real.packing import write_csv, write_paces, write_runs
from fluidwait.real.target import Mixed, Target
from fluidwait.workload import Requests, generate, input_files, load_workload

PATIENCE = 90.0
"""Seconds after the last arrival of a run at which unanswered requests are lost."""

SWEPT = 2000
"""Requests at hand for each token budget of a sweep; its time ends before."""

PACK_EVERY = 120.0
"""Seconds between two bundles of what there is: a recording that is killed leaves the last one."""

Say = Callable[[str], None]
_say = partial(print, flush=True)


def record(target: Target, folder: Path, say: Say = _say) -> Bundle:
    """Record into ``folder``, or go on where an earlier call stopped.

    Raises:
        ConfigError: vLLM is not installed or refuses the configuration.
        LoadError: a run lost a request.
    """
    try:
        return asyncio.run(_record(target, folder, say))
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


async def _record(target: Target, folder: Path, say: Say) -> Bundle:
    # Told to end, as a workflow or a batch system does, it must take the engine's processes along.
    task = asyncio.current_task()
    assert task is not None  # this coroutine's
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    session = _Session(target, folder, say)
    async with _LazyEngine(session) as lazy:
        await session.calibrate(lazy)
        await session.run_all(lazy)
    return session.pack()


class _LazyEngine:
    """Starts the engine, and the meter beside it, when the first point needs it; a finished recording needs none."""

    def __init__(self, session: _Session) -> None:
        self._session = session
        self._context: AbstractAsyncContextManager[Engine] | None = None
        self._engine: Engine | None = None
        self._meter: Meter | None = None

    async def __aenter__(self) -> _LazyEngine:
        return self

    async def __aexit__(self, *error: Any) -> None:
        if self._meter is not None:
            self._meter.close()
        if self._context is not None:
            await self._context.__aexit__(*error)

    async def get(self) -> Engine:
        if self._engine is None:
            target, folder = self._session.target, self._session.folder / ".model"
            self._session.say(f"starting vLLM {self._session.version} with {target.model.weights / 1e6:.0f} M weights")
            context = loadgen_engine.start(target.model, target.engine, folder)
            self._engine = await context.__aenter__()
            self._context = context
            self._session.settled = await self._engine.describe()
            core = worker_core() if target.device == "cpu" else None
            self._meter = None if core is None else Meter(core)
        return self._engine

    async def metered(self, measure: Callable[[Engine], Awaitable[list]]) -> dict[str, Any]:
        """What is measured, ``rows``, the ``pace`` of the machine meanwhile, and whether the engine plans ahead."""
        engine = await self.get()
        self.pace()
        rows = await measure(engine)
        settled = self._session.settled
        return {"rows": rows, "pace": self.pace().tolist(), "asynchronous": bool(settled["async_scheduling"])}

    def pace(self) -> np.ndarray:
        """Samples of the meter since the last call; none where there is no meter."""
        return np.zeros((0, 2)) if self._meter is None else self._meter.take()


class _Session:
    """What a recording knows while it goes on."""

    def __init__(self, target: Target, folder: Path, say: Say) -> None:
        self.target, self.folder, self.say = target, folder, say
        self.version = loadgen_engine.engine_version()
        self.device = describe_machine(target.device)
        self.points = Points(self.folder)
        self.settled: dict[str, Any] = {}
        self.paces: dict[str, list] = {}  # samples of the meter by point of the calibration
        self.reference: float | None = None  # s of a sample at pace 1; None without a meter
        self.began = time.monotonic()
        self.loads: list[float] = []
        self.planned = self.calibrations = 0
        self.measured = False  # whether this session added a point
        self.before = _described(folder)  # the bundle of earlier sessions
        self.agenda = Agenda(target, folder, self.before)

    # --- calibration ---

    async def calibrate(self, lazy: _LazyEngine) -> None:
        """Measure iterations and generations, and write the tables and the hardware file made of them, at pace 1."""
        target, vocabulary = self.target, self.target.engine.vocabulary
        engine_tokens = target.engine.kv_blocks * target.engine.block_size

        async def bursts(engine: Engine) -> list:
            return (await calibrate.measure_bursts(engine, target.bursts, vocabulary, engine_tokens)).tolist()

        def clients(mixed: Mixed) -> Callable[[Engine], Awaitable[list]]:
            async def measure(engine: Engine) -> list:
                requests = self._closed(mixed.workload, mixed.requests)
                parts = [await calibrate.measure_mixed(engine, requests, n, vocabulary) for n in mixed.in_flight]
                return np.concatenate(parts).tolist()

            return measure

        async def sweeps(engine: Engine) -> list:
            parts = [
                await calibrate.measure_sweep(engine, self._closed(s.workload, SWEPT), s, vocabulary)
                for s in target.sweeps
            ]
            return np.concatenate(parts).tolist()

        async def generations(engine: Engine) -> list:
            return (await calibrate.measure_generations(engine, target.generation, vocabulary)).to_dicts()

        loads: dict[str, tuple[Any, Callable[[Engine], Awaitable[list]]]] = {
            "bursts": (target.bursts, bursts),
            "mixed": ([target.mixed, target.seed], clients(target.mixed)),
        }
        if target.sweeps:
            loads["sweeps"] = [target.sweeps, target.seed], sweeps
        fitted = list(loads)
        if target.validation is not None:
            loads["validation"] = [target.validation, target.seed], clients(target.validation)
        loads["generations"] = target.generation, generations
        self.calibrations = len(loads)
        found = {
            name: await self._point(name, identity, partial(lazy.metered, measure))
            for name, (identity, measure) in loads.items()
        }
        self.paces = {name: part["pace"] for name, part in found.items()}
        taken = np.concatenate([np.reshape(found[name]["pace"], (-1, 2)) for name in fitted])
        self.reference = Pace(taken).reference if len(taken) else None
        write_csv(self.folder / "iterations.csv", self._composed([found[name] for name in fitted]))
        if target.validation is not None:
            write_csv(self.folder / bundles.VALIDATION, self._composed([found["validation"]]))
        whole = found["generations"]
        table = pl.DataFrame(whole["rows"])
        begin, end = table["begin"].to_numpy(), (table["begin"] + table["seconds"]).to_numpy()
        paces = pl.Series(Pace(whole["pace"], self.reference).during(begin, end))
        write_csv(self.folder / "generations.csv", table.with_columns(pl.col("seconds") / paces).drop("begin"))
        calibrate_iterations(self.folder / "iterations.csv", target.header(), self.folder / "hardware.yaml")

    def _closed(self, workload: str, n: int) -> Requests:
        """Requests for clients that wait for their answers; the arrivals do not matter."""
        return generate(load_workload(workload), n=n, rate=1.0, seed=self.target.seed + 1)

    def _composed(self, parts: list[dict[str, Any]]) -> pl.DataFrame:
        """Iterations at pace 1 as they are fitted; each part by itself, for its clock may have started anew."""
        rows = []
        for part in parts:
            own = np.array(part["rows"])
            own[:, 1] /= Pace(part["pace"], self.reference).during(own[:, 0], own[:, 0] + own[:, 1])
            rows.append(own)
        ahead = any(part.get("asynchronous") for part in parts)
        return calibrate.grouped(rows) if ahead else calibrate.medians(np.concatenate(rows))

    # --- runs ---

    async def run_all(self, lazy: _LazyEngine) -> None:
        hardware = load_hardware(self.folder / "hardware.yaml")
        points = self.agenda.points(hardware)
        self.planned, packed = len(points) + self.calibrations, time.monotonic()
        for number, point in enumerate(points):
            if not self._has(point) and time.monotonic() - self.began > self.target.budget:
                self.say(f"out of time after {number} of {len(points)} runs; run again to go on")
                return
            data = await self._point(point.name, self.agenda.identity(point), partial(self._run, lazy, point))
            latency = np.mean(np.array(data["completion"]) - np.array(data["arrival"]))
            self.say(f"{number + 1}/{len(points)} {point.name}: {point.rate:g}/s, mean latency {latency:.3f} s")
            if time.monotonic() - packed > PACK_EVERY:
                self.pack()
                packed = time.monotonic()

    async def _run(self, lazy: _LazyEngine, point: Point) -> dict[str, Any]:
        engine = await lazy.get()
        requests = self.agenda.requests(point)
        await engine.use(*self.agenda.scheduler(point), blocks=self.target.blocks(point.variant))
        one = Requests(*(column[:1] for column in requests))
        await loadgen.offer(one._replace(arrival=np.zeros(1)), engine.send, vocabulary=self.target.engine.vocabulary)
        await engine.log()
        lazy.pace()
        answers = await loadgen.offer(
            requests,
            engine.send,
            vocabulary=self.target.engine.vocabulary,
            seed=point.replication,
            patience=PATIENCE + len(requests.arrival) / point.rate,
        )
        log = await engine.log()
        evictions = loadgen_engine.evictions(log, len(requests.arrival))
        columns = loadgen.columns_of(requests, answers, evictions)
        rows, pace = log.rows.copy(), lazy.pace()
        for moments in (rows, pace):
            moments[:, 0] -= answers.start
        return {name: column.tolist() for name, column in columns.items()} | {
            "sent": answers.sent.tolist(),
            "log": rows.tolist(),
            "pace": pace.tolist(),
            "drift": loadgen.drift(requests, answers)._asdict(),
            "load": os.getloadavg()[0],
        }

    # --- points ---

    def _key(self, identity: Any) -> str:
        target = self.target
        return config_hash(
            {
                "engine": [self.version, target.engine, target.model],
                "device": self.device["name"],
                "meter": COMPUTATION if target.device == "cpu" else None,
                "point": identity,
            }
        )

    def _has(self, point: Point) -> bool:
        return self.points.get(point.name, self._key(self.agenda.identity(point))) is not None

    async def _point(self, name: str, identity: Any, measure: Callable[[], Awaitable[Any]]) -> Any:
        """The point of that name, measured now unless it was before."""
        key = self._key(identity)
        data = self.points.get(name, key)
        if data is None:
            self.say(f"measuring {name}")
            data = await measure()
            self.points.put(name, key, data)
            self.measured = True
        self.loads.append(data.get("load", os.getloadavg()[0]))
        return data

    # --- the bundle ---

    def pack(self) -> Bundle:
        """Write the files of the bundle from the points."""
        hardware = load_hardware(self.folder / "hardware.yaml")
        known = [
            (point, self.points.get(point.name, self._key(self.agenda.identity(point))))
            for point in self.agenda.points(hardware)
        ]
        runs = [(point, data) for point, data in known if data is not None]
        key = config_hash({"target": self.target, "engine": self.version, "device": self.device["name"]})
        if runs:
            options = {"engine": f"vllm {self.version}", "policy": "all", "config_hash": key}
            write_runs(self.folder, runs, [self._key(self.agenda.identity(point)) for point, _ in runs], options)
        paces = self.paces | {point.name: data["pace"] for point, data in runs}
        write_paces(self.folder, paces)
        target = self.target
        files = bundles.TABLES + (bundles.RUNS if runs else ())
        files += () if target.validation is None else (bundles.VALIDATION,)
        workloads = {target.mixed.workload, *(s.workload for s in target.sweeps)}
        workloads |= {v.workload for v in target.variants.values()}
        workloads |= set() if target.validation is None else {target.validation.workload}
        about = Description(
            machine=self.device["short"],
            device={k: v for k, v in self.device.items() if k != "short"},
            engine={
                "name": "vllm",
                "version": self.version,
                "options": loadgen_engine.engine_options(Path("model"), target.engine),
                "settled": self.settled or (self.before.engine["settled"] if self.before else {}),
            },
            target=target,
            pace=self.reference,
            bounds=self.agenda.bounds(hardware),
            config_hash=key,
            data={p.name: file_sha256(p) for name in sorted(workloads) for p in input_files(load_workload(name))},
            code=code_fingerprint(self.target.code()),
            recorded=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M"),
            load=[round(float(f(self.loads)), 2) for f in (np.min, np.mean, np.max)],
            seconds=round(time.monotonic() - self.began + (self.before.seconds if self.before else 0.0), 1),
            points=self.calibrations + len(runs),
            planned=self.planned,
            files={name: file_sha256(self.folder / name) for name in files},
        )
        if self.before and not self.measured:  # nothing new: it stays as it was recorded
            kept = ("code", "recorded", "load", "seconds")
            about = about.model_copy(update={name: getattr(self.before, name) for name in kept})
        self._describe(about)
        extra = evidence(bundles.read_bundle(self.folder))
        for name, table in extra.items():
            write_csv(self.folder / name, table)
        more = {name: file_sha256(self.folder / name) for name in extra}
        self._describe(about.model_copy(update={"files": about.files | more}))
        return bundles.read_bundle(self.folder)

    def _describe(self, about: Description) -> None:
        write_text(self.folder / bundles.DESCRIPTION, about.model_dump_json(indent=1) + "\n")


def _described(folder: Path) -> Description | None:
    """What an earlier session wrote, if any."""
    try:
        return Description.model_validate_json((folder / bundles.DESCRIPTION).read_bytes())
    except (OSError, ValueError):
        return None
