"""Whether artifacts still are what their sidecars say."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from fluidwait.artifacts.canonical import file_sha256
from fluidwait.artifacts.code import module_path, source_sha256
from fluidwait.artifacts.embedded import embedded_hash
from fluidwait.artifacts.environment import package_versions
from fluidwait.artifacts.inputs import Input, input_sha256, located, portable, root_folder
from fluidwait.artifacts.sidecar import Sidecar, artifact_hash, parse_sidecar, read_sidecar
from fluidwait.base.errors import ConfigError
from fluidwait.base.files import sidecar_path
from fluidwait.base.paths import is_file, is_folder, resolved

IGNORED = ("logs", "benchmarks")
"""Folders of a results tree that hold no artifacts."""

STALE, MISSING, ALTERED, UNTRACKED, ENVIRONMENT = "stale", "missing", "altered", "untracked", "environment"


class Finding(NamedTuple):
    """One thing wrong with one artifact.

    Attributes:
        path: the artifact, relative to the folder that was verified.
        status: ``stale`` (an input or the code has changed since), ``missing`` (the artifact or one of its inputs is
            gone), ``altered`` (the artifact or its sidecar was changed by hand), ``untracked`` (no sidecar) or
            ``environment`` (made by other package versions than those installed).
        detail: what exactly, in words.
    """

    path: str
    status: str
    detail: str


def verify(results_dir: str | Path, root: str | Path | None = None) -> list[Finding]:
    """Everything wrong with the artifacts below a folder, sorted by path; empty when all is well.

    Nothing is run again: inputs, code and package versions are compared with what each sidecar recorded. An artifact
    made from one that is stale, altered or missing is stale too.

    Raises:
        ConfigError: there is no such folder.
    """
    base = resolved(results_dir)
    if not is_folder(base):
        raise ConfigError(f"{results_dir}: no such folder")
    root = root_folder(root)
    sidecars, untracked = _inventory(base)
    found = {artifact: _findings(artifact, sidecar, root) for artifact, sidecar in sidecars.items()}
    _spread_staleness(found, sidecars, root)
    named = [Finding(a.relative_to(base).as_posix(), *f) for a, problems in found.items() for f in problems]
    named += [Finding(p.relative_to(base).as_posix(), UNTRACKED, "has no sidecar") for p in untracked]
    return sorted(named)


def verify_artifact(artifact: str | Path, root: str | Path | None = None) -> list[Finding]:
    """Everything wrong with one artifact and with those that it was made from, by path from ``root``; see
    :func:`verify`.

    Raises:
        ConfigError: the artifact has no sidecar.
    """
    root = root_folder(root)
    read_sidecar(artifact)
    found: list[Finding] = []
    todo, seen = [resolved(artifact)], set()
    while todo:
        path = todo.pop()
        if path in seen or not is_file(sidecar_path(path)):
            continue
        seen.add(path)
        sidecar = parse_sidecar(sidecar_path(path))
        found += [Finding(portable(path, root), *finding) for finding in _findings(path, sidecar, root)]
        todo += _made_from(sidecar, root)
    return sorted(found)


def artifacts(results_dir: str | Path) -> list[Path]:
    """Paths of the artifacts below a folder that have a sidecar, sorted."""
    return sorted(_inventory(resolved(results_dir))[0])


def _inventory(base: Path) -> tuple[dict[Path, Sidecar | None], list[Path]]:
    """Artifacts with their sidecars (None: cannot be read), and files that have none."""
    files = sorted(path for path in _files_below(base) if not _is_ignored(path.relative_to(base)))
    names = set(files)
    sidecars: dict[Path, Sidecar | None] = {}
    for path in files:
        artifact = path.with_name(path.name.removesuffix(".json"))
        if path.suffix == ".json":
            data = parse_sidecar(path)
            if data is not None or artifact in names:
                sidecars[artifact] = data
    known = set(sidecars) | {sidecar_path(a) for a in sidecars}
    return sidecars, [p for p in files if p not in known]


def _files_below(base: Path) -> Iterator[Path]:
    def unreadable(error: OSError) -> None:
        raise ConfigError(f"{error.filename or base}: cannot be read ({error.strerror})")

    for folder, _, names in os.walk(base, onerror=unreadable):
        for path in (Path(folder, name) for name in names):
            try:
                if path.is_file():
                    yield path
            except OSError as error:
                unreadable(error)


def _is_ignored(relative: Path) -> bool:
    return any(part.startswith(".") or part in IGNORED for part in relative.parts) or relative.suffix == ".log"


def _findings(artifact: Path, sidecar: Sidecar | None, root: Path) -> list[tuple[str, str]]:
    if sidecar is None:
        return [(ALTERED, "its sidecar cannot be read")]
    return [
        *_artifact_findings(artifact, sidecar),
        *(finding for i in sidecar.inputs for finding in _input_findings(i, root)),
        *_code_findings(sidecar.code, root),
        *_environment_findings(sidecar.packages, sidecar.python),
    ]


def _artifact_findings(artifact: Path, sidecar: Sidecar) -> Iterator[tuple[str, str]]:
    if artifact_hash(sidecar.config, sidecar.inputs, sidecar.code) != sidecar.config_hash:
        yield ALTERED, "its sidecar's configuration hash is not the hash of the configuration it holds"
    if sidecar.artifact != artifact.name:
        yield ALTERED, f"its sidecar is that of {sidecar.artifact}"
    if not is_file(artifact):
        yield MISSING, "its sidecar is there, the file is not"
    elif file_sha256(artifact) != sidecar.sha256:
        yield ALTERED, "its bytes are not those that were written"
    elif embedded_hash(artifact) not in (None, sidecar.config_hash):
        yield ALTERED, "the configuration hash inside it is not that of its sidecar"


def _input_findings(recorded: Input, root: Path) -> Iterator[tuple[str, str]]:
    path = located(recorded.path, root)
    if not is_file(path):
        yield MISSING, f"input {recorded.path} is gone"
        return
    try:
        changed = input_sha256(path, recorded.of) != recorded.sha256
    except ConfigError as error:
        yield STALE, f"input {recorded.path} cannot be read: {error}"
        return
    if changed:
        yield STALE, f"input {recorded.path} has changed"


def _code_findings(recorded: Mapping[str, str], root: Path) -> Iterator[tuple[str, str]]:
    for name, sha256 in recorded.items():
        try:
            # A package is recorded module by module, so its own name stands for its __init__.py alone.
            path = located(name, root) if name.endswith(".py") else module_path(name)
            changed = source_sha256(path, name) != sha256
        except ConfigError:
            yield STALE, f"code {name} is gone"
            continue
        if changed:
            yield STALE, f"code {name} has changed"


def _environment_findings(recorded: Mapping[str, str], python: str) -> Iterator[tuple[str, str]]:
    installed = package_versions(recorded)
    for name, version in recorded.items():
        if installed.get(name) != version:
            yield ENVIRONMENT, f"made with {name} {version}, installed is {installed.get(name, 'none')}"
    if python.split(".")[:2] != platform.python_version().split(".")[:2]:
        yield ENVIRONMENT, f"made with Python {python}, running is {platform.python_version()}"


def _spread_staleness(
    found: dict[Path, list[tuple[str, str]]], sidecars: Mapping[Path, Sidecar | None], root: Path
) -> None:
    """Make every artifact stale that was made from one that is not what it should be."""
    bad = {artifact for artifact, problems in found.items() if any(status != ENVIRONMENT for status, _ in problems)}
    todo = sorted(bad)
    while todo:
        source = todo.pop()
        for artifact, sidecar in sidecars.items():
            if source in _made_from(sidecar, root) and artifact not in bad:
                found[artifact].append((STALE, f"input {portable(source, root)} is itself not up to date"))
                bad.add(artifact)
                todo.append(artifact)


def _made_from(sidecar: Sidecar | None, root: Path) -> set[Path]:
    """The files that an artifact was made from, there or not."""
    paths = {located(i.path, root) for i in sidecar.inputs} if sidecar else set()
    found = set()
    for path in paths:
        with contextlib.suppress(ConfigError):  # links in a circle lead to no file
            found.add(resolved(path))
    return found
