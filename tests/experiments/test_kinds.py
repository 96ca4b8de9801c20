"""Figures and tables in files of the user's: a mistake is one line that names the file."""

from __future__ import annotations

import pytest

from fluidwait.base.errors import ConfigError
from fluidwait.experiments import drawing, kinds
from fluidwait.experiments.experiment import load_experiment
from fluidwait.experiments.setting import resolve
from fluidwait.experiments.steps import table_step

FIGURE = """
from matplotlib.figure import Figure

INPUTS = ("summary.csv",)


def make(results, experiment):
    return Figure()


def caption(results, experiment):
    return "A figure."
"""
TABLE = """
import polars as pl

INPUTS = ("metrics/{policy}.csv",)


def table(setting, scale, results):
    return pl.DataFrame({"a": [1]})


def identity(setting, scale):
    return {"a": 1}
"""


@pytest.fixture(scope="module")
def setting():
    return resolve(load_experiment("e8"))


@pytest.fixture
def put(tmp_path, monkeypatch):
    """Write a file of the user's into a project of its own; returns its name."""
    monkeypatch.setattr(kinds, "project_root", lambda: tmp_path)
    monkeypatch.setattr("fluidwait.artifacts.code.project_root", lambda: tmp_path)

    def write(text: str, name: str = "plots/mine.py") -> str:
        (tmp_path / "plots").mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
        return name

    return write


def drawn(setting, name, tmp_path):
    for product, suffix in zip(
        drawing.figure(setting, kinds.figure_kind(name), "quick", "x"), ("png", "pdf", "svg", "txt"), strict=True
    ):
        product.write(tmp_path / f"made.{suffix}", "0" * 64)


def tabled(setting, name, tmp_path):
    (product,) = table_step(setting, kinds.table_kind(name), "quick").products
    product.write(tmp_path / "made.csv", "0" * 64)


def test_what_is_right_is_made(put, setting, tmp_path):
    drawn(setting, put(FIGURE), tmp_path)
    tabled(setting, put(TABLE), tmp_path)
    assert (tmp_path / "made.txt").read_text() == "A figure.\n"
    assert (tmp_path / "made.csv").read_text() == "a\n1\n"


def test_a_file_may_have_a_dataclass(put, setting, tmp_path):
    head = "from __future__ import annotations\nfrom dataclasses import dataclass\n"
    drawn(setting, put(head + FIGURE + "\n\n@dataclass\nclass Part:\n    size: int\n"), tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("return Figure()", "return None", "plots/mine.py: make must return a figure, found NoneType"),
        ('return "A figure."', "return None", "plots/mine.py: caption must return a text, found NoneType"),
        ("def make(results, experiment):\n    return Figure()", "make = 3", "plots/mine.py: make must be a function"),
        ('("summary.csv",)', '"summary.csv"', "plots/mine.py: INPUTS must be a list of names, found 'summary.csv'"),
        ('("summary.csv",)', "[3]", "plots/mine.py: INPUTS must be a list of names, found [3]"),
        ("summary.csv", "metrics/{policie}.csv", "plots/mine.py: INPUTS: the only word in braces is {policy}"),
        ("summary.csv", "metrics/{.csv", "plots/mine.py: INPUTS: the only word in braces is {policy}"),
        ("INPUTS", "import sys\n\nsys.exit(3)\nINPUTS", "plots/mine.py:6: SystemExit: 3"),
        ("def make", "def policies(experiment):\n    pass\n\n\ndef make", "plots/mine.py: policies must return a list"),
        ("return Figure()", "return nothing", "plots/mine.py:8: NameError: name 'nothing' is not defined"),
    ],
)
def test_a_mistake_in_a_figure_is_one_line(old, new, told, put, setting, tmp_path):
    assert old in FIGURE
    with pytest.raises(ConfigError) as error:
        drawn(setting, put(FIGURE.replace(old, new, 1)), tmp_path)
    assert told in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('pl.DataFrame({"a": [1]})', "[1]", "plots/mine.py: table must return a polars.DataFrame, found list"),
        ('{"a": [1]}', '{"a": [[1]]}', "plots/mine.py: table: CSV format does not support nested data"),
        ('{"a": 1}', '{"a": object()}', "plots/mine.py: identity must return plain values"),
        ("metrics/{policy}.csv", "mine.csv", "plots/mine.py: INPUTS: a table cannot be made from itself"),
        ("INPUTS", "FILES = 3\nINPUTS", "plots/mine.py: FILES must be a list of names, found 3"),
    ],
)
def test_a_mistake_in_a_table_is_one_line(old, new, told, put, setting, tmp_path):
    assert old in TABLE
    with pytest.raises(ConfigError) as error:
        tabled(setting, put(TABLE.replace(old, new, 1)), tmp_path)
    assert told in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["plots/my tail.py", "plots/x{y}.py", "plots/a;b.py"])
def test_a_name_that_no_file_may_have_is_one_line(name, put):
    with pytest.raises(ConfigError, match="the name of the file consists of letters"):
        kinds.table_kind(put(TABLE, name))


@pytest.mark.parametrize("name", ["summary", "stability", "thresholds", "audit"])
def test_a_table_that_every_experiment_has_is_no_kind(name, put):
    with pytest.raises(ConfigError, match="every experiment has a table"):
        kinds.table_kind(put(TABLE, f"plots/{name}.py"))
