from __future__ import annotations

import pytest
from figure_reading import change, line
from figure_tables import LABELS

from fluidwait.base.errors import ConfigError
from fluidwait.experiments.figures import memory


def panels(results, experiment):
    """Axes by (policy, rate), in the order of drawing."""
    axes = memory.make(results, experiment).axes
    return dict(zip([(key, rate) for key in LABELS for rate in (12.0, 14.0)], axes, strict=True))


def test_a_panel_per_policy_and_rate_shows_the_trace(results, experiment):
    for (key, rate), axes in panels(results, experiment).items():
        times = [float(t) for t in range(1, 10 if key == "sarathi" else 9)]
        assert line(axes, "share") == (times, pytest.approx([10 * t for t in times]))
        assert axes.get_title(loc="left") == f"{LABELS[key]}, λ = {rate:g}/s"


def test_evictions_are_marked_when_they_happen(results, experiment):
    for (key, rate), axes in panels(results, experiment).items():
        times, _ = line(axes, "evictions")
        assert times == ([4.0, 6.0] if (key, rate) == ("sarathi", 14.0) else [])


def test_an_eviction_before_the_first_row_is_marked_there(results, experiment):
    change(results / "trace" / "vllm_v0.csv", evictions=3)
    assert line(panels(results, experiment)["vllm_v0", 12.0], "evictions")[0] == [1.0]


def test_panels_of_a_rate_share_their_time_axis(results, experiment):
    ends = {
        rate: {axes.get_xlim()[1] for (_, r), axes in panels(results, experiment).items() if r == rate}
        for rate in (12.0, 14.0)
    }
    assert all(len(found) == 1 and found.pop() > 9.0 for found in ends.values())


def test_caption_counts_the_evictions(results, experiment):
    text = memory.caption(results, experiment)
    assert "WAIT, fluid rule 0 at 12/s, 0 at 14/s; Sarathi 0 at 12/s, 2 at 14/s" in text


def test_a_missing_trace_is_named(results, experiment):
    (results / "trace" / "sarathi.csv").unlink()
    with pytest.raises(ConfigError, match=r"trace/sarathi\.csv: no such file"):
        memory.make(results, experiment)
