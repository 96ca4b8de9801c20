"""The figures of the studies show their tables, with the same bytes when drawn again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from small_studies import e6, e10, e11, e12

from fluidwait.base.errors import ConfigError
from fluidwait.drawing.saving import save_figure
from fluidwait.studies import clock, frontier, frontier_tables
from fluidwait.studies import e6 as e6_tables
from fluidwait.studies import gaps as gap_tables
from fluidwait.studies import overflow as overflow_table
from fluidwait.studies import scaling as scaling_tables
from fluidwait.studies.figures import FIGURES
from fluidwait.studies.figures import e6_memory as memory
from fluidwait.studies.figures import e10_clock as drawn_clock
from fluidwait.studies.figures import e11_gap as gap
from fluidwait.studies.figures import e11_overflow as overflow
from fluidwait.studies.figures import e11_scaling as scaling
from fluidwait.studies.figures import e12_envelope as drawn_envelope
from fluidwait.studies.figures import e12_frontier as drawn_frontier


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Tables of all studies."""
    folder, study, design, served = tmp_path_factory.mktemp("tables"), e11(), e6(), e10()
    parts = [str(folder / f"runs/{part}.csv") for part in study.scaling]
    for part, path in zip(study.scaling, parts, strict=True):
        scaling_tables.runs(study, part, "tiny").make(Path(path))
    scaling_tables.scaling(study, tuple(parts), "tiny").make(folder / "scaling.csv")
    scaling_tables.exponents(study, tuple(parts), "tiny").make(folder / "exponents.csv")
    for table in ("fcfs_gap", "unknown_gap"):
        gap_tables.gaps(study, table, "tiny").make(folder / f"{table}.csv")
    overflow_table.overflow(study, "tiny").make(folder / "overflow.csv")
    e6_tables.memory(design, "tiny").make(folder / "memory.csv")
    e6_tables.answers(design, "tiny").make(folder / "answers.csv")
    loads = [str(folder / f"runs/{load}.csv") for load in served.loads]
    for load, path in zip(served.loads, loads, strict=True):
        clock.runs(served, load, "tiny").make(Path(path))
    clock.latency(served, tuple(loads), "tiny").make(folder / "latency.csv")
    return folder


@pytest.fixture(scope="module")
def edge(tmp_path_factory) -> Path:
    """Tables of E12, one of which is called as one of E10."""
    folder, study = tmp_path_factory.mktemp("frontier"), e12().at("tiny")
    paths = {kind: tuple(str(folder / kind / f"{load}.csv") for load in study.loads) for kind in ("runs", "statics")}
    for place, load in enumerate(study.loads):
        frontier.runs(study, load, "tiny").make(Path(paths["runs"][place]))
        frontier.statics(study, load, "tiny").make(Path(paths["statics"][place]))
    both = (paths["runs"], paths["statics"])
    frontier_tables.frontier(study, *both, "tiny").make(folder / "frontier.csv")
    frontier_tables.latency(study, *both, "tiny").make(folder / "latency.csv")
    frontier_tables.envelope(study, paths["statics"], "tiny").make(folder / "envelope.csv")
    return folder


def lines(axes) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    return {line.get_label(): tuple(map(np.asarray, line.get_data())) for line in axes.get_lines()}


MODULES = [module for figures in FIGURES.values() for module in figures.values()]


@pytest.mark.parametrize("module", MODULES, ids=lambda m: m.__name__.rpartition(".")[2])
def test_a_figure_drawn_again_has_the_same_bytes(module, folder, edge, tmp_path):
    folder = edge if module in FIGURES["e12"].values() else folder
    for ending in ("png", "svg"):
        for turn in "ab":
            save_figure(module.make(folder, "tiny"), tmp_path / f"{turn}.{ending}", "0" * 64)
        assert (tmp_path / f"a.{ending}").read_bytes() == (tmp_path / f"b.{ending}").read_bytes()
    assert module.caption(folder, "tiny").endswith("scale 'tiny'.")


def test_scaling_shows_every_case_and_exponent(folder):
    table = pl.read_csv(folder / "scaling.csv")
    gap_panel, *_, exponents = scaling.make(folder, "tiny").axes
    shown = lines(gap_panel)
    for case in ("wait_equality", "wait_slack", "nested_slack"):
        rows = table.filter((pl.col("case") == case) & (pl.col("quantity") == "gap")).sort("iterations")
        assert shown[case][0].tolist() == rows["iterations"].to_list()
        assert shown[case][1].tolist() == rows["mean"].to_list()
    points = {round(line.get_xdata()[0], 12) for line in exponents.get_lines() if len(line.get_xdata()) == 1}
    assert points == {round(value, 12) for value in pl.read_csv(folder / "exponents.csv")["exponent"]}


