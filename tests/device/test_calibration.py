from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluidwait.base.errors import ConfigError
from fluidwait.base.paths import project_root
from fluidwait.base.yaml_files import load_yaml
from fluidwait.device.hardware import load_hardware
from fluidwait.device.iteration_times import calibrate_iterations
from fluidwait.device.operator_times import calibrate_profile
from fluidwait.device.timing import BatchSums, iteration_time

ROOT = project_root()
A100 = ROOT / "data" / "hardware" / "a100-80g_llama-2-7b.yaml"
SHORT = ROOT / "data" / "measurements" / "a100-80g_llama-2-7b_short_prefill.csv"
SUMS = ("tokens", "kv_tokens", "prefills", "prefill_tokens", "prefill_squares", "prefill_context", "decodes")
SUMS += ("decode_context",)
TEMPLATE = {
    "name": "made-up",
    "device": "none",
    "model": {
        "name": "tiny",
        "layers": 4,
        "hidden": 64,
        "query_heads": 4,
        "kv_heads": 4,
        "head_dim": 16,
        "mlp_hidden": 128,
    },
    "memory_gib": 1,
    "max_model_len": 512,
}


def shared_data() -> Path:
    folder = Path(os.environ.get("FLUIDWAIT_SHARED", ROOT.parent / "shared")) / "data"
    if not (folder / "a100_llama2_7b_mlp_profile.csv").is_file():
        pytest.skip("the raw A100 profile is not here: set FLUIDWAIT_SHARED to the folder that holds data/")
    return folder


def write_csv(path: Path, columns: tuple[str, ...], rows: list) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)
    return path


# ---------------------------------------------------------------- the shipped A100 file


def test_the_shipped_calibration_is_made_again_byte_for_byte(tmp_path):
    shared = shared_data()
    attention = [shared / "a100_llama2_7b_attention_samples.csv", SHORT]
    out = tmp_path / A100.name
    written = calibrate_profile(shared / "a100_llama2_7b_mlp_profile.csv", attention, A100, out)
    assert out.read_bytes() == A100.read_bytes()
    assert written == load_hardware(A100)
    assert [p.name for p in tmp_path.iterdir()] == [A100.name]


def test_the_fit_predicts_the_sampled_kernels():
    """Each sampled shape as an iteration of its own: mean error 1.2 % (prefill) and 3.5 % (decode)."""
    tm = load_hardware(A100).time_model()
    with (shared_data() / "a100_llama2_7b_attention_samples.csv").open() as file:
        samples = list(csv.DictReader(file))
    errors = {"prefill": [], "decode": []}
    for row in samples:
        n, q, k = (int(row[c]) for c in ("num_requests", "chunk_tokens", "cached_tokens"))
        attention = 32e-3 * float(row["median_ms_per_layer"])
        tokens = q if row["phase"] == "prefill" else n
        sums = (0, 1, q, q * q, q * k, 0, 0) if row["phase"] == "prefill" else (0, 0, 0, 0, 0, n, n * (k + 1))
        measured = attention + tm.compute[tokens]
        errors[row["phase"]].append(abs(iteration_time(tm, BatchSums(tokens, *sums)) / measured - 1))
    assert np.mean(errors["prefill"]) < 0.015
    assert np.mean(errors["decode"]) < 0.04
    assert max(errors["decode"]) < 0.17
    assert max(errors["prefill"]) < 0.05


# ---------------------------------------------------------------- the paper's two numbers


def test_d0_and_d1_come_from_the_papers_memory_table():
    """M* = d0 W / (1 - d1 W) with W = rate x mean work, so M*/W = d0 + d1 M*: a straight line."""
    memories = np.array([34_377, 55_758, 100_327, 250_509])
    work = np.array([50, 60, 70, 80]) * 28_172
    shipped = load_hardware(A100).timing.linear
    (d0, d1), *_ = np.linalg.lstsq(np.column_stack([work, work * memories]) / memories[:, None], np.ones(4))
    assert (shipped.d0, shipped.d1) == (float(f"{d0:.6g}"), float(f"{d1:.6g}"))
    assert d0 == pytest.approx(10.6076e-3, abs=5e-8)
    assert d1 == pytest.approx(0.40136e-6, abs=5e-12)
    assert d0 * work / (1 - d1 * work) == pytest.approx(memories, rel=1e-5)


