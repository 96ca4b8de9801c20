from __future__ import annotations

import numpy as np
import pytest
import yaml

from fluidwait.base.errors import ConfigError
from fluidwait.base.models import parse
from fluidwait.base.paths import project_root
from fluidwait.base.yaml_files import load_yaml
from fluidwait.device.hardware import Hardware, load_hardware
from fluidwait.device.timing import BatchSums, iteration_time

A100 = "a100-80g_llama-2-7b"


@pytest.fixture(scope="module")
def a100() -> Hardware:
    return load_hardware(A100)


def small(**changes) -> dict:
    """A hardware mapping small enough to check by hand: 96 weights of 2 bytes, 16 bytes per cached token."""
    model = {"name": "tiny", "layers": 1, "hidden": 4, "query_heads": 2, "kv_heads": 2, "head_dim": 2, "mlp_hidden": 2}
    model |= {"gated_mlp": False}
    base = {"name": "small", "device": "none", "model": model, "memory_gib": 2**-20, "memory_margin": 0.0}
    return base | {"block_size": 4, "max_model_len": 10} | changes


def test_capacity_by_hand():
    hardware = parse(Hardware, small(), "small.yaml")
    assert hardware.model.weights == 4 * 2 * 2 * (2 + 2) + 2 * 4 * 2  # Wq, Wk, Wv, Wo 64 and the MLP 16
    assert hardware.kv_bytes_per_token == 2 * 1 * 2 * 2 * 2
    assert hardware.kv_capacity_tokens == (1024 - 160) // 16 == 54
    assert hardware.kv_blocks_unrounded == 13
    assert hardware.kv_blocks == 5 * 2  # five requests of 10 tokens, two whole blocks each
    assert parse(Hardware, small(round_to_max_model_len=False), "s").kv_blocks == 13


def test_a_gated_mlp_has_three_matrices_and_grouped_heads_cache_less():
    plain = small()["model"]
    gated = parse(Hardware, small(model=plain | {"gated_mlp": True}), "s")
    grouped = parse(Hardware, small(model=plain | {"kv_heads": 1}), "s")
    assert gated.model.weights - 80 == 4 * 2
    assert grouped.kv_bytes_per_token == 8
    assert grouped.model.weights == 80 - 2 * 4 * 2  # one key and one value head fewer


def test_the_a100_setting_of_the_paper(a100):
    assert a100.kv_bytes_per_token == 524_288
    assert a100.kv_capacity_tokens == 137_497
    assert a100.kv_blocks == 8_448
    assert a100.kv_blocks_unrounded == 8_593


