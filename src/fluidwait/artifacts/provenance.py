"""Provenance: which configuration, inputs, code and packages made an artifact, and whether they still would.

An artifact is a file under ``results/`` or ``figures/``. Next to it lies its sidecar ``<artifact>.json``. The artifact
is a function of its configuration, its inputs and the code alone, so running again gives the same bytes; what varies
from run to run (wall time, git commit, device) is told by the sidecar only.

The *configuration hash* is the SHA-256 of the canonical JSON of everything that can change the bytes: the resolved
configuration (with its seeds, engine name and engine version), the hashes of the inputs, and the fingerprint of the
code.
"""

from __future__ import annotations

import ast
import contextlib
import datetime
import enum
import functools
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import re
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ValidationError

import fluidwait
from fluidwait.base import files as writing
from fluidwait.base.config import ConfigError, Strict, parse_yaml, read_text
from fluidwait.base.files import all_or_nothing, atomic_path, check_output, sidecar_path, write_text
from fluidwait.base.paths import is_file, is_folder, project_root, resolved

__all__ = ["all_or_nothing", "atomic_path", "check_output", "sidecar_path", "write_text"]

PACKAGES = ("fluidwait", "numpy", "scipy", "numba", "vidur", "polars", "pyarrow", "matplotlib")
"""Packages whose version can change the bytes of an artifact."""

IGNORED = ("logs", "benchmarks")
"""Folders of a results tree that hold no artifacts."""

_PACKAGE_DIR = Path(fluidwait.__file__).resolve().parent
_HASH_MARK = "fluidwait-config:"


# --- canonical JSON and hashes -------------------------------------------------------------------------------------


def canonical_json(value: Any) -> str:
    """JSON text that is equal exactly when the values are: sorted keys, no whitespace, floats by ``repr``.

    Models, tuples, paths, dates and NumPy numbers become their plain JSON counterpart; infinities and NaN, which JSON
    cannot say, become the strings ``inf``, ``-inf`` and ``nan`` (which parse back to the same float).

    Raises:
        TypeError: the value holds something that has no canonical form, such as a set.
    """
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def config_hash(config: Mapping[str, Any] | BaseModel) -> str:
    """SHA-256 (64 hex digits) of the canonical JSON of ``config``."""
    return hashlib.sha256(canonical_json(config).encode("utf-8", "surrogatepass")).hexdigest()