# ---------------------------------------------------------------- operator profile, made up

OPERATORS = ("time_stats.mlp.median", "time_stats.proj.median", "time_stats.emb.median", "time_stats.mlp.mean")
SHAPE = ("n_head", "n_kv_head", "n_embd", "n_expanded_embd", "num_tokens", "num_tensor_parallel_workers")
ATTENTION = ("phase", "num_requests", "chunk_tokens", "cached_tokens", "median_ms_per_layer")


def compute_rows() -> list[list]:
    """ms per layer: 2 for up to 8 tokens, 3 to 16, 5 to 24, 9 to 32; `emb`, the mean and 2 workers must not count."""
    steps = {8: 2.0, 16: 3.0, 24: 5.0, 32: 9.0}
    rows = [[ms - 0.5, 0.5, 77, 77, 4, 4, 64, 128, tokens, 1] for tokens, ms in steps.items()]
    return [*rows, [99, 99, 99, 99, 2, 2, 64, 64, 16, 2]]


def attention_rows(prefill=(0.1, 2e-3, 3e-6, 4e-6), decode=(0.05, 0.01, 2e-4)) -> list[list]:
    rows = []
    for q in (4, 8, 16, 32):
        for k in (0, 64, 512):
            ms = prefill[0] + prefill[1] * q + prefill[2] * q * q + prefill[3] * q * k
            rows.append(["prefill", 1, q, k, repr(ms)])
    for n in (1, 4, 16, 32):
        for k in (0, 64, 512):
            rows.append(["decode", n, 0, k, repr(decode[0] + decode[1] * n + decode[2] * n * (k + 1))])
    return rows


def profile_files(tmp_path: Path, compute=None, attention=None) -> tuple[Path, Path]:
    one = write_csv(tmp_path / "compute.csv", OPERATORS + SHAPE, compute_rows() if compute is None else compute)
    two = write_csv(tmp_path / "attention.csv", ATTENTION, attention_rows() if attention is None else attention)
    return one, two


def test_the_profile_keeps_the_steps_and_counts_layers(tmp_path):
    out = tmp_path / "hw.yaml"
    written = calibrate_profile(*profile_files(tmp_path), TEMPLATE, out)
    profile = load_hardware(out).timing.profile
    assert written == load_hardware(out)
    assert profile.tokens == [8, 16, 24, 32]
    assert profile.seconds == pytest.approx([8e-3, 12e-3, 20e-3, 36e-3])
    assert profile.compute_slope == pytest.approx((36e-3 - 12e-3) / 16)
    compute = written.time_model().compute
    assert compute[[1, 8, 9, 16, 17, 32]] == pytest.approx([8e-3, 8e-3, 12e-3, 12e-3, 20e-3, 36e-3])


def test_repeated_token_counts_take_their_median(tmp_path):
    again = [[*row[:1], row[1] + extra, *row[2:]] for row in compute_rows()[:1] for extra in (1.0, 7.0)]
    out = tmp_path / "hw.yaml"
    written = calibrate_profile(*profile_files(tmp_path, compute=compute_rows() + again), TEMPLATE, out)
    assert written.timing.profile.seconds[0] == pytest.approx(4 * 3e-3)


coefficient = st.floats(1e-6, 1e-1)


