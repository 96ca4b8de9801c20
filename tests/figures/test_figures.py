from __future__ import annotations

import hashlib
import json
import math
import pkgutil
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from figure_reading import bands, change, edges, labels, line, vertical_lines
from figure_tables import LABELS, LATENCY, RATES, STABLE, STAR_COLUMNS, STARS, write_metrics, write_summary
from matplotlib.figure import Figure

from fluidwait.artifacts.embedded import embedded_hash
from fluidwait.base.errors import ConfigError
from fluidwait.drawing import reading as tables
from fluidwait.drawing.saving import save_figure
from fluidwait.experiments import figures
from fluidwait.experiments.experiment import load_experiment
from fluidwait.experiments.figures import audit, gap, latency, mstar, reference
from fluidwait.experiments.kinds import figure_kind

KEY = "ab" * 32
KINDS = sorted(module.name for module in pkgutil.iter_modules(figures.__path__))


def make(kind, results, experiment):
    return figure_kind(kind).module.make(results, experiment)


def caption(kind, results, experiment):
    return figure_kind(kind).module.caption(results, experiment)


# --- the registry --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_makes_a_figure_with_a_caption(kind, results, experiment):
    assert figure_kind(kind).name == kind
    assert isinstance(make(kind, results, experiment), Figure)
    text = caption(kind, results, experiment)
    assert text.startswith("Single type. ") and "quick" in text


def test_every_figure_of_an_experiment_is_of_a_known_kind():
    for name in ("e1", "e5"):
        wanted = load_experiment(name).figures
        assert wanted
        assert set(wanted) <= set(KINDS)


def test_unknown_kind():
    with pytest.raises(
        ConfigError, match=r"^figures: 'latencies' is not a kind of figure \(did you mean 'latency'\?\)$"
    ):
        figure_kind("latencies")


@pytest.mark.parametrize("kind", KINDS)
def test_declared_inputs_are_all_that_is_read(kind, results, experiment, tmp_path):
    alone = tmp_path / "copy" / "quick" / "e1"
    for path in map(Path, figure_kind(kind).inputs(str(results), list(experiment["labels"]))):
        if path.is_file():
            target = alone / path.relative_to(results)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    make(kind, alone, experiment)
    assert caption(kind, alone, experiment) == caption(kind, results, experiment)


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
@pytest.mark.parametrize("kind", KINDS)
def test_same_bytes_twice(kind, suffix, results, experiment, tmp_path):
    digests = []
    for turn in range(2):
        path = tmp_path / f"{kind}_{turn}{suffix}"
        save_figure(make(kind, results, experiment), path, KEY)
        digests.append(hashlib.sha256(path.read_bytes()).hexdigest())
        assert embedded_hash(path) == KEY
    assert digests[0] == digests[1]


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_leaves_the_page(kind, results, experiment):
    """Every text, tick label and legend lies inside the figure."""
    figure = make(kind, results, experiment)
    figure.draw_without_rendering()
    box = figure.get_tightbbox()
    assert box.x0 >= -0.01
    assert box.y0 >= -0.01
    assert box.x1 <= figure.get_figwidth() + 0.01
    assert box.y1 <= figure.get_figheight() + 0.01


ACROSS = {"horizon": "number of requests N", "memory": "time (s)"}
"""What the x axis shows where it is not the arrival rate."""


@pytest.mark.parametrize("kind", KINDS)
def test_axes_name_their_units(kind, results, experiment):
    figure = make(kind, results, experiment)
    named = [axes for axes in figure.axes if axes.get_xlabel()]
    assert named
    assert all(axes.get_xlabel() == ACROSS.get(kind, "arrival rate λ (requests/s)") for axes in named)
    assert all("(" in axes.get_ylabel() for axes in figure.axes if axes.get_ylabel())


# --- latency -------------------------------------------------------------------------------------------------------


def latency_axes(results, experiment):
    return latency.make(results, experiment).axes