def file_sha256(path: str | Path) -> str:
    """SHA-256 (64 hex digits) of the bytes of a file.

    Raises:
        ConfigError: the file is missing or unreadable.
    """
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return _plain(value.model_dump())
    if isinstance(value, enum.Enum):
        return _plain(value.value)
    if isinstance(value, np.generic | np.ndarray):
        return _plain(value.tolist())
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else repr(float(value))
    if isinstance(value, os.PathLike):
        return Path(value).as_posix()
    if isinstance(value, datetime.date):  # YAML reads an unquoted date as one
        return value.isoformat()
    if isinstance(value, Mapping):
        return _plain_mapping(value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    raise TypeError(f"no canonical JSON for {type(value).__name__}")


def _plain_mapping(value: Mapping) -> dict[str, Any]:
    plain = {key if isinstance(key, str) else canonical_json(key): _plain(item) for key, item in value.items()}
    if len(plain) != len(value):
        raise TypeError("no canonical JSON for a mapping with both a number and its text as keys")
    return plain


# --- code ----------------------------------------------------------------------------------------------------------


def imported_modules(*roots: str) -> tuple[str, ...]:
    """Names of ``roots`` and of every fluidwait module that they import, directly or not, sorted.

    A root is a module of this package, or a file outside it (``policies/mine.py``, from the project's root). Read from
    the source without importing anything, so an import inside a function counts and one of a package that is not
    installed does no harm.

    Raises:
        ConfigError: a root is not a module of this package, or a file that cannot be read.
    """
    files = [root for root in roots if root.endswith(".py")]
    modules = [root for root in roots if root not in files]
    for file in files:  # read anew each time: it is the user's, who may be changing it
        modules += _modules_named_in(_source(project_root() / file, file), "", _PACKAGE_DIR)
    return tuple(sorted({*_imported_modules(tuple(modules), _PACKAGE_DIR), *files}))


@functools.cache
def _imported_modules(roots: tuple[str, ...], folder: Path) -> tuple[str, ...]:
    """The workflow asks for the same few roots for every job."""
    found: set[str] = set()
    todo = [name for root in roots for name in _with_parents(root)]
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo += _imports_of(name, folder)
    return tuple(sorted(found))


def code_fingerprint(modules: Iterable[str | Path], root: str | Path | None = None) -> dict[str, str]:
    """SHA-256 of each source file that computes a result, by name.

    A name is a module (``fluidwait.fluid.segments``; of a package only its own file), a package with all below it
    (``fluidwait.fluid.*``), or the path of a script, recorded relative to ``root``. Line endings do not count.

    Raises:
        ConfigError: no such module or script.
    """
    root = _root(root)
    prints: dict[str, str] = {}
    for module in modules:
        for name, path in _source_files(module, root):
            prints[name] = _source_sha256(path, name)
    return dict(sorted(prints.items()))


def _source_files(module: str | Path, root: Path) -> list[tuple[str, Path]]:
    if isinstance(module, Path) or str(module).endswith(".py"):
        return [(_portable(Path(module), root), root / module)]
    name = str(module)
    if not name.endswith(".*"):
        return [(name, _module_path(name))]
    folder = _module_path(name.removesuffix(".*")).parent
    return [(_module_name(p), p) for p in sorted(folder.rglob("*.py"))]


def _source_sha256(path: Path, name: str) -> str:
    return hashlib.sha256(_source(path, name).replace(b"\r\n", b"\n")).hexdigest()


def _source(path: Path, name: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        raise ConfigError(f"{name}: no such source file") from None


def _module_path(name: str) -> Path:
    base, *parts = name.split(".")
    stem = _PACKAGE_DIR.joinpath(*parts)
    candidates = [stem / "__init__.py", stem.with_suffix(".py")] if parts else [_PACKAGE_DIR / "__init__.py"]
    path = next((p for p in candidates if is_file(p)), None)
    if base != "fluidwait" or path is None:
        raise ConfigError(f"{name}: no such module in fluidwait")
    return path


def _module_name(path: Path) -> str:
    parts = path.relative_to(_PACKAGE_DIR).with_suffix("").parts
    return ".".join(("fluidwait", *(p for p in parts if p != "__init__")))


@functools.cache
def _imports_of(name: str, folder: Path) -> list[str]:
    path = _module_path(name)
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    return _modules_named_in(path.read_bytes(), package, folder)


def _modules_named_in(source: bytes, package: str, folder: Path) -> list[str]:
    """The fluidwait modules that the source of a module of ``package`` imports, with their parents."""
    # "from fluidwait.base.config import load" names a function: only what is a file is a module. A package's own file runs
    # whenever one of its modules is imported, so every parent counts.
    wanted = [found for found in _named_in(source, package) if found.split(".")[0] == "fluidwait"]
    return sorted({m for found in wanted for m in _with_parents(found) if m in _modules_below(folder)})


@functools.cache
def _modules_below(folder: Path) -> frozenset[str]:
    return frozenset(_module_name(path) for path in folder.rglob("*.py"))


def _named_in(source: bytes, package: str) -> list[str]:
    """Everything that a module of ``package`` imports: modules, and what is imported from them."""
    wanted: list[str] = []
    for node in _statements(ast.parse(source).body):
        if isinstance(node, ast.Import):
            wanted += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parent = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parent, *([node.module] if node.module else [])])
            wanted += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return wanted


def _statements(nodes: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """Statements at any depth, without their expressions, which are most of a tree and import nothing."""
    for node in nodes:
        yield node
        for part in ("body", "orelse", "finalbody", "handlers", "cases"):
            yield from _statements(getattr(node, part, ()))


def _with_parents(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts) + 1)]


# --- inputs --------------------------------------------------------------------------------------------------------