@settings(max_examples=30, deadline=None)
@given(st.tuples(*[coefficient] * 4), st.tuples(*[coefficient] * 3))
def test_attention_coefficients_are_recovered(tmp_path_factory, prefill, decode):
    folder = tmp_path_factory.mktemp("fit")
    files = profile_files(folder, attention=attention_rows(prefill, decode))
    written = calibrate_profile(*files, TEMPLATE, folder / "hw.yaml")
    for phase in ("prefill_attention", "decode_attention"):
        assert written.fit[phase]["max_relative_error"] < 1e-4
    p = written.timing.profile
    found = (p.prefill_request, p.prefill_token, p.prefill_square, p.prefill_context)
    found += (p.decode_launch, p.decode_request, p.decode_context)
    expected = np.array(prefill + decode) * 4e-3  # ms per layer to seconds of four layers
    # a term is known to the digits kept of it, or to its share in the shape where it weighs most
    weight = np.array([1, 32, 32**2, 32 * 512, 1, 32, 32 * 513])
    slack = np.repeat([np.max(expected[:4] * weight[:4]), np.max(expected[4:] * weight[4:])], [4, 3]) / weight
    assert np.all(np.abs(np.array(found) - expected) <= 1e-4 * expected + 1e-4 * slack)


def test_several_attention_files_are_fitted_together(tmp_path):
    compute, attention = profile_files(tmp_path)
    rows = attention_rows()
    halves = [write_csv(tmp_path / f"{i}.csv", ATTENTION, rows[i::2]) for i in range(2)]
    whole = calibrate_profile(compute, attention, TEMPLATE, tmp_path / "a.yaml")
    parts = calibrate_profile(compute, halves, TEMPLATE, tmp_path / "b.yaml")
    assert parts.fit == whole.fit
    assert parts.source.keys() == {f"sha256 of {f}" for f in ("compute.csv", "0.csv", "1.csv")}


def test_calibrating_again_from_the_result_changes_nothing(tmp_path):
    files, out = profile_files(tmp_path), tmp_path / "hw.yaml"
    calibrate_profile(*files, TEMPLATE, out)
    before = out.read_bytes()
    calibrate_profile(*files, out, out)
    assert out.read_bytes() == before


def edited(rows: list[list], line: int, column: int, value) -> list[list]:
    return [[value if (i, j) == (line, column) else cell for j, cell in enumerate(row)] for i, row in enumerate(rows)]


@pytest.mark.parametrize(
    ("compute", "attention", "message"),
    [
        (
            edited(compute_rows(), 1, 0, "fast"),
            None,
            r"compute\.csv: line 3, column 'time_stats.mlp.median': 'fast' is not a number",
        ),
        (edited(compute_rows(), 1, 0, "-1"), None, r"compute\.csv: line 3, .*'-1' is out of range, must be 0 to "),
        (edited(compute_rows(), 1, 0, "nan"), None, r"compute\.csv: line 3, .*'nan' is not a number"),
        (
            edited(compute_rows(), 0, 8, 2.5),
            None,
            r"line 2, column 'num_tokens': '2.5' is not a whole number .nearest: 2.",
        ),
        (edited(compute_rows(), 2, 6, 4096), None, r"line 4, column 'n_embd': 4096 is not 64, as tiny has"),
        (compute_rows()[-1:], None, r"column 'num_tensor_parallel_workers': fewer than two token counts"),
        ([], None, r"compute\.csv: no rows below the header"),
        ([[1, 2]], None, r"compute\.csv: line 2, column 'num_tokens': the value is missing"),
        (
            None,
            edited(attention_rows(), 0, 0, "prefil"),
            r"attention\.csv: line 2, .*'prefil' is not a phase \(did you mean",
        ),
        (
            None,
            edited(attention_rows(), 0, 2, 0),
            r"line 2, column 'chunk_tokens': '0' is out of range, must be 1 to ",
        ),
        (
            None,
            edited(attention_rows(), 3, 4, 0),
            r"line 5, column 'median_ms_per_layer': '0' is out of range, must be 1e-12 to ",
        ),
        (None, attention_rows()[:13], r"fewer than 3 different shapes of 'decode'"),
    ],
)
def test_bad_profiles_are_one_line(tmp_path, compute, attention, message):
    files = profile_files(tmp_path, compute, attention)
    with pytest.raises(ConfigError, match=message) as error:
        calibrate_profile(*files, TEMPLATE, tmp_path / "hw.yaml")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "hw.yaml").exists()