def test_latency_lines_are_the_table(results, experiment):
    above, completion, stable = latency_axes(results, experiment)
    summary = pl.read_csv(results / "summary.csv")
    assert labels(above) == labels(completion) == labels(stable) == list(LABELS)
    for key in LABELS:
        rows = summary.filter(pl.col("policy") == key)
        assert line(above, key) == (list(RATES), list(LATENCY[key]))
        assert line(completion, key) == (rows["rate"].to_list(), rows["completion_rate"].to_list())


def test_latency_bands_are_the_intervals(results, experiment):
    above, completion, _ = latency_axes(results, experiment)
    assert len(bands(above)) == len(bands(completion)) == len(LABELS)
    for band, key in zip(bands(above), LABELS, strict=True):
        for rate, mean in zip(RATES, LATENCY[key], strict=True):
            assert edges(band)[rate] == pytest.approx((0.95 * mean, 1.05 * mean))


def test_rows_may_come_in_any_order(results, experiment):
    path = results / "summary.csv"
    pl.read_csv(path).sort("rate", descending=True).write_csv(path)
    assert line(latency_axes(results, experiment)[0], "sarathi") == (list(RATES), list(LATENCY["sarathi"]))


def test_the_axis_turns_logarithmic_above_the_low_load(results, experiment):
    above, completion, _ = latency_axes(results, experiment)
    assert above.get_yscale() == "function"
    assert 1.0 in above.get_yticks()  # the turn: the nice number above 2.5 times 0.39 s
    low, high = above.get_ylim()
    assert low < 0.39
    assert high > 30.0
    assert completion.get_yscale() == "linear"


def test_ideal_line_is_completion_equal_to_arrival(results, experiment):
    _, completion, _ = latency_axes(results, experiment)
    ideal = next(artist for artist in completion.lines if type(artist).__name__ == "AxLine")
    assert (ideal.get_xy1(), ideal.get_slope()) == ((0.0, 0.0), 1.0)


def test_stability_markers_and_intervals_are_where_the_table_says(results, experiment):
    _, _, stable = latency_axes(results, experiment)
    for row, key in enumerate(LABELS):
        assert line(stable, key) == ([STARS[key][0]], [float(row)])
    assert thin_lines(stable) == [list(STARS[key][1:]) for key in LABELS]
    predicted = [(a.get_xdata()[0], a.get_ydata()[0]) for a in stable.lines if a.get_marker() == "|"]
    assert predicted == [(14.6, 0), (14.1, 1)]
    assert "found by bisection, with its 95 %" in latency.caption(results, experiment)


def without_search(results):
    change(results / "stability.csv", **dict.fromkeys(STAR_COLUMNS, [None] * 3))


def thin_lines(axes):
    return [list(a.get_xdata()) for a in axes.lines if len(a.get_xdata()) == 2 and a.get_linewidth() < 1.0]


def test_without_a_search_the_first_unstable_rate_ends_the_thin_line(results, experiment):
    without_search(results)
    _, _, stable = latency_axes(results, experiment)
    assert [line(stable, key)[0] for key in LABELS] == [[STABLE[key]] for key in LABELS]
    assert thin_lines(stable) == [[14.0, 15.0], [14.0, 15.0], [13.0, 14.0]]
    assert "the largest stable rate of the grid" in latency.caption(results, experiment)


def test_a_policy_that_is_never_stable_has_no_marker_and_says_so(results, experiment):
    without_search(results)
    change(results / "stability.csv", grid_lambda_star=[None, 14.0, 13.0])
    _, _, stable = latency_axes(results, experiment)
    assert labels(stable) == ["sarathi", "vllm_v0"]
    assert [text.get_text() for text in stable.texts] == ["none: unstable at 12"]


def test_a_policy_stable_at_every_rate(results, experiment):
    without_search(results)
    change(results / "stability.csv", grid_lambda_star=[15.0, 15.0, 15.0])
    _, _, stable = latency_axes(results, experiment)
    assert [line(stable, key)[0] for key in LABELS] == [[15.0]] * 3
    stable.figure.draw_without_rendering()


