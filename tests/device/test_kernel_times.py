"""Iteration times from single kernels: the shipped files, and made-up profiles with a known law."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import polars as pl
import pytest

from fluidwait.base.errors import ConfigError
from fluidwait.base.paths import project_root
from fluidwait.device.hardware import load_hardware
from fluidwait.device.kernel_times import calibrate_kernels
from fluidwait.device.timing import BatchSums, iteration_time

ROOT = project_root()
SHIPPED = {"rtx-4090_llama-3.1-8b": "rtx4090_llama-3.1-8b", "rtx-pro-6000_llama-3.1-8b": "rtxpro6000_llama-3.1-8b"}
LAYERS = 4
TEMPLATE = {
    "name": "made-up",
    "device": "none",
    "model": {
        "name": "tiny",
        "layers": LAYERS,
        "hidden": 64,
        "query_heads": 4,
        "kv_heads": 4,
        "head_dim": 16,
        "mlp_hidden": 128,
    },
    "memory_gib": 1,
    "max_model_len": 512,
}


def raw(folder: str) -> Path:
    at = Path(os.environ.get("FLUIDWAIT_SHARED", ROOT.parent / "shared")) / "data" / "vllm-records" / folder
    if not (at / "kernel_attention.csv").is_file():
        pytest.skip("the raw kernel profiles are not here: set FLUIDWAIT_SHARED to the folder that holds data/")
    return at


@pytest.mark.parametrize("name", SHIPPED)
def test_the_shipped_files_are_made_again_byte_for_byte(name, tmp_path):
    shipped, out = ROOT / "data" / "hardware" / f"{name}.yaml", tmp_path / f"{name}.yaml"
    written = calibrate_kernels(raw(SHIPPED[name]), shipped, out)
    assert out.read_bytes() == shipped.read_bytes()
    assert written == load_hardware(shipped)


@pytest.mark.parametrize(
    ("name", "blocks", "alone", "mixed"),
    [
        ("rtx-4090_llama-3.1-8b", 2588, 0.003, 0.015),
        ("rtx-pro-6000_llama-3.1-8b", 30_000, 0.003, 0.022),
    ],
)
def test_the_shipped_files_say_how_well_they_fit(name, blocks, alone, mixed):
    hardware = load_hardware(name)
    assert hardware.kv_blocks == blocks
    assert hardware.fit["decodes_alone"]["left_out_iteration_error_mean"] < alone
    assert hardware.fit["mixed_held_out"]["iteration_error_mean"] < mixed
    unequal, beside = hardware.fit["unequal_decodes"], hardware.fit["unequal_beside_prefill"]
    assert unequal["held_out_mean"] < 0.6 * unequal["without_mean"]
    assert beside["mean"] < 0.6 * beside["without_mean"]


# --- a made-up device ----------------------------------------------------------------------------------------------


def alone(n: float, length: float) -> float:
    """Microseconds per layer of n equal decodes."""
    return 5 + n + 0.01 * n * length


def beside(n: float, context: float, chunk: float, cached: float, longest: float) -> float:
    return 10 + 2 * n + 0.02 * context + 0.5 * chunk + 1e-3 * chunk**2 + 2e-4 * chunk * cached + 0.03 * longest


def profile(folder: Path, skew: float | None = 0.0) -> Path:
    """Kernel files; unequal decodes take ``skew`` microseconds longer per token that the longest exceeds the mean."""
    folder.mkdir(exist_ok=True)
    tokens = (1, 8, 64, 256)
    per_token = {"layernorm": 1.0, "mlp": 7.0, "embedding": 100.0, "final_layernorm": 50.0}
    dense = [(layer, t, base + 0.1 * t) for layer, base in per_token.items() for t in tokens]
    write(folder / "kernel_dense.csv", ("layer", "tokens", "time_us"), dense)
    heads = [(layer, n, base + n) for layer, base in (("lm_head", 200.0), ("sampler", 20.0)) for n in (1, 4, 16)]
    write(folder / "kernel_per_sequence.csv", ("layer", "sequences", "time_us"), heads)
    rows = [(0, 0, n, k, alone(n, k + 1)) for n in (1, 4, 16) for k in (15, 63, 255)]
    mixed = itertools.product((16, 64, 128), (0, 64, 256), (0, 1, 4, 16), (15, 63, 255))
    rows += [
        (c, p, n, k if n else 0, beside(n, n * (k + 1), c, p, max(c + p, k + 1 if n else 0)))
        for c, p, n, k in mixed
        if n or k == 15
    ]
    write(folder / "kernel_attention.csv", ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode", "time_us"), rows)
    if skew is not None:
        write(
            folder / "kernel_skew.csv",
            SKEW,
            [unequal(n, nb, c, skew) for n in (4, 16) for nb in (1, 2, 3) for c in (0, 64)],
        )
    return folder


SKEW = ("n", "nb", "pc", "kp", "kv_big", "kvs", "kv_mean", "t_mean_us", "t_skew_us")


def unequal(n: int, nb: int, chunk: int, skew: float) -> tuple:
    big, small = 31 + 16 * n, 31
    mean = (nb * (big + 1) + (n - nb) * (small + 1)) / n
    if chunk:
        context = n * mean
        times = (beside(n, context, chunk, 0, mean), beside(n, context, chunk, 0, big + 1))
    else:
        times = (alone(n, mean), alone(n, mean) + skew * (big + 1 - mean))
    return n, nb, chunk, 0, big, small, int(mean) - 1, *(3 * t for t in times)


def write(path: Path, columns: tuple[str, ...], rows: list[tuple]) -> None:
    pl.DataFrame(rows, schema=columns, orient="row").write_csv(path)


def test_a_known_law_is_found_again(tmp_path):
    tm = calibrate_kernels(profile(tmp_path / "raw", skew=0.4), TEMPLATE, tmp_path / "out.yaml").time_model()

    def seconds(chunk: int, cached: int, decodes: list[int]) -> float:
        n, context = len(decodes), sum(k + 1 for k in decodes)
        longest = max([chunk + cached if chunk else 0, *(k + 1 for k in decodes)])
        sums = BatchSums(chunk + n, 0, int(chunk > 0), chunk, chunk**2, chunk * cached, n, context, longest)
        return iteration_time(tm, sums)

    def rest(tokens: int, requests: int) -> float:
        """Microseconds of what is not attention."""
        layers = LAYERS * (2 * (1 + 0.1 * tokens) + 7 + 0.1 * tokens)
        return layers + 150 + 0.2 * tokens + 220 + 2 * requests

    assert seconds(0, 0, [63] * 4) == pytest.approx(1e-6 * (rest(4, 4) + LAYERS * alone(4, 64)), rel=1e-4)
    assert seconds(0, 0, [99] * 8) == pytest.approx(1e-6 * (rest(8, 8) + LAYERS * alone(8, 100)), rel=1e-4)
    uneven = LAYERS * (alone(4, 64) + 0.4 * (159 - 63))
    assert seconds(0, 0, [31, 31, 31, 159]) == pytest.approx(1e-6 * (rest(4, 4) + uneven), rel=2e-3)
    mixed = LAYERS * beside(4, 256, 64, 64, 160)
    assert seconds(64, 64, [31, 31, 31, 159]) == pytest.approx(1e-6 * (rest(68, 5) + mixed), rel=1e-4)
    assert seconds(100, 20, []) == pytest.approx(1e-6 * (rest(100, 1) + LAYERS * beside(0, 0, 100, 20, 120)), rel=1e-4)


def test_unequal_lengths_that_cost_nothing_get_no_coefficient(tmp_path):
    folder = profile(tmp_path / "raw")
    table = pl.read_csv(folder / "kernel_skew.csv")
    table.with_columns(t_skew_us=0.98 * pl.col("t_mean_us")).write_csv(folder / "kernel_skew.csv")
    hardware = calibrate_kernels(folder, TEMPLATE, tmp_path / "out.yaml")
    assert hardware.fit["unequal_decodes"]["kept"] == "no"
    assert not any(hardware.timing.profile.attention.alone.uneven)


def test_without_measurements_of_unequal_lengths_they_cost_nothing(tmp_path):
    hardware = calibrate_kernels(profile(tmp_path / "raw", skew=None), TEMPLATE, tmp_path / "out.yaml")
    assert not any(hardware.timing.profile.attention.alone.uneven)
    assert "unequal_decodes" not in hardware.fit
    assert set(hardware.fit) == {"dense", "head_and_sampler", "decodes_alone", "prefill", "mixed", "mixed_held_out"}


def test_batches_beyond_the_memory_are_not_fitted(tmp_path):
    folder, out = profile(tmp_path / "raw"), tmp_path / "out.yaml"
    before = calibrate_kernels(folder, TEMPLATE, out).timing.profile.attention.beside
    room = load_hardware(out).kv_blocks * 16
    with (folder / "kernel_attention.csv").open("a") as file:
        file.write(f"16,{room},4,15,123456\n")
    assert calibrate_kernels(folder, TEMPLATE, out).timing.profile.attention.beside == before


@pytest.mark.parametrize(
    ("file", "old", "new", "told"),
    [
        ("kernel_dense.csv", "mlp,64,", "mlp,65,", "column 'layer': '.*' has no row with tokens = 6"),
        ("kernel_attention.csv", "prefill_chunk", "chunk", "no column 'prefill_chunk'"),
        ("kernel_attention.csv", "16,0,0,0,", "0,0,0,0,", "line .*'n_decode': .*no batch"),
        ("kernel_attention.csv", "16,0,0,0,", "16,0,0,0,-", "kernel_attention.csv: line .*'time_us'"),
        ("kernel_per_sequence.csv", "lm_head,4,", "lm_head,0,", "kernel_per_sequence.csv: line .*'sequences'"),
        ("kernel_skew.csv", "t_skew_us", "t_us", "no column 't_skew_us'"),
    ],
)
def test_a_wrong_file_is_one_line_that_names_it(tmp_path, file, old, new, told):
    folder, out = profile(tmp_path / "raw"), tmp_path / "out.yaml"
    text = (folder / file).read_text()
    assert old in text
    (folder / file).write_text(text.replace(old, new, 1))
    with pytest.raises(ConfigError, match=told):
        calibrate_kernels(folder, TEMPLATE, out)
    assert not out.exists()


def test_a_profile_without_prefills_is_refused(tmp_path):
    folder = profile(tmp_path / "raw")
    table = pl.read_csv(folder / "kernel_attention.csv").filter(pl.col("prefill_chunk") == 0)
    table.write_csv(folder / "kernel_attention.csv")
    with pytest.raises(ConfigError, match="too few batches"):
        calibrate_kernels(folder, TEMPLATE, tmp_path / "out.yaml")


def test_a_profile_of_few_rows_is_enough(tmp_path):
    """No row to leave out, no mixed batch, unequal decodes in a number beyond the rest."""
    folder, out = profile(tmp_path / "raw"), tmp_path / "out.yaml"
    for name, column in (("kernel_dense.csv", "tokens"), ("kernel_per_sequence.csv", "sequences")):
        table = pl.read_csv(folder / name)
        table.filter(pl.col(column).is_in(table[column].unique().sort()[:2].to_list())).write_csv(folder / name)
    table = pl.read_csv(folder / "kernel_attention.csv")
    few = ((pl.col("prefill_chunk") > 0) & (pl.col("n_decode") == 0)) | (pl.col("prefill_chunk") == 0)
    table.filter(few & (pl.col("n_decode") < 16) & (pl.col("kv_decode") < 200)).write_csv(
        folder / "kernel_attention.csv"
    )
    hardware = calibrate_kernels(folder, TEMPLATE, out)
    assert hardware.fit["mixed"] == hardware.fit["mixed_held_out"] == {"points": 0}
    assert hardware.fit["dense"] == {"entries": 2}
    assert hardware.timing.profile.attention.beside.decodes == [0]
    assert iteration_time(hardware.time_model(), BatchSums(20, 0, 1, 16, 256, 0, 4, 256, 64)) > 0