def test_a_missing_column_names_the_nearest(tmp_path):
    compute, _ = profile_files(tmp_path)
    bad = write_csv(tmp_path / "bad.csv", ("phase", "num_request", *ATTENTION[2:]), attention_rows())
    with pytest.raises(ConfigError, match=r"bad\.csv: no column 'num_requests' \(did you mean 'num_request'\?\)"):
        calibrate_profile(compute, bad, TEMPLATE, tmp_path / "hw.yaml")
    with pytest.raises(ConfigError, match=r"none\.csv: no such file \(did you mean 'attention\.csv'\?\)"):
        calibrate_profile(tmp_path / "none.csv", bad, TEMPLATE, tmp_path / "hw.yaml")


def test_a_bad_template_is_one_line(tmp_path):
    files = profile_files(tmp_path)
    with pytest.raises(ConfigError, match=r"template: memory_gib: required key is missing"):
        calibrate_profile(*files, {k: v for k, v in TEMPLATE.items() if k != "memory_gib"}, tmp_path / "hw.yaml")


# ---------------------------------------------------------------- whole iterations, made up


def iterations(n: int, compute, seed: int = 1, noise: float = 0.0) -> list[dict]:
    """Mixed batches and what they take: 5 ms, compute(tokens), and attention terms of known size."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(n):
        prefill = [(int(rng.integers(1, 256)), int(rng.integers(0, 1024))) for _ in range(rng.integers(0, 4))]
        decode = rng.integers(1, 1500, size=rng.integers(0, 60))
        q, reads = sum(c for c, _ in prefill), int(decode.sum())
        squares, cross = sum(c * c for c, _ in prefill), sum(c * k for c, k in prefill)
        tokens, kv = q + decode.size, sum(c + k for c, k in prefill) + reads
        values = (tokens, kv, len(prefill), q, squares, cross, int(decode.size), reads)
        seconds = 5e-3 + compute(tokens) + 1e-3 * len(prefill) + 2e-8 * squares + 1e-8 * cross
        seconds += 1e-4 * decode.size + 3e-7 * reads
        row = dict(zip(SUMS, values, strict=True)) | {"seconds": seconds * float(np.exp(noise * rng.standard_normal()))}
        rows.append(row | {"prefill_chunks": ";".join(f"{c}@{k}" for c, k in prefill)})
    return rows


def measured(tmp_path: Path, rows: list[dict], columns=(*SUMS, "seconds")) -> Path:
    return write_csv(tmp_path / "iterations.csv", columns, [[r[c] for c in columns] for r in rows])


def predictions(hardware, rows: list[dict]) -> np.ndarray:
    tm = hardware.time_model()
    return np.array([iteration_time(tm, BatchSums(*(r[c] for c in SUMS))) for r in rows])


def test_straight_compute_and_attention_are_recovered(tmp_path):
    rows = iterations(200, lambda q: 6e-5 * q)
    fitted = calibrate_iterations(measured(tmp_path, rows), TEMPLATE, tmp_path / "hw.yaml")
    p = fitted.timing.profile
    assert p.tokens == []
    found = (p.base, p.compute_slope, p.prefill_request, p.prefill_square, p.prefill_context, p.decode_request)
    assert (*found, p.decode_context) == pytest.approx((5e-3, 6e-5, 1e-3, 2e-8, 1e-8, 1e-4, 3e-7), rel=1e-4)
    assert fitted.fit["held_out"]["mape"] < 1e-5
    assert fitted.fit["held_out"]["r2"] > 0.999999
    assert load_hardware(tmp_path / "hw.yaml") == fitted
    fresh = iterations(50, lambda q: 6e-5 * q, seed=2)
    assert predictions(fitted, fresh) == pytest.approx([r["seconds"] for r in fresh], rel=1e-4)


def test_a_bend_in_the_compute_time_is_followed(tmp_path):
    def bend(q):
        return 8e-3 + 2e-4 * max(0, q - 100)  # flat while memory-bound, then a slope

    train, fresh = iterations(400, bend), iterations(100, bend, seed=2)
    fitted = calibrate_iterations(measured(tmp_path, train), TEMPLATE, tmp_path / "hw.yaml")
    compute = fitted.time_model().compute
    assert fitted.timing.profile.between == "linear"
    assert len(fitted.timing.profile.tokens) >= 4
    assert np.all(np.diff(compute) >= 0)
    truth = np.array([r["seconds"] for r in fresh])
    assert np.abs(predictions(fitted, fresh) / truth - 1).mean() < 0.02
    assert fitted.fit["held_out"]["mape"] < 0.02


def test_held_out_error_is_about_the_noise(tmp_path):
    rows = iterations(400, lambda q: 6e-5 * q, noise=0.03)
    fitted = calibrate_iterations(measured(tmp_path, rows), TEMPLATE, tmp_path / "hw.yaml")
    held = fitted.fit["held_out"]
    assert held["rows"] == 80
    assert held["mape"] == pytest.approx(0.03 * np.sqrt(2 / np.pi), rel=0.3)  # the mean of |N(0, 0.03)|
    assert 0.95 < held["r2"] < 1


def test_measurements_that_scatter_do_not_make_the_fit_low(tmp_path):
    """Iterations that take s = 20 % more or less: the model's sum is theirs, not lower by 2 s^2 = 8 %."""
    ratios = []
    for seed in range(6):
        rows = iterations(400, lambda q: 6e-5 * q, seed=seed, noise=0.2)
        fitted = calibrate_iterations(measured(tmp_path, rows), TEMPLATE, tmp_path / "hw.yaml")
        ratios.append(predictions(fitted, rows).sum() / sum(r["seconds"] for r in rows))
    assert np.mean(ratios) == pytest.approx(1.0, abs=0.02)