def test_gap_marks_the_boundaries_that_were_found(results, experiment):
    change(results / "stability.csv", lambda_star=[14.5, None, 13.4])
    (axes,) = gap.make(results, experiment).axes
    assert [line(axes, f"_λ* {key}")[0] for key in ("wait_fluid", "vllm_v0")] == [[14.5], [13.4]]
    assert "_λ* sarathi" not in [artist.get_label() for artist in axes.lines]
    assert "λ*" in gap.caption(results, experiment)
    without_search(results)
    assert "λ*" not in gap.caption(results, experiment)


def test_the_calibrated_boundary_is_marked_in_every_panel(results, experiment):
    for axes in latency_axes(results, experiment):
        assert 44.0 in vertical_lines(axes)


def test_one_replication_has_no_bands(results, experiment):
    write_summary(results, replications=1)
    axes = latency_axes(results, experiment)
    assert line(axes[0], "sarathi") == (list(RATES), list(LATENCY["sarathi"]))
    assert [len(bands(panel)) for panel in axes] == [0, 0, 0]
    assert "1 replication(s)" in latency.caption(results, experiment)


def test_caption_says_how_much_was_run(results, experiment):
    text = latency.caption(results, experiment)
    assert "N = 2,000 requests per run, 4 replication(s)" in text
    assert "central 50 % of requests" in text
    assert "central 40 % of" in latency.caption(results, experiment | {"window": 0.4})
    assert "scale 'quick'" in text


def test_only_policies_with_a_label_are_drawn(results, experiment):
    experiment["labels"] = {"sarathi": "S", "wait_fluid": "W"}
    assert labels(latency_axes(results, experiment)[0]) == ["sarathi", "wait_fluid"]


# --- gap -----------------------------------------------------------------------------------------------------------


def test_gap_lines_are_ratios_of_means(results, experiment):
    (axes,) = gap.make(results, experiment).axes
    assert labels(axes) == ["wait_fluid", "vllm_v0"]
    for key in ("wait_fluid", "vllm_v0"):
        expected = [100.0 * (x / y - 1.0) for x, y in zip(LATENCY[key], LATENCY["sarathi"], strict=True)]
        x, y = line(axes, key)
        assert x == list(RATES)
        assert y == pytest.approx(expected)
    assert len(bands(axes)) == 2


def runs(latencies, rate=12.0):
    n = len(latencies)
    return pl.DataFrame({"rate": [rate] * n, "replication": list(range(n)), "mean_latency": latencies})


def test_common_random_numbers_cancel():
    """When one policy is 10 % faster in every replication, the interval is a point however much replications vary."""
    base = [1.0, 3.0, 0.5, 7.0]
    row = gap.relative_gap(runs([0.9 * x for x in base]), runs(base)).row(0, named=True)
    assert row["gap"] == pytest.approx(-10.0)
    assert row["gap_low"] == pytest.approx(-10.0)
    assert row["gap_high"] == pytest.approx(-10.0)
    assert row["replications"] == 4


def test_gap_interval_by_hand():
    """x = 1, 3 and y = 2, 2: R = 1, residuals -1 and 1, sd sqrt 2, error sqrt 2 / (sqrt 2 * 2) = 1/2, t = 12.706."""
    row = gap.relative_gap(runs([1.0, 3.0]), runs([2.0, 2.0])).row(0, named=True)
    assert row["gap"] == pytest.approx(0.0)
    assert row["gap_high"] == pytest.approx(100 * 12.7062047 / 2)
    assert row["gap_low"] == pytest.approx(-100 * 12.7062047 / 2)


def test_gap_interval_covers():
    """95 % of intervals hold the true ratio 1.2 when 10 replications share their noise."""
    random = np.random.default_rng(1)
    covered = 0
    for _ in range(400):
        base = random.normal(2.0, 0.3, 10)
        row = gap.relative_gap(runs(list(1.2 * base + random.normal(0.0, 0.1, 10))), runs(list(base)))
        covered += row["gap_low"][0] <= 20.0 <= row["gap_high"][0]
    assert 0.92 * 400 <= covered <= 0.98 * 400