class Input(Strict):
    """A file that an artifact was made from.

    Attributes:
        path: relative to the project root, with forward slashes; ``$FLUIDWAIT_SHARED/...`` for a file in that folder.
        sha256: of the file's bytes, or of the canonical JSON of its content.
        of: ``bytes``, or ``content`` for YAML, where comments and layout do not count.
    """

    path: str
    sha256: str
    of: Literal["bytes", "content"]


def describe_input(path: str | Path, root: str | Path | None = None) -> Input:
    """The :class:`Input` of a file as it is now.

    Raises:
        ConfigError: the file is missing, unreadable, or YAML that does not parse.
    """
    path, root = Path(path), _root(root)
    of = "content" if path.suffix in (".yaml", ".yml") else "bytes"
    return Input(path=_portable(path, root), sha256=_input_sha256(path, of), of=of)


def _input_sha256(path: Path, of: str) -> str:
    if of != "content":
        return file_sha256(path)
    content = parse_yaml(read_text(path), path)
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()


def _root(root: str | Path | None) -> Path:
    return resolved(project_root() if root is None else root)


def _portable(path: Path, root: Path) -> str:
    shared = os.environ.get("FLUIDWAIT_SHARED")
    full = resolved(root / path)
    if shared and full.is_relative_to(resolved(shared)) and not full.is_relative_to(root):
        return "$FLUIDWAIT_SHARED/" + full.relative_to(resolved(shared)).as_posix()
    return Path(os.path.relpath(full, root)).as_posix()


def _located(portable: str, root: Path) -> Path:
    head, _, rest = portable.partition("/")
    if head == "$FLUIDWAIT_SHARED":
        return Path(os.environ.get("FLUIDWAIT_SHARED") or root.parent / "shared") / rest
    return root / portable