@pytest.mark.parametrize("margin", [0.01, 0.1, 0.6])
def test_capacity_equals_vidurs_memory_planner(a100, margin, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    reason = "Vidur is not installed (pip install 'fluidwait[vidur]')"
    config = pytest.importorskip("vidur.config", reason=reason)
    planner = pytest.importorskip("vidur.utils.memory_planner", reason=reason)
    replica = config.ReplicaConfig(
        model_name=a100.model.name,
        num_pipeline_stages=1,
        tensor_parallel_size=1,
        device="a100",
        network_device="a100_dgx",
    )
    theirs = planner.MemoryPlanner(replica, config.CacheConfig(memory_margin_fraction=margin))
    ours = a100.with_margin(margin)
    assert ours.kv_capacity_tokens == theirs.get_max_kv_cache_size_in_tokens()
    # the rule of vidur's BaseReplicaScheduler, block size 16 and 4,096 tokens per request
    slots = theirs.get_max_kv_cache_size_in_tokens() // 4096
    assert ours.kv_blocks == slots * (4096 // 16)


def test_a_larger_margin_leaves_less(a100):
    assert a100.with_margin(0.6).kv_capacity_tokens < a100.kv_capacity_tokens
    assert a100.with_margin(a100.memory_margin) == a100


def test_a_margin_that_leaves_nothing_is_one_line(a100):
    with pytest.raises(ConfigError, match=r"a100-80g_llama-2-7b.*margin 0\.9 leaves room for 0 KV tokens") as error:
        a100.with_margin(0.9)
    assert "\n" not in str(error.value)
    with pytest.raises(ConfigError, match="memory_margin"):
        a100.with_margin(1.0)


@pytest.mark.parametrize(("tokens", "ms"), [(384, 23.6), (400, 30.2), (512, 33.4), (768, 46.0)])
def test_the_compute_staircase_has_the_measured_steps(a100, tokens, ms):
    compute = a100.time_model().compute
    assert compute[tokens] * 1e3 == pytest.approx(ms, abs=0.05)


def test_between_entries_the_staircase_rounds_up(a100):
    profile, compute = a100.timing.profile, a100.time_model().compute
    assert compute[0] == 0.0
    assert len(compute) == profile.tokens[-1] + 1 == 4097
    for below, above, seconds in zip(profile.tokens, profile.tokens[1:], profile.seconds[1:], strict=False):
        assert np.all(compute[below + 1 : above + 1] == seconds)


def test_extrapolation_beyond_the_table_grows(a100):
    tm = a100.time_model()
    times = [iteration_time(tm, BatchSums(q)) for q in (4096, 4097, 5000, 10_000, 100_000)]
    assert times == sorted(times)
    assert times[1] > times[0]
    per_token = (times[-1] - times[0]) / (100_000 - 4096)
    assert per_token == pytest.approx(times[0] / 4096, rel=0.05)  # about the cost of a token in a full batch


def test_straight_lines_between_entries():
    profile = {"between": "linear", "compute_slope": 0.5, "tokens": [2, 4], "seconds": [1.0, 4.0]}
    compute = parse(Hardware, small(timing={"profile": profile}), "s").time_model().compute
    assert compute.tolist() == [0.0, 0.5, 1.0, 2.5, 4.0]


def test_a_profile_without_a_table_is_a_straight_line():
    tm = parse(Hardware, small(timing={"profile": {"compute_slope": 0.25}}), "s").time_model()
    assert iteration_time(tm, BatchSums(8)) == 2.0


def test_linear_timing_is_the_papers(a100):
    tm = a100.time_model("linear")
    assert (tm.base, tm.per_kv) == (a100.timing.linear.d0, a100.timing.linear.d1)
    assert tm.base == pytest.approx(10.6076e-3, abs=5e-8)
    assert tm.per_kv == pytest.approx(0.40136e-6, abs=5e-12)


def test_a_timing_that_is_not_there_names_the_ones_that_are():
    hardware = parse(Hardware, small(timing={"linear": {"d0": 0.01, "d1": 0.0}}), "s")
    with pytest.raises(ConfigError, match=r"small: timing\.profile: not in this hardware file \(it has: linear\)"):
        hardware.time_model()


def test_load_by_path_and_by_name(a100, tmp_path):
    path = project_root() / "data" / "hardware" / f"{A100}.yaml"
    assert load_hardware(path) == load_hardware(str(path)) == a100
    with pytest.raises(ConfigError, match=r"no such file.*a100-80g_llama-2-7b\.yaml"):
        load_hardware("a100-80g_llama-2-7c")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"memory_gb": 80}, r"hw\.yaml: memory_gb: unknown key \(did you mean 'memory_gib'\?\)"),
        ({"memory_gib": 0}, r"hw\.yaml: memory_gib: .*greater than 0"),
        ({"memory_gib": 1e-9}, r"hw\.yaml: .*leaves room for 0 KV tokens"),
        ({"kv_capacity_tokens": 5}, r"kv_capacity_tokens: unknown key"),
        ({"block_size": 10**6}, r"no block of 1000000 tokens is within max_model_len = \d+ \(nearest valid value: \d+"),
        ({"timing": {"profile": {"compute_slope": 0, "tokens": [2, 2], "seconds": [1, 1]}}}, "tokens must increase"),
        ({"timing": {"profile": {"compute_slope": 0, "tokens": [2], "seconds": []}}}, "1 entries and seconds 0"),
        ({"timing": {"profile": {"compute_slope": -1}}}, r"timing\.profile\.compute_slope"),
        ({"timing": {"profile": {"compute_slope": 0}}}, "a batch of one prefill token takes no time"),
        ({"timing": {"profile": {"compute_slope": 0, "prefill_token": 1}}}, "one decode token takes no time"),
        ({"timing": {"profile": {"compute_slope": 0, "tokens": [10**9], "seconds": [1]}}}, "nearest valid value: 1000"),
        ({"timing": {"linear": {"d0": float("nan"), "d1": 0}}}, r"timing\.linear\.d0"),
    ],
)
def test_mistakes_are_one_line_with_file_and_key(tmp_path, change, message):
    path = tmp_path / "hw.yaml"
    path.write_text(yaml.safe_dump(small(**change)))
    with pytest.raises(ConfigError, match=message) as error:
        load_hardware(path)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


def test_the_shipped_file_names_its_source_and_residuals():
    data = load_yaml(project_root() / "data" / "hardware" / f"{A100}.yaml")
    assert "microsoft/vidur" in data["source"]["data"]
    assert "7d47513" in data["source"]["data"]
    assert "MIT" in data["source"]["license"]
    assert data["fit"]["prefill_attention"]["max_iteration_error"] < 0.05
    assert data["fit"]["decode_attention"]["mean_iteration_error"] < 0.05