def test_gap_pairs_what_both_have():
    both = gap.relative_gap(runs([1.0, 2.0, 9.0]), runs([2.0, 4.0]))
    assert both.select("gap", "replications").rows() == [(pytest.approx(-50.0), 2)]


def test_gap_with_one_replication_has_no_band(results, experiment):
    write_metrics(results, replications=1)
    (axes,) = gap.make(results, experiment).axes
    assert len(bands(axes)) == 0
    assert line(axes, "wait_fluid")[1][0] == pytest.approx(100.0 * (0.39 / 0.41 - 1.0))


def test_the_replication_column_may_be_named_rep(results, experiment):
    expected = line(gap.make(results, experiment).axes[0], "vllm_v0")
    write_metrics(results, replications=4, name="rep")
    assert line(gap.make(results, experiment).axes[0], "vllm_v0") == expected


def test_another_baseline(results, experiment):
    (axes,) = gap.make(results, experiment | {"baseline": "vllm_v0"}).axes
    assert labels(axes) == ["wait_fluid", "sarathi"]
    assert "relative to vLLM (2023)" in gap.caption(results, experiment | {"baseline": "vllm_v0"})


# --- M* ------------------------------------------------------------------------------------------------------------


def test_linear_curve_is_the_papers_formula(results):
    table = tables.read_table(
        results / "thresholds.csv", ("rate", "load"), optional=("iteration_time", "memory", "calibrated_memory")
    )
    d0, d1, work = 0.0106, 4e-7, 28_000.0
    for rate in (5.0, 33.3, 70.0, 89.0):
        offered = rate * work
        assert mstar.linear_memory(table, rate) == pytest.approx(d0 * offered / (1 - d1 * offered))
    assert mstar.linear_memory(table, 1 / (work * d1) + 1) == math.inf


def mstar_axes(results, experiment):
    return mstar.make(results, experiment).axes[0]


def test_mstar_shows_table_curve_and_published_points(results, experiment):
    axes = mstar_axes(results, experiment)
    table = pl.read_csv(results / "thresholds.csv")
    assert line(axes, "published") == ([50.0, 60.0, 70.0, 80.0], [34_377.0, 55_758.0, 100_327.0, 250_509.0])
    assert line(axes, "table") == ([20.0, 40.0, 60.0, 80.0], table["memory"].drop_nulls().to_list()[:4])
    x, y = line(axes, "linear")
    assert np.interp(60.0, x, y) == pytest.approx(table["memory"][2], rel=1e-3)


def test_mstar_crossing_lies_on_curve_and_capacity(results, experiment):
    axes = mstar_axes(results, experiment)
    (rate,), (memory,) = line(axes, "crossing")
    summary = json.loads((results / "thresholds.json").read_text())
    assert (rate, memory) == (summary["boundary_rate"], summary["capacity"])
    x, y = line(axes, "linear")
    assert np.interp(rate, x, y) == pytest.approx(memory, rel=1e-2)
    assert any(list(a.get_ydata()) == [memory, memory] for a in axes.lines)


def test_mstar_calibrated_ends_at_its_boundary(results, experiment):
    axes = mstar_axes(results, experiment)
    table = pl.read_csv(results / "thresholds.csv")
    assert line(axes, "calibrated") == ([20.0, 40.0, 44.0], [*table["calibrated_memory"][:2], 90_000.0])
    assert 44.0 in vertical_lines(axes)


def test_mstar_draws_the_fine_curve_where_there_is_one(results, experiment):
    path = results / "thresholds.json"
    curve = {"rate": [10.0, 20.0, 30.0], "memory": [1e3, 2e3, 5e4]}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"calibrated_curve": curve}))
    axes = mstar_axes(results, experiment)
    assert line(axes, "calibrated curve") == (curve["rate"], curve["memory"])
    (points,) = [a for a in axes.lines if a.get_label() == "calibrated"]
    assert points.get_linestyle() == "None"


