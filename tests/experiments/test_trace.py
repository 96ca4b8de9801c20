from __future__ import annotations

import making
import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fluidwait.artifacts.records import iter_runs
from fluidwait.artifacts.verify import verify
from fluidwait.base.errors import ConfigError
from fluidwait.base.models import parse
from fluidwait.base.paths import project_root
from fluidwait.experiments import trace
from fluidwait.experiments.check import check
from fluidwait.experiments.experiment import Experiment
from fluidwait.experiments.setting import resolve

TIGHT = {
    "id": "tight",
    "title": "Tight",
    "hardware": "a100-80g_llama-2-7b",
    "workload": "p512d1000",
    "eviction": "restart",
    "memory_margin": 0.75,
    "rates": [0.5, 3],
    "traces": {"rates": [0.5, 3], "replication": 1, "policies": ["sarathi"]},
    "scales": {"tiny": {"requests": 60, "replications": 2, "tuning_requests": 40, "audit_requests": 40}},
    "policies": {
        "sarathi": {"use": "sarathi", "label": "Sarathi"},
        "vllm_v1": {"use": "vllm_v1", "label": "vLLM v1"},
    },
}


@pytest.fixture(scope="module")
def tight() -> Experiment:
    return parse(Experiment, TIGHT, "tight.yaml")


@pytest.fixture(scope="module")
def made(tight, tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    making.trace(tight, "sarathi", "tiny", folder / "trace.csv")
    making.sweep(tight, "sarathi", "tiny", folder / "records.parquet")
    return folder


def test_the_trace_is_of_the_run_in_the_records(made, tight):
    """The same evictions and the same end; memory never above capacity."""
    table = pl.read_csv(made / "trace.csv")
    assert table.columns == ["rate", "time", "kv_tokens", "share", "evictions"]
    runs = {run.run_id: run.columns for run in iter_runs(made / "records.parquet")}
    semantics = resolve(tight).semantics
    assert table["rate"].unique(maintain_order=True).to_list() == [0.5, 3.0]
    for (rate,), part in table.group_by("rate"):
        columns = runs[f"rate={rate:g},replication=1"]
        assert part["evictions"].max() == columns["evictions"].sum()
        assert part["time"].max() == columns["completion"].max()
        assert (part["time"].diff().drop_nulls() > 0).all()
        assert (part["evictions"].diff().drop_nulls() >= 0).all()
        assert part["kv_tokens"].max() <= semantics.blocks * semantics.block_size
        assert np.allclose(part["share"] * semantics.blocks * semantics.block_size, part["kv_tokens"])
    assert (table.filter(rate=0.5)["evictions"] == 0).all()
    assert table.filter(rate=3.0)["evictions"].max() > 0
    assert table.filter(rate=3.0)["share"].max() > 0.95


def test_the_same_bytes_again_and_nothing_to_complain_of(made, tight, tmp_path):
    making.trace(tight, "sarathi", "tiny", tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_bytes() == (made / "trace.csv").read_bytes()
    assert verify(made, project_root()) == []


@given(arrays(np.float64, st.integers(1, 300), elements=st.integers(0, 9)), st.integers(1, 20))
def test_thinning_loses_no_extreme(values, buckets):
    kept = trace.extremes(values, buckets)
    assert kept.tolist() == sorted(set(kept.tolist()))
    assert len(kept) <= max(2 * buckets + 1, 1)
    assert kept[-1] == len(values) - 1
    assert values[kept].max() == values.max()
    assert values[kept].min() == values.min()
    if len(values) > 2 * buckets + 1:
        for part in np.array_split(np.arange(len(values)), buckets):
            inside = values[np.intersect1d(kept, part)]
            assert (inside.min(), inside.max()) == (values[part].min(), values[part].max())


def test_mistakes_are_one_line(tight, tmp_path):
    with pytest.raises(ConfigError, match=r"^experiment tight: traces: none of policy 'vllm_v1'$"):
        making.trace(tight, "vllm_v1", "tiny", tmp_path / "trace.csv")
    wrong = TIGHT | {"traces": {"rates": [1], "policies": ["sarati"]}}
    with pytest.raises(ConfigError, match=r"traces.policies: no policy 'sarati' \(did you mean 'sarathi'\?\)$"):
        parse(Experiment, wrong, "x.yaml")
    untraced = parse(Experiment, TIGHT | {"traces": None, "figures": ["memory"]}, "x.yaml")
    with pytest.raises(ConfigError, match=r"figures: 'memory' needs traces$"):
        check(resolve(untraced), "tiny")
    assert list(tmp_path.iterdir()) == []


def test_a_tuned_policy_is_not_traced_untuned(tmp_path):
    """At a rate of no sweep it ran with the settings of its file, under the name of the tuned one."""
    entry = {"use": "sarathi", "label": "S", "grid": {"token_budget": [256, 512]}}
    own = parse(Experiment, TIGHT | {"policies": {"s": entry}, "traces": {"rates": [0.5, 2.5]}}, "x.yaml")
    tuning = tmp_path / "tuning.csv"
    tuning.write_text(
        "rate,settings,mean_latency,reason,winner\n"
        + "".join(f'{rate},"{{""token_budget"": 256}}",1.0,,true\n' for rate in (0.5, 3.0))
    )
    message = r"^experiment tight: traces.rates: s is not tuned at 2.5 requests/s \(nearest valid value: 3\)$"
    with pytest.raises(ConfigError, match=message):
        making.trace(own, "s", "tiny", tmp_path / "trace.csv", tuning)
    assert list(tmp_path.iterdir()) == [tuning]


def test_without_a_list_every_policy_is_traced(tight):
    everybody = parse(Experiment, TIGHT | {"traces": {"rates": [1]}}, "x.yaml")
    assert everybody.traced() == ["sarathi", "vllm_v1"]
    assert tight.traced() == ["sarathi"]
    assert tight.model_copy(update={"traces": None}).traced() == []
