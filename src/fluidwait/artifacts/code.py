"""The code that computes a result: what a module imports, and a fingerprint of it."""

from __future__ import annotations

import ast
import functools
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import fluidwait
from fluidwait.artifacts.inputs import portable, root_folder
from fluidwait.base.errors import ConfigError
from fluidwait.base.paths import is_file, project_root

_PACKAGE_DIR = Path(fluidwait.__file__).resolve().parent


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
    root = root_folder(root)
    prints: dict[str, str] = {}
    for module in modules:
        for name, path in _source_files(module, root):
            prints[name] = source_sha256(path, name)
    return dict(sorted(prints.items()))


def _source_files(module: str | Path, root: Path) -> list[tuple[str, Path]]:
    if isinstance(module, Path) or str(module).endswith(".py"):
        return [(portable(Path(module), root), root / module)]
    name = str(module)
    if not name.endswith(".*"):
        return [(name, module_path(name))]
    folder = module_path(name.removesuffix(".*")).parent
    return [(_module_name(p), p) for p in sorted(folder.rglob("*.py"))]


def source_sha256(path: Path, name: str) -> str:
    """Of a source file, whatever its line endings."""
    return hashlib.sha256(_source(path, name).replace(b"\r\n", b"\n")).hexdigest()


def _source(path: Path, name: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        raise ConfigError(f"{name}: no such source file") from None


def module_path(name: str) -> Path:
    """The file of a module of this package.

    Raises:
        ConfigError: there is none.
    """
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
    path = module_path(name)
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    return _modules_named_in(path.read_bytes(), package, folder)


def _modules_named_in(source: bytes, package: str, folder: Path) -> list[str]:
    """The fluidwait modules that the source of a module of ``package`` imports, with their parents."""
    # "from fluidwait.base.models import load" names a function: only what is a file is a module. A package's own file
    # runs whenever one of its modules is imported, so every parent counts.
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