def test_mstar_caption_reports_the_distance_to_the_paper(results, experiment):
    text = mstar.caption(results, experiment)
    largest = max(
        abs(0.0106 * w / (1 - 4e-7 * w) / memory - 1.0)
        for w, memory in ((28_000.0 * rate, memory) for rate, memory in mstar.PUBLISHED.items())
    )
    assert f"within {100 * largest:.2f} %" in text
    assert "end at 44.0 requests/s with 90,000 tokens (limit: time)" in text
    assert "paper: 74.1" in text


def test_mstar_without_any_equilibrium(results, experiment):
    change(results / "thresholds.csv", memory=[None] * 5)
    with pytest.raises(ConfigError, match=r"thresholds.csv: column 'memory': no rate has an equilibrium$"):
        mstar.make(results, experiment)


@pytest.mark.parametrize("key", ["capacity", "boundary_rate", "calibrated_boundary.rate"])
def test_missing_key_of_the_fluid_model(key, results, experiment):
    path = results / "thresholds.json"
    data = json.loads(path.read_text())
    *above, last = key.split(".")
    inside = data[above[0]] if above else data
    inside[last] = None
    path.write_text(json.dumps(data))
    with pytest.raises(ConfigError, match=rf"thresholds.json: {key}: the value is missing$"):
        mstar.make(results, experiment)
    del inside[last]
    path.write_text(json.dumps(data))
    with pytest.raises(ConfigError, match=rf"thresholds.json: {key}: required key is missing$"):
        mstar.make(results, experiment)


# --- reference -----------------------------------------------------------------------------------------------------


def reference_axes(results, experiment):
    return reference.make(results, experiment).axes


def test_reference_shows_published_and_ours(results, experiment):
    latencies, *_ = reference_axes(results, experiment)
    table = pl.read_csv(results / "reference.csv")
    for policy in ("sarathi", "wait"):
        rows = table.filter(pl.col("policy") == policy)
        assert line(latencies, f"{policy} published") == (rows["rate"].to_list(), rows["published"].to_list())
        for name in ("exact", "replayed"):
            assert line(latencies, f"{policy} {name}") == (rows["rate"].to_list(), rows[name].to_list())
    assert len(bands(latencies)) == 2


def test_reference_shows_every_distance(results, experiment):
    _, sarathi, wait = reference_axes(results, experiment)
    assert labels(sarathi) == ["exact", "stream", "replayed", "truncated"]
    assert labels(wait) == ["exact", "stream", "replayed", "truncated", "gated"]
    for name, percent in (("exact", -2.0), ("stream", 4.0), ("replayed", 1.0), ("truncated", 3.0), ("gated", 200.0)):
        assert line(wait, name)[1] == pytest.approx([percent] * 3)
    (band,) = bands(sarathi)
    assert edges(band)[12.0] == pytest.approx((-11.8, -2.0))


def test_reference_caption_tells_the_distance(results, experiment):
    text = reference.caption(results, experiment)
    assert "Sarathi on the published arrivals: at most 4.0 % with our iteration times and scheduler" in text
    assert "at most 1.0 % with those of the earlier code" in text


def test_reference_with_one_policy(results, experiment):
    path = results / "reference.csv"
    pl.read_csv(path).filter(pl.col("policy") == "wait").write_csv(path)
    assert len(reference_axes(results, experiment)) == 2


def test_reference_of_other_policies(results, experiment):
    change(results / "reference.csv", policy="orca")
    with pytest.raises(
        ConfigError, match=r"reference.csv: column 'policy': no published policy \(valid: sarathi, wait\)$"
    ):
        reference.make(results, experiment)


# --- audit ---------------------------------------------------------------------------------------------------------


def test_audit_shows_the_larger_difference_and_zeros(results, experiment):
    (axes,) = audit.make(results, experiment).axes
    assert line(axes, "wait_fluid") == ([12.0, 14.0], [3e-13, 1.5e-13])
    assert line(axes, "sarathi") == ([12.0, 14.0], [audit.ZERO, audit.ZERO])
    axes.figure.draw_without_rendering()
    assert axes.get_yticklabels()[0].get_text() == "0"
    assert "6 runs: at most 3.0e-13 s" in audit.caption(results, experiment)


