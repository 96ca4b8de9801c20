"""The column ``hash_ids`` of a recorded trace: which prompts begin alike, and what vLLM's prefix cache makes of it."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest
import yaml

from fluidwait import cli
from fluidwait.api import simulation as api
from fluidwait.base.errors import ConfigError
from fluidwait.device.hardware import load_hardware
from fluidwait.engines.presets import semantics_of
from fluidwait.engines.v1.rules import known_blocks
from fluidwait.workload import generate, load_workload

HARDWARE = load_hardware(api.HARDWARE)


def trace(folder, rows, tokens=512, process="trace", header="arrival,prompt,output,hash_ids"):
    (folder / "trace.csv").write_text("\n".join([header, *rows]) + "\n")
    lengths = {"kind": "trace", "file": "trace.csv"} | ({} if tokens is None else {"hash_tokens": tokens})
    file = folder / "trace.yaml"
    file.write_text(yaml.safe_dump({"name": "trace", "lengths": lengths, "arrivals": {"process": process}}))
    return file


def test_numbers_of_512_tokens_are_32_blocks_each(tmp_path):
    """Equal where the numbers are, from the first on; the last one counts as far as its blocks are full."""
    rows = ["0,1024,5,7 8", "0.1,1100,5,7 8 9", "0.2,1030,5,8 7 9", "0.3,600,5,7 10", "0.4,15,5,3"]
    blocks = generate(load_workload(trace(tmp_path, rows)), n=5, seed=1).blocks
    assert [len(own) for own in blocks] == [64, 68, 64, 37, 0]
    assert blocks[0] == blocks[1][:64] and blocks[0][:32] == blocks[3][:32]
    assert not set(blocks[0]) & set(blocks[2]), "the same numbers in another order are other prefixes"
    assert not set(blocks[1]) & set(blocks[3][32:])


def test_numbers_of_16_tokens_are_blocks(tmp_path):
    blocks = generate(load_workload(trace(tmp_path, ["0,40,5,4 5 6", "0.1,33,5,4 5 7"], 16)), n=2, seed=1).blocks
    assert blocks[0] == blocks[1] and len(blocks[0]) == 2


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("0,1024,5,7", "line 2, column 'hash_ids': 1 numbers for a prompt of 1024 tokens (nearest valid number: 2)"),
        ("0,1024,5,", "line 2, column 'hash_ids': 0 numbers for a prompt of 1024 tokens (nearest valid number: 2)"),
        ("0,1024,5,7 -8", "line 2, column 'hash_ids': '-8' is not a whole number; numbers stand with spaces"),
        ("0,1024,5,7;8", "line 2, column 'hash_ids': '7;8' is not a whole number; numbers stand with spaces"),
    ],
)
def test_a_bad_row_is_told_in_one_line(row, told, tmp_path):
    with pytest.raises(ConfigError) as error:
        generate(load_workload(trace(tmp_path, [row])), n=1, seed=1)
    assert told in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"header": "arrival,prompt,output,hashes"}, "no column 'hash_ids' (did you mean 'hashes'?)"),
        ({"tokens": 100}, "hash_tokens: must be a multiple of 16, found 100 (nearest valid value: 96)"),
        (
            {"process": "poisson"},
            "hash_tokens: prompts begin alike only in the order of the file, but arrivals are 'poi",
        ),
    ],
)
def test_a_bad_workload_is_told_in_one_line(change, told, tmp_path):
    with pytest.raises(ConfigError) as error:
        generate(load_workload(trace(tmp_path, ["0,1024,5,7 8", "1,1024,5,7 8"], **change)), n=2, rate=1, seed=1)
    assert told in str(error.value) and "\n" not in str(error.value)


def conversations(folder, tokens=512):
    """Ten chats of eight turns each: every prompt begins with the one before."""
    g, rows = np.random.default_rng(1), []
    for turn in range(8):
        for chat in range(10):
            prompt = 300 + 400 * turn + int(g.integers(0, 100))
            ids = " ".join(str(1000 * chat + i) for i in range(-(-prompt // 512)))
            rows.append(f"{2 * turn + 0.2 * chat:.1f},{prompt},{int(g.integers(5, 200))},{ids}")
    return load_workload(trace(folder, rows, tokens))


@pytest.mark.parametrize("policy", ["vllm_v1", "wait_chunked"])
def test_the_prefix_cache_of_the_simulator_is_that_of_vllm(policy, tmp_path):
    """Hits save time, other semantics do not read the column, and vLLM's real pool of blocks does the same."""
    work = conversations(tmp_path)
    traffic, blind = api.generate(work, requests=80), api.generate(conversations(tmp_path, None), requests=80)
    for semantics in ("vllm", "vllm_sync"):
        job = api.prepare(policy, traffic, semantics=semantics)
        assert job.semantics.caching and len(known_blocks(job.requests, job.semantics)) == 80
        cached = api.run(job).run
        without = api.run(api.prepare(policy, blind, semantics=semantics)).run
        assert (cached.completion - without.completion).mean() < 0
        if find_spec("vllm"):
            real = api.run(job, "vllm").run
            assert np.array_equal(cached.completion, real.completion)
            assert np.array_equal(cached.first_token, real.first_token)
            assert (cached.busy, cached.peak_blocks) == (real.busy, real.peak_blocks)
    serving = [api.simulate(policy, some, semantics="serving").run.completion for some in (traffic, blind)]
    assert np.array_equal(*serving)


def test_blocks_of_another_size_are_refused():
    small = HARDWARE.model_copy(update={"block_size": 32})
    with pytest.raises(ConfigError, match=r"block_size: 32, but .* blocks of 16 tokens \(nearest valid value: 16\)"):
        semantics_of("vllm", small, caching=True)


def test_the_command_takes_it(tmp_path, capsys):
    conversations(tmp_path)
    asked = ["simulate", "--policy", "vllm_v1", "--workload", str(tmp_path / "trace.yaml"), "--requests", "80"]
    assert cli.main([*asked, "--semantics", "vllm"]) == 0
    assert "rows 1 to 80 of the 80 of the trace" in capsys.readouterr().out
