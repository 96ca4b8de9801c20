"""A step of the pipeline: the files that are made together, what decides them, and how they are written.

The workflow runs one step per job. It carries :attr:`Step.key` as a parameter, so that a step runs again when anything
that decides it has changed; the sidecars of its artifacts are written from the same objects, so that the two cannot
disagree.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel

from fluidwait.artifacts.canonical import config_hash
from fluidwait.artifacts.code import code_fingerprint
from fluidwait.artifacts.environment import PACKAGES, package_versions
from fluidwait.artifacts.sidecar import write_artifact
from fluidwait.base.files import all_or_nothing
from fluidwait.base.paths import project_root

Identity = Mapping[str, Any] | BaseModel


class Product(Protocol):
    """One file of a step: what decides it, and how it is made.

    Attributes:
        identity: everything that decides the file besides its inputs and the code, as plain values.
        inputs: files that are read, from the project's root.
        code: modules that compute it, see :func:`fluidwait.artifacts.code.imported_modules`.
        packages: installed packages whose versions matter.
    """

    @property
    def identity(self) -> Identity: ...

    @property
    def inputs(self) -> tuple[str, ...]: ...

    @property
    def code(self) -> tuple[str, ...]: ...

    @property
    def packages(self) -> tuple[str, ...]: ...

    def make(self, path: Path) -> None:
        """Write the file, all of it or nothing."""


@dataclass(frozen=True)
class Artifact:
    """A :class:`Product` whose bytes are a function of its identity, inputs and code; it gets a sidecar.

    Attributes:
        write: called with a temporary path and the configuration hash.
        rule: what the sidecar says made it.
    """

    write: Callable[[Path, str], Any]
    identity: Identity
    code: tuple[str, ...]
    rule: str
    inputs: tuple[str, ...] = ()
    packages: tuple[str, ...] = PACKAGES

    def make(self, path: Path) -> None:
        write_artifact(
            path,
            self.write,
            config=self.identity,
            inputs=self.inputs,
            code=self.code,
            rule=self.rule,
            packages=self.packages,
        )


@dataclass(frozen=True)
class Deferred:
    """A :class:`Product` that can say what it is made from only when that is there: a recording, say.

    Attributes:
        artifact: the real one, asked for when the file is to be written.
        identity, code: what is known before, for the step's key; what the inputs say, their content tells.
    """

    artifact: Callable[[], Product]
    identity: Identity
    code: tuple[str, ...]
    inputs: tuple[str, ...]
    packages: tuple[str, ...] = PACKAGES

    def make(self, path: Path) -> None:
        self.artifact().make(path)


@dataclass(frozen=True)
class Exhibit:
    """How an output stands in Snakemake's HTML report.

    Attributes:
        caption: file in ``workflow/report``, without suffix.
        labels: of its row; may name wildcards.
    """

    caption: str
    category: str
    labels: Mapping[str, str]


@dataclass(frozen=True)
class Rule:
    """The pattern of steps that differ in their wildcards only; a rule of the workflow.

    Attributes:
        name: in the workflow, and first part of the names of its steps.
        outputs: patterns of the files, from the project's root, with wildcards in braces.
        exhibits: by output pattern.
        wanted: the outputs that the workflow is asked for; the others it makes on the way.
        whole_machine: a step wants the machine for itself: it measures time.
        family: the name's part that rules for single experiments share: ``figures`` of ``figures_e1``.
    """

    name: str
    outputs: tuple[str, ...]
    exhibits: Mapping[str, Exhibit] = field(default_factory=dict)
    wanted: tuple[str, ...] = ()
    whole_machine: bool = False
    family: str = ""

    @property
    def kind(self) -> str:
        return self.family or self.name


def results_rule(name: str, *outputs: str, family: str = "") -> Rule:
    """A rule all of whose outputs are results."""
    return Rule(name, outputs, wanted=outputs, family=family)


@dataclass(frozen=True)
class Step:
    """Files that are made together, in one job.

    Attributes:
        subject: what tells it from the other steps of its rule: an experiment and a policy, say.
        wildcards: values of the wildcards in the rule's outputs.
        products: of each output, in the rule's order; a later one may read an earlier one.
        after: files that must be there although no product reads them.
        check: finds mistakes, called before anything is written.
    """

    rule: Rule
    subject: tuple[str, ...]
    wildcards: Mapping[str, str]
    products: tuple[Product, ...]
    after: tuple[str, ...] = ()
    check: Callable[[], None] = field(default=lambda: None, compare=False)

    @property
    def name(self) -> str:
        """``sweep/e1/wait``."""
        return "/".join((self.rule.kind, *self.subject))

    @property
    def outputs(self) -> tuple[str, ...]:
        """Files, from the project's root."""
        return tuple(pattern.format(**self.wildcards) for pattern in self.rule.outputs)

    @property
    def wanted(self) -> tuple[str, ...]:
        """The outputs that the workflow is asked for."""
        return tuple(pattern.format(**self.wildcards) for pattern in self.rule.wanted)

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """Files that other steps, or the user, must have made, from the project's root, each once."""
        read = (name for product in self.products for name in product.inputs)
        return tuple(name for name in dict.fromkeys((*read, *self.after)) if name not in self.outputs)

    @cached_property
    def key(self) -> str:
        """16 hex digits that change with anything besides inputs that decides a file of this step."""
        parts = [
            {"identity": product.identity, "code": _fingerprint(product.code), "packages": _versions(product.packages)}
            for product in self.products
        ]
        return config_hash({"products": parts})[:16]

    def make(self) -> None:
        """Write every file with its sidecar; all of them or none.

        Raises:
            ConfigError: an input or the configuration is wrong.
        """
        self.check()
        with contextlib.chdir(project_root()), all_or_nothing():
            for product, output in zip(self.products, self.outputs, strict=True):
                product.make(Path(output))


@cache
def _fingerprint(code: tuple[str, ...]) -> dict[str, str]:
    return code_fingerprint(code)


@cache
def _versions(packages: tuple[str, ...]) -> dict[str, str]:
    return package_versions(packages)


def text(words: str) -> Callable[[Path, str], Any]:
    """A writer of this text."""
    return lambda path, _: path.write_text(words, encoding="utf-8")


def names(paths: Iterable[str | Path]) -> tuple[str, ...]:
    """Paths as inputs of a product: from the project's root where they lie in it, with forward slashes."""
    root = project_root()
    return tuple(_from_root(Path(path), root) for path in paths)


def _from_root(path: Path, root: Path) -> str:
    return (path.relative_to(root) if path.is_relative_to(root) else path).as_posix()
