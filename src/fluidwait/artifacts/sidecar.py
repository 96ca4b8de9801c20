"""Artifacts and their sidecars: which configuration, inputs, code and packages made a file.

An artifact is a file under ``results/`` or ``figures/``. Next to it lies its sidecar ``<artifact>.json``. The artifact
is a function of its configuration, its inputs and the code alone, so running again gives the same bytes; what varies
from run to run (wall time, git commit, device) is told by the sidecar only.

The *configuration hash* is the SHA-256 of the canonical JSON of everything that can change the bytes: the resolved
configuration (with its seeds, engine name and engine version), the hashes of the inputs, and the fingerprint of the
code.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from fluidwait.artifacts.canonical import config_hash, file_sha256, plain
from fluidwait.artifacts.code import code_fingerprint
from fluidwait.artifacts.environment import PACKAGES, git_state, package_versions
from fluidwait.artifacts.inputs import Input, describe_input, root_folder
from fluidwait.base import files
from fluidwait.base.errors import ConfigError
from fluidwait.base.files import check_output, sidecar_path
from fluidwait.base.models import Strict
from fluidwait.base.paths import is_file


class Sidecar(Strict):
    """What is recorded about an artifact; the JSON file next to it."""

    record: Literal["fluidwait-sidecar-1"] = "fluidwait-sidecar-1"  # tells it from an artifact that is JSON itself
    artifact: str  # file name
    sha256: str  # of the artifact's bytes
    config_hash: str
    config: dict[str, Any]
    inputs: list[Input]
    code: dict[str, str]  # SHA-256 of each source file
    rule: str
    packages: dict[str, str]  # versions
    python: str
    git: dict[str, str | bool] | None  # None without git
    device: dict[str, str | int | None]
    wall_seconds: float


def artifact_hash(config: Mapping[str, Any] | BaseModel, inputs: Iterable[Input], code: Mapping[str, str]) -> str:
    """The configuration hash of an artifact: SHA-256 over its configuration, input hashes and code fingerprint."""
    return config_hash({"config": config, "inputs": {i.path: i.sha256 for i in inputs}, "code": code})


def write_artifact(
    path: str | Path,
    writer: Callable[[Path, str], Any],
    *,
    config: Mapping[str, Any] | BaseModel,
    inputs: Iterable[str | Path] = (),
    code: Iterable[str | Path] = (),
    rule: str,
    packages: Iterable[str] = PACKAGES,
    root: str | Path | None = None,
) -> str:
    """Write an artifact and its sidecar, both or neither, and return the configuration hash.

    Args:
        path: final path of the artifact.
        writer: called with a temporary path and the configuration hash; writes the file, and the hash into it where the
            format allows. Must write the same bytes for the same hash.
        config: everything that decides the bytes besides inputs and code, fully resolved: defaults, seeds, engine name
            and version.
        inputs: files read.
        code: modules, packages or scripts that compute the result; :func:`imported_modules` finds them.
        rule: name of the workflow rule or command that made it.
        packages: installed packages whose versions matter for this artifact.
        root: project root that recorded paths are relative to; that of :func:`fluidwait.base.paths.project_root` when
            not given.

    Raises:
        ConfigError: an input is missing, a module does not exist, or the folder cannot be written.
    """
    path = Path(path)
    check_output(path)
    root = root_folder(root)
    described = sorted((describe_input(i, root) for i in inputs), key=lambda i: i.path)
    prints = code_fingerprint(code, root)
    key = artifact_hash(config, described, prints)
    started = time.perf_counter()
    with files.temporary(sidecar_path(path)) as temporary_sidecar, files.temporary(path) as temporary:
        writer(temporary, key)
        sidecar = Sidecar(
            artifact=path.name,
            sha256=file_sha256(temporary),
            config_hash=key,
            config=plain(config),
            inputs=described,
            code=prints,
            rule=rule,
            packages=package_versions(packages),
            python=platform.python_version(),
            git=git_state(root),
            device={"machine": platform.machine(), "processors": os.cpu_count()},
            wall_seconds=round(time.perf_counter() - started, 3),
        )
        temporary_sidecar.write_bytes((sidecar.model_dump_json(indent=1) + "\n").encode())
        files.sync(temporary_sidecar)  # on disk before either has its name: what can fail has not failed
        files.made.append(path)
        files.move(temporary, path)
        files.move(temporary_sidecar, sidecar_path(path))
    return key


def read_sidecar(artifact: str | Path) -> Sidecar:
    """The sidecar of an artifact.

    Raises:
        ConfigError: it is missing, or not a sidecar.
    """
    path = sidecar_path(artifact)
    if not is_file(path):
        raise ConfigError(f"{artifact}: has no sidecar {path.name}")
    sidecar = parse_sidecar(path)
    if sidecar is None:
        raise ConfigError(f"{path}: not a sidecar of fluidwait")
    return sidecar


def parse_sidecar(path: Path) -> Sidecar | None:
    """The sidecar in a JSON file; None when that is no sidecar."""
    try:
        data = json.loads(path.read_bytes())
        if "record" not in data:
            return None
        plain(data)  # nested deeper than can be hashed
        return Sidecar.model_validate(data)
    except (OSError, ValueError, TypeError, ValidationError, RecursionError):
        return None