def test_gap_shows_shares_of_the_offered_throughput_and_picks_the_best_thresholds(folder):
    table = pl.read_csv(folder / "unknown_gap.csv", schema_overrides={"thresholds": pl.String})
    shown = lines(gap.make(folder, "tiny").axes[1])
    last = table.filter(pl.col("iterations") == table["iterations"].max())
    for case in ("wait_two", "fcfs_two", "reserving_two", "nested_two"):
        assert shown[case][1][-1] == 100 * last.filter(pl.col("case") == case)["relative_gap"].min()
    worse = last.filter(pl.col("case") == "nested_two").sort("relative_gap").row(1, named=True)
    assert shown[f"nested_two {worse['thresholds']}"][1][-1] == 100 * worse["relative_gap"]


def test_overflow_shows_bound_and_frequency(folder):
    table = pl.read_csv(folder / "overflow.csv").sort("delta")
    tokens, frequency = overflow.make(folder, "tiny").axes
    assert lines(tokens)["bound 30"][1].tolist() == table["required"].to_list()
    assert lines(frequency)["bound"][0].tolist() == lines(frequency)["bound"][1].tolist()
    assert len(lines(frequency)["30"][0]) == len(table)


def test_memory_shows_the_terms_and_their_least_total(folder):
    table = pl.read_csv(folder / "memory.csv")
    middle = table.filter((pl.col("rate") == 50) & (pl.col("horizon") == 200) & (pl.col("delta") == 0.1))
    shown = lines(memory.make(folder, "tiny").axes[0])
    assert shown["total"][1].tolist() == middle["total"].to_list()
    assert shown["buffer"][0].tolist() == [2, 4, 8]  # one segment has no buffer
    assert shown["least"][0][0] == middle.sort("total")["segments"][0]


@pytest.mark.parametrize("module", MODULES, ids=lambda m: m.__name__.rpartition(".")[2])
def test_a_missing_table_is_one_line(module, tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        module.make(tmp_path, "tiny")


def test_clock_shows_every_policy_on_every_load(folder):
    table = pl.read_csv(folder / "latency.csv")
    panels = drawn_clock.make(folder, "tiny").axes
    assert len(panels) == 2 * 2
    for place, load in enumerate(e10().loads):
        upper, lower = lines(panels[2 * place]), lines(panels[2 * place + 1])
        for key in e10().policies:
            part = table.filter((pl.col("workload") == load) & (pl.col("policy") == key)).sort("share")
            if part.is_empty():
                assert (key, load) == ("nested_wait", "short") and key not in upper
                continue
            assert np.allclose(upper[key], (part["share"], part["mean"]))
            if key == "vllm":
                assert key not in lower
            else:
                assert np.allclose(lower[key], (part["share"], 100 * part["change"]))


def test_the_frontier_shows_every_policy_on_every_load(edge):
    table = pl.read_csv(edge / "frontier.csv")
    axes, bar = drawn_frontier.make(edge, "tiny").axes
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["vLLM", "384 tokens", "WAIT"]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["short", "chat", "prefilled elsewhere"]
    told = sorted(text.get_text() for text in axes.texts)
    shares = [f"{100 * share:.1f}" for share in table["share_of_usable_bound"]]
    assert told == sorted(shares + [f"×{ratio:.2f}" for ratio in table["worst_latency_ratio"]])
    assert len(table) == 3 * 3 - 1  # WAIT is not for one of the loads


def test_a_ratio_that_cannot_be_told_apart_is_bounded(edge, tmp_path):
    pl.read_csv(edge / "frontier.csv").with_columns(worst_latency_ratio=250.0).write_csv(tmp_path / "frontier.csv")
    axes, _ = drawn_frontier.make(tmp_path, "tiny").axes
    assert {text.get_text() for text in axes.texts if "×" in text.get_text()} == {">×10"}


def test_the_envelope_shows_the_chosen_loads_and_policies(edge):
    table, best = (pl.read_csv(edge / f"{name}.csv") for name in ("latency", "envelope"))
    (axes,) = drawn_envelope.make(edge, "tiny").axes
    shown = lines(axes)
    assert set(shown) == {"envelope", "vllm", "wait"}
    assert shown["envelope"][1].tolist() == best.filter(pl.col("workload") == "chat")["mean"].to_list()
    for key in ("vllm", "wait"):
        part = table.filter((pl.col("workload") == "chat") & (pl.col("policy") == key)).sort("share")
        assert shown[key][1].tolist() == part["mean"].to_list()


def test_an_envelope_without_a_row_to_draw_is_one_line(edge, tmp_path):
    for name in ("latency", "envelope"):
        pl.read_csv(edge / f"{name}.csv").with_columns(drawn=False).write_csv(tmp_path / f"{name}.csv")
    with pytest.raises(ConfigError, match="no row is marked as drawn"):
        drawn_envelope.make(tmp_path, "tiny")