# --- artifacts and their sidecars ----------------------------------------------------------------------------------


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
    wall_seconds: float | None = None,
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
        root: project root that recorded paths are relative to; :func:`fluidwait.base.paths.project_root` when not given.
        wall_seconds: computing time in seconds; the time of ``writer`` when not given.

    Raises:
        ConfigError: an input is missing, a module does not exist, or the folder cannot be written.
    """
    path = Path(path)
    check_output(path)
    root = _root(root)
    described = sorted((describe_input(i, root) for i in inputs), key=lambda i: i.path)
    prints = code_fingerprint(code, root)
    key = artifact_hash(config, described, prints)
    started = time.perf_counter()
    with writing.temporary(sidecar_path(path)) as temporary_sidecar, writing.temporary(path) as temporary:
        writer(temporary, key)
        seconds = time.perf_counter() - started if wall_seconds is None else wall_seconds
        sidecar = Sidecar(
            artifact=path.name,
            sha256=file_sha256(temporary),
            config_hash=key,
            config=_plain(config),
            inputs=described,
            code=prints,
            rule=rule,
            packages=package_versions(packages),
            python=platform.python_version(),
            git=git_state(root),
            device={"machine": platform.machine(), "processors": os.cpu_count()},
            wall_seconds=round(seconds, 3),
        )
        temporary_sidecar.write_bytes((sidecar.model_dump_json(indent=1) + "\n").encode())
        writing.sync(temporary_sidecar)  # on disk before either has its name: what can fail has not failed
        writing.made.append(path)
        writing.move(temporary, path)
        writing.move(temporary_sidecar, sidecar_path(path))
    return key


def read_sidecar(artifact: str | Path) -> Sidecar:
    """The sidecar of an artifact.

    Raises:
        ConfigError: it is missing, or not a sidecar.
    """
    path = sidecar_path(artifact)
    if not is_file(path):
        raise ConfigError(f"{artifact}: has no sidecar {path.name}")
    sidecar = _parse_sidecar(path)
    if sidecar is None:
        raise ConfigError(f"{path}: not a sidecar of fluidwait")
    return sidecar


def package_versions(names: Iterable[str] = PACKAGES) -> dict[str, str]:
    """Version of each of the packages that is installed."""
    found = {name: fluidwait.__version__ if name == "fluidwait" else _version(name) for name in sorted(names)}
    return {name: version for name, version in found.items() if version is not None}


@functools.cache
def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


@functools.cache
def git_state(root: Path) -> dict[str, Any] | None:
    """``{"commit": ..., "dirty": ...}`` of the checkout at ``root`` when first asked; None without git or a commit."""
    try:
        commit = _git(root, "rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(_git(root, "status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True, timeout=30)
    return done.stdout.strip()


def _parse_sidecar(path: Path) -> Sidecar | None:
    try:
        data = json.loads(path.read_bytes())
        if "record" not in data:
            return None
        _plain(data)  # nested deeper than can be hashed
        return Sidecar.model_validate(data)
    except (OSError, ValueError, TypeError, ValidationError, RecursionError):
        return None


# --- hashes inside files -------------------------------------------------------------------------------------------


def figure_metadata(key: str, suffix: str) -> dict[str, str | None]:
    """Matplotlib ``metadata`` that carries the configuration hash and no date, so equal figures have equal bytes.

    Raises:
        ValueError: the format is none of ``.png``, ``.svg`` and ``.pdf``.
    """
    mark = _HASH_MARK + key
    if suffix == ".png":
        return {"Software": None, "Description": mark}
    if suffix == ".svg":
        return {"Date": None, "Creator": None, "Description": mark}
    if suffix == ".pdf":
        return {"CreationDate": None, "Creator": None, "Producer": None, "Keywords": mark}
    raise ValueError(f"figures are written as .png, .svg or .pdf, not '{suffix}'")


def save_figure(figure: Any, path: str | Path, key: str, dpi: float = 200.0) -> None:
    """Save a Matplotlib figure with byte-identical results for equal figures; the format follows the suffix."""
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": "fluidwait"}):  # element ids of SVG are random without a fixed salt
        figure.savefig(path, dpi=dpi, metadata=figure_metadata(key, Path(path).suffix))


def embedded_hash(path: str | Path) -> str | None:
    """The configuration hash inside a Parquet, PNG, SVG or PDF file; None when it holds none.

    Raises:
        ConfigError: the file is missing, or not what its suffix says.
    """
    path = Path(path)
    if path.suffix == ".parquet":
        import pyarrow.parquet

        try:
            metadata = pyarrow.parquet.read_metadata(path).metadata or {}
        except (OSError, pyarrow.ArrowException):
            raise ConfigError(f"{path}: not a readable Parquet file") from None
        return metadata.get(b"config_hash", b"").decode() or None
    try:
        match = re.search(_HASH_MARK.encode() + rb"([0-9a-f]{64})", path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    return match[1].decode() if match else None


# --- verification --------------------------------------------------------------------------------------------------

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
    root = _root(root)
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
    root = _root(root)
    read_sidecar(artifact)
    found: list[Finding] = []
    todo, seen = [resolved(artifact)], set()
    while todo:
        path = todo.pop()
        if path in seen or not is_file(sidecar_path(path)):
            continue
        seen.add(path)
        sidecar = _parse_sidecar(sidecar_path(path))
        found += [Finding(_portable(path, root), *finding) for finding in _findings(path, sidecar, root)]
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
            data = _parse_sidecar(path)
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
    path = _located(recorded.path, root)
    if not is_file(path):
        yield MISSING, f"input {recorded.path} is gone"
        return
    try:
        changed = _input_sha256(path, recorded.of) != recorded.sha256
    except ConfigError as error:
        yield STALE, f"input {recorded.path} cannot be read: {error}"
        return
    if changed:
        yield STALE, f"input {recorded.path} has changed"


def _code_findings(recorded: Mapping[str, str], root: Path) -> Iterator[tuple[str, str]]:
    for name, sha256 in recorded.items():
        try:
            # A package is recorded module by module, so its own name stands for its __init__.py alone.
            path = _located(name, root) if name.endswith(".py") else _module_path(name)
            changed = _source_sha256(path, name) != sha256
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
                found[artifact].append((STALE, f"input {_portable(source, root)} is itself not up to date"))
                bad.add(artifact)
                todo.append(artifact)


def _made_from(sidecar: Sidecar | None, root: Path) -> set[Path]:
    """The files that an artifact was made from, there or not."""
    located = {_located(i.path, root) for i in sidecar.inputs} if sidecar else set()
    found = set()
    for path in located:
        with contextlib.suppress(ConfigError):  # links in a circle lead to no file
            found.add(resolved(path))
    return found
