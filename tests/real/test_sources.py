"""Which bundle the workflow draws, and when it measures anew."""

from __future__ import annotations

import json

import pytest

from fluidwait.base.errors import ConfigError
from fluidwait.real import bundle as bundles
from fluidwait.real import sources
from fluidwait.real import steps as real_steps
from fluidwait.real.bundle import Description
from fluidwait.real.target import load_target


def put(folder, machine, recorded):
    """A bundle without measurements."""
    about = Description(
        machine=machine,
        device={"name": machine, "cores": 2},
        engine={"name": "vllm", "version": "0.32.0"},
        target=load_target("cpu"),
        config_hash="0" * 64,
        data={},
        code={},
        recorded=recorded,
        load=[1.0, 1.0, 1.0],
        seconds=1.0,
        pace=None,
        points=3,
        planned=3,
        files={},
    )
    folder.mkdir(parents=True)
    (folder / bundles.DESCRIPTION).write_text(about.model_dump_json())


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "project_root", lambda: tmp_path)
    monkeypatch.setattr(bundles, "project_root", lambda: tmp_path)
    monkeypatch.setattr(sources, "has_engine", lambda: False)
    sources.sources.cache_clear()
    yield tmp_path
    sources.sources.cache_clear()


def test_nothing_recorded_and_no_engine_is_nothing_to_draw(project):
    assert sources.sources(("cpu", "gpu")) == {}


def test_with_the_engine_the_cpu_is_measured_here(project, monkeypatch):
    put(project / "data" / "cpu" / "old", "old", "2026-01-01 00:00")
    monkeypatch.setattr(sources, "has_engine", lambda: True)
    assert sources.sources(("cpu", "gpu")) == {"cpu": "recordings/cpu"}
    assert sources.is_fresh("recordings/cpu") and not sources.is_fresh("data/cpu/old")


def test_at_the_quick_scale_nothing_is_measured_and_nothing_measured_here_is_drawn(project, monkeypatch):
    put(project / "data" / "cpu" / "old", "old", "2026-01-01 00:00")
    put(project / "recordings" / "cpu", "here", "2026-02-01 00:00")
    put(project / "recordings" / "gpu", "here", "2026-02-01 00:00")
    monkeypatch.setattr(sources, "has_engine", lambda: True)
    assert sources.sources(("cpu", "gpu"), measure=False) == {"cpu": "data/cpu/old", "gpu": "recordings/gpu"}


def test_without_the_engine_the_newest_recording_is_drawn(project):
    put(project / "data" / "cpu" / "old", "old", "2026-01-01 00:00")
    put(project / "data" / "cpu" / "new", "new", "2026-02-01 00:00")
    assert sources.sources(("cpu",)) == {"cpu": "data/cpu/new"}


def test_every_gpu_that_was_recorded_is_drawn(project):
    put(project / "data" / "gpu" / "nvidia-h200", "nvidia-h200", "2026-01-01 00:00")
    put(project / "data" / "gpu" / "nvidia-a100", "nvidia-a100", "2026-02-01 00:00")
    expected = {"gpu": "data/gpu/nvidia-a100", "gpu-nvidia-h200": "data/gpu/nvidia-h200"}
    assert sources.sources(("gpu",)) == expected


def test_a_recording_of_this_checkout_goes_first(project):
    put(project / "recordings" / "gpu", "nvidia-h200", "2026-01-01 00:00")
    put(project / "data" / "gpu" / "nvidia-a100", "nvidia-a100", "2026-02-01 00:00")
    assert sources.sources(("gpu",)) == {"gpu": "recordings/gpu", "gpu-nvidia-a100": "data/gpu/nvidia-a100"}


def test_an_unknown_target_is_one_line():
    with pytest.raises(ConfigError, match=r"real: 'cpuu' is not a target \(did you mean 'cpu'\?\)"):
        sources.check(["cpuu"])


def test_a_changed_target_is_recorded_anew_but_not_a_longer_budget(monkeypatch):
    key = real_steps.record_step("cpu").key
    for change, same in (({"budget": 5.0}, True), ({"seed": 7}, False)):
        changed = load_target("cpu").model_copy(update=change)
        monkeypatch.setattr(real_steps, "load_target", lambda name, changed=changed: changed)
        assert (real_steps.record_step("cpu").key == key) is same


def test_the_recordings_that_come_with_the_project_are_whole():
    for device in sources.TARGETS:
        for folder in bundles.committed(device):
            bundle = bundles.read_bundle(folder)
            assert bundle.about.machine == folder.name and bundle.target.device == device
            assert json.dumps(bundle.about.device).count("/") == 0