def test_no_audit(results, experiment):
    with pytest.raises(ConfigError, match=r"audit.csv: no audit of any policy shown \(orca\)$"):
        audit.make(results, experiment | {"labels": {"orca": "Orca"}})


# --- mistakes ------------------------------------------------------------------------------------------------------

COLUMNS = [
    ("latency", "summary.csv", "mean_latency"),
    ("latency", "summary.csv", "completion_rate_low"),
    ("latency", "summary.csv", "policy"),
    ("latency", "stability.csv", "lambda_star"),
    ("latency", "stability.csv", "grid_lambda_star"),
    ("gap", "stability.csv", "lambda_star"),
    ("gap", "metrics/wait_fluid.csv", "mean_latency"),
    ("gap", "metrics/sarathi.csv", "replication"),
    ("mstar", "thresholds.csv", "calibrated_memory"),
    ("reference", "reference.csv", "published"),
    ("reference", "reference.csv", "truncated_low"),
    ("audit", "audit.csv", "max_abs_completion"),
]


@pytest.mark.parametrize(("kind", "file", "column"), COLUMNS)
def test_missing_column(kind, file, column, results, experiment):
    change(results / file, **{column: None})
    with pytest.raises(ConfigError, match=rf"{file}: no column '{column}'") as error:
        make(kind, results, experiment)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("kind", "file"), sorted({(k, f) for k, f, _ in COLUMNS}))
def test_missing_file(kind, file, results, experiment):
    (results / file).unlink()
    with pytest.raises(ConfigError, match=rf"{file}: no such file") as error:
        make(kind, results, experiment)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("kind", "file", "column"), [c for c in COLUMNS if c[2] != "policy"])
def test_value_that_is_not_a_number(kind, file, column, results, experiment):
    table = pl.read_csv(results / file, infer_schema=False)
    table.with_columns(pl.Series(column, [*table[column][:-1], "fast"])).write_csv(results / file)
    with pytest.raises(ConfigError, match=rf"line {table.height + 1}, column '{column}': 'fast' is not a number$"):
        make(kind, results, experiment)


def test_latency_that_is_missing(results, experiment):
    change(results / "summary.csv", mean_latency=[None] + [1.0] * 11)
    with pytest.raises(ConfigError, match=r"summary.csv: line 2, column 'mean_latency': the value is missing$"):
        latency.make(results, experiment)


def test_policy_without_rows(results, experiment):
    experiment["labels"]["wait_fluit"] = "W"
    with pytest.raises(ConfigError, match=r"no rows of policy 'wait_fluit' \(did you mean 'wait_fluid'\?\)$"):
        latency.make(results, experiment)


def test_policies_without_common_runs(results, experiment):
    change(results / "metrics" / "vllm_v0.csv", rate=99.0)
    with pytest.raises(ConfigError, match=r"vllm_v0.csv: no rate and replication in common with policy 'sarathi'$"):
        gap.make(results, experiment)


def test_gap_of_one_policy(results, experiment):
    with pytest.raises(ConfigError, match=r"^experiment: labels: a gap needs a policy besides the baseline$"):
        gap.make(results, experiment | {"labels": {"sarathi": "S"}})


@pytest.mark.parametrize("key", ["id", "title", "labels"])
def test_incomplete_experiment(key, results, experiment):
    del experiment[key]
    with pytest.raises(ConfigError, match=rf"^experiment: {key}: required key is missing$"):
        latency.make(results, experiment)


def test_unknown_baseline(results, experiment):
    with pytest.raises(
        ConfigError, match=r"^experiment: baseline: 'sarati' is not a policy \(did you mean 'sarathi'\?\)$"
    ):
        gap.make(results, experiment | {"baseline": "sarati"})


def test_empty_table(results, experiment):
    path = results / "summary.csv"
    path.write_text(path.read_text().splitlines()[0] + "\n")
    with pytest.raises(ConfigError, match=r"summary.csv: no rows below the header$"):
        latency.make(results, experiment)
