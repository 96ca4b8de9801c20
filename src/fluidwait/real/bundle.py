"""A bundle: what one machine measured, in a folder that explains itself.

    bundle.json          machine, engine version and options, configuration and its hash, data sets, what is complete
    iterations.csv       calibration: iterations by composition, median seconds at pace 1
    hardware.yaml        the time model fitted to them
    validation.csv       iterations of a load that took no part in the fit, where the target has one
    generations.csv      whole generations of equal requests, by batch size (E9), at pace 1
    pace.parquet         the machine's pace: samples of the meter in the calibration and in every run
    requests.parquet     every request of every run (E10), in the schema of all engines
    sent.parquet         when the load generator really sent it
    log.parquet          every iteration of every run, in the schema of all engines
    batches.parquet      what each of these iterations computed
    time_model.csv, single.csv, lmsys.csv    what the claims about the device are judged by

While it is recorded, finished points lie in ``.points`` and are not measured again.
"""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import polars as pl

from fluidwait.artifacts.canonical import file_sha256
from fluidwait.artifacts.records import Run, iter_runs
from fluidwait.base.errors import ConfigError, nearest
from fluidwait.base.files import atomic_path, write_text
from fluidwait.base.models import Strict
from fluidwait.base.paths import project_root, resolved
from fluidwait.base.tables import load_table
from fluidwait.device.hardware import Hardware, load_hardware
from fluidwait.real.pace import Pace
from fluidwait.real.target import Target

DESCRIPTION = "bundle.json"
TABLES = ("iterations.csv", "hardware.yaml", "generations.csv", "pace.parquet")
VALIDATION = "validation.csv"
RUNS = ("requests.parquet", "sent.parquet", "log.parquet", "batches.parquet")


class Description(Strict):
    """``bundle.json``."""

    record: Literal["fluidwait-bundle-2"] = "fluidwait-bundle-2"
    machine: str  # short name, of the folder too
    device: dict[str, Any]
    engine: dict[str, Any]  # version, options as passed and as the engine settled on them
    target: Target
    pace: float | None  # s of a sample of the meter at pace 1; None where none could run
    bounds: dict[str, float] = {}  # requests/s by variant: the capacity predicted when its rates were chosen
    config_hash: str  # of the target and the engine
    data: dict[str, str]  # SHA-256 by data set
    code: dict[str, str]  # SHA-256 of the source files of scheduler and policies
    recorded: str  # date, UTC
    load: list[float]  # processes that wanted a core, one-minute average: smallest, mean, largest over the points
    seconds: float  # that recording took, over all sessions
    points: int
    planned: int
    files: dict[str, str]  # SHA-256

    @property
    def complete(self) -> bool:
        return self.points == self.planned


class Bundle(NamedTuple):
    folder: Path
    about: Description

    @property
    def target(self) -> Target:
        return self.about.target

    def path(self, name: str) -> Path:
        return self.folder / name

    def hardware(self) -> Hardware:
        return load_hardware(self.path("hardware.yaml"))

    def has_runs(self) -> bool:
        return "requests.parquet" in self.about.files

    def runs(self) -> Iterator[Run]:
        """Requests run by run; parameters are variant, policy, share, rate, replication and more."""
        return iter_runs(self.path("requests.parquet"))

    def paces(self) -> dict[str, Pace]:
        """The machine's pace in each run, on the clock of its arrivals; always 1 where there was no meter."""
        samples = pl.read_parquet(self.path("pace.parquet")).partition_by("run_id", as_dict=True, include_key=False)
        found = {name: Pace(table.to_numpy(), self.about.pace) for (name,), table in samples.items()}
        return defaultdict(lambda: Pace([]), found)

    def generations(self) -> pl.DataFrame:
        return load_table(self.path("generations.csv"))


def read_bundle(folder: str | Path) -> Bundle:
    """Read and check a bundle.

    Raises:
        ConfigError: no bundle there, or a file of it is missing or was changed since.
    """
    folder = Path(folder)
    path = folder / DESCRIPTION
    try:
        about = Description.model_validate_json(path.read_bytes())
    except OSError:
        raise ConfigError(f"{path}: no bundle here{_near(folder)}") from None
    except ValueError as error:
        raise ConfigError(f"{path}: not the description of a bundle ({str(error).splitlines()[0]})") from None
    for name, expected in about.files.items():
        if file_sha256(folder / name) != expected:
            raise ConfigError(f"{folder / name}: changed since the bundle was recorded")
    return Bundle(folder, about)


def home(device: str, machine: str) -> Path:
    """Folder of a machine's bundle in the project."""
    return project_root() / "data" / device / machine


def keep(bundle: Bundle) -> Path:
    """Copy a bundle, without what is needed to go on with it, to the project's data; returns the folder."""
    folder = home(bundle.target.device, bundle.about.machine)
    if resolved(folder) == resolved(bundle.folder):
        return folder
    for name in (*bundle.about.files, DESCRIPTION):  # the description last: it makes the folder a bundle
        with atomic_path(folder / name) as temporary:
            shutil.copyfile(bundle.path(name), temporary)
    return folder


def committed(device: str) -> list[Path]:
    """Folders of the bundles that come with the project, ``data/<cpu or gpu>/<machine>``."""
    return sorted(path.parent for path in (project_root() / "data" / device).glob(f"*/{DESCRIPTION}"))


class Points:
    """Finished points of a recording: one JSON file each, kept over interruptions."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / ".points"

    def get(self, name: str, key: str) -> Any | None:
        """What was measured under this name, or None when it was not, or under another configuration."""
        try:
            point = json.loads(self._path(name).read_bytes())
        except (OSError, ValueError):
            return None
        return point["data"] if point.get("key") == key else None

    def put(self, name: str, key: str, data: Any) -> None:
        write_text(self._path(name), json.dumps({"key": key, "data": data}))

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.json"


def _near(folder: Path) -> str:
    if not folder.parent.is_dir():
        return ""
    return nearest(folder.name, [path.parent.name for path in folder.parent.glob(f"*/{DESCRIPTION}")])
