"""A step: its name and files, the key that says when it runs again, and files that are made together or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from fluidwait.artifacts import environment
from fluidwait.artifacts import step as steps
from fluidwait.artifacts.canonical import plain
from fluidwait.artifacts.sidecar import read_sidecar
from fluidwait.artifacts.step import Artifact, Deferred, Rule, Step, names, text
from fluidwait.artifacts.verify import verify
from fluidwait.base.errors import ConfigError
from fluidwait.base.paths import ROOT_VARIABLE

RULE = Rule("pair", ("results/{scale}/{of}.csv", "results/{scale}/{of}.txt"), wanted=("results/{scale}/{of}.txt",))
AT = {"scale": "tiny", "of": "one"}


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch) -> Path:
    """A project with a file that is read and one that computes."""
    monkeypatch.setenv(ROOT_VARIABLE, str(tmp_path))
    (tmp_path / "read.csv").write_text("a\n1\n")
    (tmp_path / "mine.py").write_text("x = 1\n")
    yield tmp_path
    forget()


def forget() -> None:
    """What a process knows of code and packages, another one finds out anew."""
    steps._fingerprint.cache_clear()
    steps._versions.cache_clear()


def artifact(**change) -> Artifact:
    whole = {"write": text("a\n1\n"), "identity": {"n": 1}, "code": ("mine.py",), "rule": "pair"}
    return Artifact(**whole | {"inputs": ("read.csv",), "packages": ("numpy",)} | change)


def step(first: Artifact | Deferred | None = None, second: Artifact | None = None, **change) -> Step:
    products = (first or artifact(), second or artifact(inputs=("results/tiny/one.csv",)))
    return Step(**{"rule": RULE, "subject": ("e", "one"), "wildcards": AT, "products": products} | change)


def files(project: Path) -> list[str]:
    return sorted(p.name for p in (project / "results").rglob("*") if p.is_file())


def refuses(error: BaseException):
    def write(path: Path, key: str) -> None:
        assert Path("results/tiny/one.csv").is_file()  # the first is there by then
        path.write_text("half")
        raise error

    return write


# --- name and files ------------------------------------------------------------------------------------------------


def test_name_and_files():
    one = step(after=("later.csv", "read.csv"))
    assert one.name == "pair/e/one"
    assert one.outputs == ("results/tiny/one.csv", "results/tiny/one.txt")
    assert one.wanted == ("results/tiny/one.txt",)
    assert one.inputs == ("read.csv", "later.csv")  # each once, and nothing that the step makes itself
    assert step(rule=Rule("pair_e", RULE.outputs, family="pair")).name == one.name


def test_paths_of_inputs_are_those_from_the_project(project):
    assert names([project / "read.csv", "a/b.csv", "/elsewhere/c.csv"]) == ("read.csv", "a/b.csv", "/elsewhere/c.csv")


# --- the key -------------------------------------------------------------------------------------------------------


def test_the_key_changes_with_the_identity_of_any_product():
    key = step().key
    assert step().key == key and len(key) == 16
    assert step(first=artifact(identity={"n": 2})).key != key
    assert step(second=artifact(identity={"n": 2})).key != key
    assert step(first=artifact(identity={"n": 1, "m": None})).key != key


def test_the_key_changes_with_the_code_but_not_with_its_line_endings(project):
    key = step().key
    (project / "mine.py").write_bytes(b"x = 1\r\n")
    forget()
    assert step().key == key
    (project / "mine.py").write_text("x = 2\n")
    forget()
    assert step().key != key
    assert step(first=artifact(code=("fluidwait.base.scales",))).key not in (key, step().key)


def test_the_key_changes_with_the_version_of_a_package_that_matters(monkeypatch):
    version, key = environment._version, step().key
    for changed, same in (("polars", True), ("numpy", False)):
        monkeypatch.setattr(environment, "_version", lambda name, x=changed: "0" if name == x else version(name))
        forget()
        assert (step().key == key) is same


def test_nothing_else_changes_the_key(project):
    key = step().key
    (project / "read.csv").write_text("a\n2\n")  # Snakemake itself looks at files
    others = [
        step(first=artifact(write=text("b\n"))),
        step(first=artifact(inputs=())),
        step(first=artifact(rule="another")),
        step(subject=("f",), wildcards=AT | {"scale": "quick"}),
        step(rule=Rule("another", RULE.outputs, whole_machine=True)),
        step(after=("later.csv",), check=lambda: None),
        step(first=Deferred(artifact, {"n": 1}, ("mine.py",), ("read.csv",), ("numpy",))),
    ]
    assert {other.key for other in others} == {key}


# --- making --------------------------------------------------------------------------------------------------------


def test_all_files_are_made_with_the_identity_in_their_sidecars(project):
    one = step(first=artifact(identity={"n": 1, "path": Path("a/b"), "far": float("inf")}))
    one.make()
    assert files(project) == ["one.csv", "one.csv.json", "one.txt", "one.txt.json"]
    for product, output in zip(one.products, one.outputs, strict=True):
        sidecar = read_sidecar(project / output)
        assert sidecar.config == plain(product.identity)
        assert [found.path for found in sidecar.inputs] == list(product.inputs)
        assert list(sidecar.code) == list(product.code) and list(sidecar.packages) == list(product.packages)
    assert verify(project / "results", project) == []


def test_a_deferred_product_writes_the_artifact_that_it_turns_out_to_be(project):
    late = Deferred(lambda: artifact(identity={"found": 3}), {"folder": "f"}, ("mine.py",), ("read.csv",))
    step(first=late).make()
    assert read_sidecar(project / "results/tiny/one.csv").config == {"found": 3}


def test_files_are_made_in_the_project_wherever_one_is(project, tmp_path_factory, monkeypatch):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.chdir(elsewhere)
    step().make()
    assert (project / "results/tiny/one.csv").is_file()
    assert Path.cwd() == elsewhere and not list(elsewhere.iterdir())


@pytest.mark.parametrize("error", [ConfigError("wrong"), RuntimeError("a fault"), KeyboardInterrupt()], ids=repr)
def test_a_product_that_fails_leaves_no_file_of_the_step_behind(error, project):
    with pytest.raises(type(error)):
        step(second=artifact(write=refuses(error))).make()
    assert files(project) == []


def test_a_product_whose_input_is_missing_leaves_no_file_behind(project):
    with pytest.raises(ConfigError, match=r"absent\.csv: cannot be read"):
        step(second=artifact(inputs=("absent.csv",))).make()
    assert files(project) == []


def test_a_mistake_is_found_before_anything_is_written(project):
    def check() -> None:
        raise ConfigError("a mistake")

    with pytest.raises(ConfigError, match="a mistake"):
        step(check=check).make()
    assert not (project / "results").exists()


def test_the_same_step_gives_the_same_bytes(project):
    step().make()
    first = [(project / name).read_bytes() for name in step().outputs]
    step().make()
    assert [(project / name).read_bytes() for name in step().outputs] == first