def test_held_out_rows_are_not_fitted(tmp_path):
    """Twenty-five noisy rows and seven coefficients: rows that are fitted look much better than rows that are not."""
    held, fitted = [], []
    for seed in range(10):
        rows = iterations(25, lambda q: 6e-5 * q, seed=seed, noise=0.2)
        fit = calibrate_iterations(measured(tmp_path, rows), TEMPLATE, tmp_path / "hw.yaml").fit
        held.append(fit["held_out"]["mape"])
        fitted.append(fit["all_rows"]["mape"])
    assert np.mean(held) > 1.25 * np.mean(fitted)


def test_chunks_written_out_give_the_same_fit(tmp_path):
    rows = iterations(60, lambda q: 6e-5 * q)
    one = calibrate_iterations(measured(tmp_path, rows), TEMPLATE, tmp_path / "a.yaml")
    columns = ("prefill_chunks", "decodes", "decode_context", "seconds")
    two = calibrate_iterations(measured(tmp_path, rows, columns), TEMPLATE, tmp_path / "b.yaml")
    assert two.timing == one.timing
    assert two.fit == one.fit


def test_decode_only_measurements_leave_prefill_at_zero(tmp_path):
    rows = [r for r in iterations(400, lambda q: 6e-5 * q) if r["prefills"] == 0]
    p = calibrate_iterations(measured(tmp_path, rows), TEMPLATE, tmp_path / "hw.yaml").timing.profile
    assert p.prefill_request == p.prefill_square == p.prefill_context == 0.0
    per_decode = p.compute_slope + p.decode_request  # the data holds only their sum
    assert per_decode == pytest.approx(6e-5 + 1e-4, rel=1e-3)


