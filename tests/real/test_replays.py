"""Published recordings of vLLM: read whole, replayed the same every time, and how close the simulator comes."""

from __future__ import annotations

import shutil

import numpy as np
import polars as pl
import pytest

from fluidwait.base.errors import ConfigError
from fluidwait.base.paths import project_root
from fluidwait.engines.v1.run import serve
from fluidwait.real import published, replays
from fluidwait.real.published import read_published
from fluidwait.real.replays import AS_EQUAL, Mode, quantities, replay
from fluidwait.workload import Requests

RTX_4090, PRO_6000 = "rtx-4090_llama-3.1-8b", "rtx-pro-6000_llama-3.1-8b"
ROOT = project_root()


@pytest.fixture(scope="module")
def recordings() -> list[published.Published]:
    return [read_published(name) for name in published.names()]


@pytest.fixture(scope="module")
def errors(recordings) -> pl.DataFrame:
    return replays.errors(recordings)


# --- the data


def test_both_recordings_ship(recordings):
    assert [r.name for r in recordings] == [RTX_4090, PRO_6000]
    for r in recordings:
        assert r.table.height == 300
        assert np.all(np.diff(r.sent.arrival) >= 0)
        full = (r.table["prompt_tokens"] + r.table["output_tokens"]) // 16
        assert all(abs(len(blocks) - n) <= 1 for blocks, n in zip(r.table["blocks"], full, strict=True))
        assert [len(h) for h in r.hashes()] == (r.sent.prompt // 16).tolist()
        assert sum(path.stat().st_size for path in r.folder.iterdir()) < 1_000_000


def test_the_published_quantities_are_those_of_the_requests(recordings):
    for r in recordings:
        real = quantities(r.sent, *(r.table[c].to_numpy() for c in ("first_token_s", "last_token_s")))
        told = {(row["quantity"], row["statistic"]): row["vllm_s"] for row in r.reference().to_dicts()}
        assert real == pytest.approx(told, rel=2e-5)


def test_a_changed_file_and_an_unknown_name_are_refused(monkeypatch, tmp_path):
    shutil.copytree(published.home() / RTX_4090, tmp_path / RTX_4090)
    monkeypatch.setattr(published, "home", lambda: tmp_path)
    with (tmp_path / RTX_4090 / "timeseries.csv").open("a") as file:
        file.write("185,0,0,0,0,0\n")
    with pytest.raises(ConfigError, match=r"timeseries.csv: changed since"):
        read_published(RTX_4090)
    with pytest.raises(ConfigError, match=rf"no recording here .*{RTX_4090}"):
        read_published("rtx-4090_llama-3.1-9b")


def test_a_recording_is_packed_from_csv_files(monkeypatch, tmp_path):
    source = tmp_path / "raw"
    source.mkdir()
    for name in ("timeseries.csv", "reference_errors.csv", "engine.yaml"):
        shutil.copy(published.home() / RTX_4090 / name, source)
    columns = "request,arrival_s,queued_s,scheduled_s,first_token_s,last_token_s,prompt_tokens,output_tokens\n"
    (source / "requests.csv").write_text(columns + "0,0,.2,.3,.4,.9,40,3\n1,0.1,.15,.3,.4,.8,20,2\n")
    (source / "block_hashes.csv").write_text("request,hash_ids\n1,0\n0,0 5\n")
    monkeypatch.setattr(published, "home", lambda: tmp_path / "records")
    packed = published.pack(source, "mine", "A model on a device", RTX_4090, "me")
    assert packed.table["request"].to_list() == [1, 0]  # in the order of queueing
    assert packed.hashes() == [[0], [0, 5]]
    assert packed.rules(asynchronous=True).blocks == 2587
    (source / "engine.yaml").write_text("engine_kwargs: {max_num_seqs: 0}")
    with pytest.raises(ConfigError, match=r"max_num_seqs"):
        published.pack(source, "mine", "A model on a device", RTX_4090, "me")


# --- the replays


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_replay_is_the_same_every_time_and_keeps_the_laws(recordings, asynchronous):
    for r in recordings:
        first, again = (replay(r, Mode(asynchronous=asynchronous)) for _ in range(2))
        assert np.array_equal(first.first_token, again.first_token)
        assert np.array_equal(first.completion, again.completion)
        rules, time_model = r.rules(asynchronous=asynchronous), r.hardware().time_model()
        checked = serve(r.sent, time_model, rules, hashes=r.hashes(), check=True)
        assert np.array_equal(checked.completion, first.completion)
        assert np.all(first.first_token > r.sent.arrival)
        assert np.all(first.completion >= first.first_token)
        assert first.peak_blocks <= rules.blocks
        assert (first.preemptions.sum() > 0) == (r.name == RTX_4090)


def test_the_committed_tables_are_those_of_the_replays(recordings, errors):
    assert (ROOT / "paper/vllm_records.csv").read_text() == errors.write_csv()
    assert (ROOT / "paper/vllm_records_variants.csv").read_text() == replays.variants(recordings).write_csv()


@pytest.mark.parametrize("column", ["error_percent", "async_error_percent"])
@pytest.mark.parametrize(("name", "mean", "worst"), [(RTX_4090, 4.1, 4.5), (PRO_6000, 1.5, 7.2)])
def test_errors_of_the_fifteen_quantities(errors, name, mean, worst, column):
    """What a recipe fixed by kernel profiles gives; docs/real-engine.md says why the RTX 4090 is off."""
    own = errors.filter(pl.col("record") == name)
    assert own.height == 15
    assert own[column].abs().mean() <= mean
    assert own[column].abs().max() <= worst


def test_where_memory_is_ample_the_simulator_is_closer_than_the_reference(errors):
    own = errors.filter(pl.col("record") == PRO_6000)
    for column in ("error_percent", "async_error_percent"):
        assert own[column].abs().mean() < own["reference_error_percent"].abs().mean()


@pytest.mark.parametrize("asynchronous", [False, True])
def test_the_schedule_of_the_overloaded_engine_is_right(recordings, asynchronous):
    """With decodes of unequal length at no cost every quantity is within .7 %: what remains is the time model's."""
    (r,) = (r for r in recordings if r.name == RTX_4090)
    served = replay(r, Mode(AS_EQUAL, asynchronous))
    real = quantities(r.sent, *(r.table[c].to_numpy() for c in ("first_token_s", "last_token_s")))
    ours = quantities(r.sent, served.first_token, served.completion)
    error = np.array([abs(ours[key] / real[key] - 1) for key in real])
    assert error.mean() <= 0.0027
    assert error.max() <= 0.007


def test_the_timeline_has_every_second_of_both(recordings):
    table = replays.timeline(recordings)
    for r in recordings:
        own, log = table.filter(pl.col("record") == r.name), r.timeseries()
        assert own["t_s"].to_list() == list(range(1, own.height + 1))
        assert own["running_vllm"].drop_nulls().to_list() == log["running"].to_list()
        assert own["running_ours"].max() <= r.about.max_num_seqs
        gap = (own["waiting_vllm"] - own["waiting_equal"]).drop_nulls().abs()
        assert gap.mean() < 4


# --- vLLM itself


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("name", [RTX_4090, PRO_6000])
def test_vllms_real_scheduler_serves_the_same_times(name, asynchronous):
    """The first 60 requests, all at once and with a fifth of the memory, so that it preempts and finds its prefixes."""
    pytest.importorskip("vllm", reason="vLLM is not installed (./run.sh setup-vllm)")
    from fluidwait.engines.vllm_clock import simulate_vllm_clock
    from fluidwait.policies import load_policy

    r = read_published(name)
    few = Requests(*(column[:60] for column in r.sent))
    rules = r.rules(asynchronous=asynchronous)._replace(blocks=600)
    time_model, hashes = r.hardware().time_model(), r.hashes()[:60]
    policy = load_policy({"policy": "vllm_v1"})
    knobs = policy.prepare(None)
    real = simulate_vllm_clock(few, policy, knobs, time_model, rules, hashes=hashes)
    ours = serve(few, time_model, rules, hashes=hashes)
    assert np.array_equal(real.first_token, ours.first_token)
    assert np.array_equal(real.completion, ours.completion)
    assert ours.preemptions.sum() > 0
