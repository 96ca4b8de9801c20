from __future__ import annotations

import itertools

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from fluidwait.drawing import style
from fluidwait.drawing.saving import save_figure

EVERY = [
    *("wait", "wait_fluid", "wait_tuned", "nested_wait", "sarathi", "sarathi_tuned", "sarathi_512", "sarathi_1024"),
    *("vllm_v0", "vllm_v0_tuned", "vllm_v1", "vllm_v1_tuned", "orca", "mc_sf", "sorted_f", "a_min"),
]


@pytest.mark.parametrize(
    ("key", "family"),
    [
        ("wait_fluid", "wait"),
        ("nested_wait", "wait"),
        ("sarathi_tuned", "sarathi"),
        ("vllm_v0", "vllm_v0"),
        ("vllm_v1_512", "vllm_v1"),
        ("orca", "orca"),
        ("mc_sf", "other"),
        ("await", "other"),
    ],
)
def test_families(key, family):
    assert style.family(key) == family


def test_every_pair_of_policies_differs_without_colour():
    looks = style.styles(EVERY)
    for one, other in itertools.combinations(EVERY, 2):
        assert (looks[one].marker, looks[one].filled) != (looks[other].marker, looks[other].filled), (one, other)


def test_families_differ_in_marker_and_siblings_in_line():
    for name, members in style.FAMILIES.items():
        assert len({look.line for look in members}) == len(members) or name == "other"
    markers = [{look.marker for look in members} for members in style.FAMILIES.values()]
    assert sum(map(len, markers)) == len(set().union(*markers))


def test_first_colours_differ_in_grey_or_far_in_hue():
    """The four policies of the paper's figures: no two colours are close for any reader (CIE-like distance in RGB)."""
    looks = style.styles(["wait", "sarathi", "vllm_v0", "vllm_v1", "orca"])
    for one, other in itertools.combinations(looks.values(), 2):
        assert np.linalg.norm(np.subtract(to_rgb(one.color), to_rgb(other.color))) > 0.25


def test_a_policy_looks_the_same_whatever_else_is_drawn():
    assert style.styles(["sarathi", "wait"])["wait"] == style.styles(["wait", "orca", "vllm_v1"])["wait"]


@pytest.mark.parametrize("name", ["orca", "wait", "mine"])
def test_many_siblings_all_look_different(name):
    looks = style.styles([f"{name}_{number}" for number in range(100)])
    assert len(set(looks.values())) == 100
    assert list(looks.values())[:2] == list(style.FAMILIES[style.family(name)][:2])


def test_legend_fits_the_width():
    labels = {key: f"a rather long label of {key}" for key in EVERY}
    with style.journal():
        figure = style.new_figure(style.ONE_COLUMN, 2.0, style.handles(labels, style.styles(EVERY)))
    (legend,) = figure.legends
    box = legend.get_window_extent(figure.canvas.get_renderer())
    assert box.width <= figure.get_figwidth() * figure.dpi
    assert figure.get_figheight() == pytest.approx(2.0 + box.height / figure.dpi)
    assert [text.get_text() for text in legend.get_texts()] == list(labels.values())


def linear_log(low, turn, high):
    figure = style.JournalFigure(figsize=(3, 3))
    axes = figure.add_subplot()
    style.linear_log_axis(axes, low, turn, high)
    return axes


def test_linear_log_axis_is_linear_then_logarithmic_and_continuous():
    axes = linear_log(0.3, 1.0, 100.0)
    transform = axes.yaxis.get_transform()
    place = transform.transform(np.array([0.3, 0.65, 1.0, 1.0 + 1e-12, 10.0, 100.0]))
    assert place == pytest.approx([0.0, 0.28, 0.56, 0.56, 0.78, 1.0])
    values = np.array([0.31, 0.9, 1.0, 1.3, 42.0])
    assert transform.inverted().transform(transform.transform(values)) == pytest.approx(values)


def test_linear_log_ticks_are_where_they_say():
    axes = linear_log(0.35, 1.0, 60.0)
    axes.figure.draw_without_rendering()
    ticks = axes.get_yticks()
    assert [float(text.get_text()) for text in axes.get_yticklabels()] == pytest.approx(list(ticks))
    assert {1.0, 2.0, 5.0, 10.0, 20.0, 50.0} <= set(ticks)
    assert 30.0 in axes.get_yticks(minor=True)
    assert ticks.min() >= 0.35
    assert ticks.max() <= 60.0


def test_linear_log_axis_without_overload_is_plain():
    axes = linear_log(0.3, 1.0, 0.8)
    assert axes.get_yscale() == "linear"
    assert axes.get_ylim() == (0.3, 0.8)
    assert not axes.texts


def test_percent_ticks_have_signs_and_no_percent_is_hidden():
    figure = style.JournalFigure()
    axes = figure.add_subplot()
    style.percent_axis(axes, np.array([-60.0, np.nan, 1500.0]))
    figure.draw_without_rendering()
    shown = {text.get_text() for text in axes.get_yticklabels()}
    assert {"−50", "−5", "0", "+5", "+100", "+1000"} <= shown
    low, high = axes.get_ylim()
    assert low < -60.0
    assert high > 1500.0


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_the_users_settings_do_not_show(suffix, tmp_path):
    def draw(path):
        with style.journal():
            figure = style.new_figure(3.0, 2.0, style.handles({"wait": "WAIT"}, style.styles(["wait"])))
            style.add_axes(figure, 0.5, 0.5, 2.0, 1.2).plot([0, 1], [1, 2])
        save_figure(figure, path, "0" * 64)
        return path.read_bytes()

    plain = draw(tmp_path / f"plain{suffix}")
    mine = {"font.size": 20, "xtick.direction": "in", "pdf.fonttype": 3, "svg.fonttype": "none", "axes.grid": False}
    with matplotlib.rc_context(mine):
        assert draw(tmp_path / f"mine{suffix}") == plain
        assert matplotlib.rcParams["font.size"] == 20


def test_figures_are_of_the_size_asked_for(tmp_path):
    figure = style.JournalFigure(figsize=(3.5, 2.0))
    save_figure(figure, tmp_path / "a.png", "0" * 64)
    assert matplotlib.image.imread(tmp_path / "a.png").shape[:2] == (400, 700)


def test_a_figure_without_a_legend_has_the_size_asked_for():
    assert style.new_figure(3.4, 2.0, []).get_size_inches().tolist() == [3.4, 2.0]