def test_prediction_beyond_the_measurements_grows(tmp_path):
    rows = iterations(200, lambda q: 1e-2 * np.ceil(q / 128))
    tm = calibrate_iterations(measured(tmp_path, rows), TEMPLATE, tmp_path / "hw.yaml").time_model()
    times = [iteration_time(tm, BatchSums(q, q)) for q in range(0, 20_000, 50)]
    assert np.all(np.diff(times) >= 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seconds": 0}, r"iterations\.csv: line 2, column 'seconds': '0' is out of range, must be 1e-12 to "),
        ({"seconds": "soon"}, r"line 2, column 'seconds': 'soon' is not a number"),
        ({"decodes": -1}, r"line 2, column 'decodes': '-1' is out of range, must be 0 to "),
        ({"tokens": 10**6}, r"line 2, column 'tokens': 1000000 is not prefill_tokens \+ decodes"),
    ],
)
def test_bad_iterations_are_one_line(tmp_path, change, message):
    rows = iterations(30, lambda q: 6e-5 * q)
    rows[0] |= change
    with pytest.raises(ConfigError, match=message) as error:
        calibrate_iterations(measured(tmp_path, rows), TEMPLATE, tmp_path / "hw.yaml")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "hw.yaml").exists()


def test_bad_chunks_too_few_rows_and_missing_columns(tmp_path):
    out = tmp_path / "hw.yaml"
    rows = iterations(30, lambda q: 6e-5 * q)
    columns = ("prefill_chunks", "decodes", "decode_context", "seconds")
    with pytest.raises(ConfigError, match="19 measured iterations; at least 20"):
        calibrate_iterations(measured(tmp_path, rows[:19]), TEMPLATE, out)
    with pytest.raises(ConfigError, match=r"no column 'tokens'"):
        calibrate_iterations(measured(tmp_path, rows, SUMS[1:]), TEMPLATE, out)
    rows[0]["prefill_chunks"] = "256"
    with pytest.raises(ConfigError, match=r"line 2, column 'prefill_chunks': '256' is not chunk@cached"):
        calibrate_iterations(measured(tmp_path, rows, columns), TEMPLATE, out)


def test_the_written_file_is_readable_and_names_its_input(tmp_path):
    path = measured(tmp_path, iterations(40, lambda q: 6e-5 * q))
    calibrate_iterations(path, TEMPLATE | {"source": {"data": "made up"}}, tmp_path / "hw.yaml")
    data = load_yaml(tmp_path / "hw.yaml")
    assert list(data)[:3] == ["name", "device", "model"]
    assert data["source"]["data"] == "made up"
    assert len(data["source"]["sha256 of iterations.csv"]) == 64
    assert max(map(len, (tmp_path / "hw.yaml").read_text().splitlines())) <= 120


def test_the_linear_model_is_fitted_beside_the_profile_and_written_when_the_template_has_none(tmp_path):
    d0, d1 = 0.011, 5e-7  # s, s per KV token
    random = np.random.default_rng(2)
    rows = ["tokens,prefills,prefill_tokens,prefill_squares,prefill_context,decodes,decode_context,kv_tokens,seconds"]
    for _ in range(40):
        decodes = int(random.integers(1, 64))
        context = int(random.integers(decodes, 600 * decodes))
        rows.append(f"{decodes},0,0,0,0,{decodes},{context},{context},{d0 + d1 * context:.12g}")
    csv = tmp_path / "iterations.csv"
    csv.write_text("\n".join(rows) + "\n")
    header = load_yaml(A100)
    own = calibrate_iterations(csv, header | {"timing": {}}, tmp_path / "own.yaml")
    assert (own.timing.linear.d0, own.timing.linear.d1) == pytest.approx((d0, d1), rel=1e-5)
    assert own.fit["linear"]["r2"] > 0.999999
    kept = calibrate_iterations(csv, header, tmp_path / "kept.yaml")
    assert kept.timing.linear == load_hardware(A100).timing.linear
