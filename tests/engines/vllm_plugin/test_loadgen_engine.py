"""The load generator, the iteration log and the calibration on a real vLLM engine on the CPU."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from fluidwait.base.errors import ConfigError
from fluidwait.device.hardware import ModelShape
from fluidwait.device.iteration_times import calibrate_iterations
from fluidwait.engines.vllm import calibrate
from fluidwait.engines.vllm.load import engine as loadgen_engine
from fluidwait.engines.vllm.load.engine import EngineSettings, engine_options, write_model
from fluidwait.engines.vllm.load.generator import columns_of, drift, offer
from fluidwait.stats.metrics import check_run
from fluidwait.workload import Requests

SHAPE = ModelShape(
    name="tiny", layers=2, hidden=64, query_heads=2, kv_heads=2, head_dim=32, mlp_hidden=128, bytes_per_weight=4,
    bytes_per_kv=4,
)  # fmt: skip
SETTINGS = EngineSettings(
    dtype="float32", block_size=32, kv_blocks=64, max_model_len=512, max_num_seqs=16, max_num_batched_tokens=128,
    vocabulary=256, enforce_eager=True, environment={"VLLM_CPU_KVCACHE_SPACE": "1"},
)  # fmt: skip
WAIT = "fluidwait.engines.vllm.scheduler:WaitScheduler"
POLICY = {"fluidwait": {"policy": "wait_chunked", "settings": {"in_service": 4, "chunk": 64, "boundaries": [64]}}}


class Running:
    """An engine and the event loop it lives on."""

    def __init__(self, folder):
        self.loop = asyncio.new_event_loop()
        self._context = loadgen_engine.start(SHAPE, SETTINGS, folder)
        self.engine = self(self._context.__aenter__())

    def __call__(self, work):
        return self.loop.run_until_complete(work)

    def close(self):
        self(self._context.__aexit__(None, None, None))
        self.loop.close()


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    pytest.importorskip("vllm", reason="vLLM is not installed (./run.sh setup-vllm)")
    running = Running(tmp_path_factory.mktemp("model"))
    # as in a recording: the first answer makes vLLM import modules in this process, for a second in a new environment
    running(offer(some(1), running.engine.send, vocabulary=256))
    yield running
    running.close()


@pytest.fixture
def engine(running):
    """The engine with vLLM's own scheduler and all its blocks, whatever the test before did."""
    running(running.engine.use())
    return running.engine


def some(n=12, gap=0.01, prompt=40, output=6, seed=0) -> Requests:
    random = np.random.default_rng(seed)
    lengths = random.integers(1, prompt, n), random.integers(1, output, n)
    return Requests(np.arange(n) * gap, *lengths, np.zeros(n, dtype=np.int64))


def tokens_of(rows):
    return dict(zip(calibrate.COLUMNS, rows.T, strict=True))


def test_requests_are_sent_when_they_are_due(running, engine):
    """A generator that lags behind does so every time; a machine that stops for a second does not."""
    requests = some()
    late = [drift(requests, running(offer(requests, engine.send, vocabulary=256))) for _ in range(3)]
    assert min(d.largest for d in late) < 1.0


@pytest.mark.parametrize("scheduler", ["stock", "wait"])
def test_every_request_comes_back_with_exactly_its_tokens(running, engine, scheduler):
    if scheduler == "wait":
        running(engine.use(WAIT, POLICY))
    requests = some()
    running(engine.log())
    answers = running(offer(requests, engine.send, vocabulary=256))
    log = running(engine.log())
    check_run(columns_of(requests, answers, loadgen_engine.evictions(log, 12)))
    sums = tokens_of(log.rows)
    # The last output token is never fed back: prompt + output - 1 tokens are computed for each request.
    assert sums["tokens"].sum() == (requests.prompt + requests.output - 1).sum()
    assert sums["prefill_tokens"].sum() == requests.prompt.sum()
    assert np.all(sums["tokens"] == sums["prefill_tokens"] + sums["decodes"])
    assert np.all(sums["tokens"] <= SETTINGS.max_num_batched_tokens)


def test_iterations_do_not_overlap_and_hold_the_scheduler(running, engine):
    running(engine.log())
    running(offer(some(20), engine.send, vocabulary=256))
    sums = tokens_of(running(engine.log()).rows)
    assert np.all(sums["seconds"] > sums["planning"]) and np.all(sums["planning"] > 0)
    assert np.all(np.diff(sums["begin"]) >= sums["seconds"][:-1] - 1e-9)


def test_a_policy_is_in_force_only_until_the_next_exchange(running, engine):
    running(engine.use(WAIT, POLICY))
    assert running(engine.describe())["scheduler"] == "WaitScheduler"
    requests = some(16, gap=0.0)
    running(engine.log())
    running(offer(requests, engine.send, vocabulary=256))
    held = tokens_of(running(engine.log()).rows)
    assert (held["prefills"] + held["decodes"]).max() <= 4  # in_service
    running(engine.use())
    assert running(engine.describe())["scheduler"] == "Scheduler"  # vLLM's choice on a CPU
    running(offer(requests, engine.send, vocabulary=256))
    free = tokens_of(running(engine.log()).rows)
    assert (free["prefills"] + free["decodes"]).max() > 4


def test_fewer_blocks_preempt_and_every_preemption_is_counted(running, engine):
    running(engine.use(blocks=8))
    assert running(engine.describe())["blocks"] == 9  # one is vLLM's own
    requests = Requests(np.zeros(6), np.full(6, 40), np.full(6, 60), np.zeros(6, dtype=np.int64))
    running(engine.log())
    answers = running(offer(requests, engine.send, vocabulary=256))
    log = running(engine.log())
    counts = loadgen_engine.evictions(log, 6)
    assert counts.sum() == sum(log.preempted.values()) > 0
    check_run(columns_of(requests, answers, counts))
    assert tokens_of(log.rows)["resident_kv"].max() <= 8 * SETTINGS.block_size


def test_more_blocks_than_the_engine_has_are_refused(running, engine):
    with pytest.raises(Exception, match="66 KV blocks asked for, the engine has 65"):
        running(engine.use(blocks=65))


def test_a_burst_starts_together(running, engine):
    timed = running(calibrate.burst(engine, 4, 16, 5, 256))
    sums = tokens_of(timed.rows)
    assert sums["prefills"].tolist() == [4, 0, 0, 0, 0]
    assert sums["decodes"].tolist() == [0, 4, 4, 4, 4]
    assert sums["decode_context"].tolist() == [0, *(4 * (16 + k) for k in (1, 2, 3, 4))]
    assert timed.seconds == pytest.approx(sums["seconds"].sum())


def test_calibration_of_a_small_grid_becomes_a_hardware_file(running, engine, tmp_path):
    bursts = calibrate.Bursts(batch=[1, 4, 8], prompt=[8, 64], output=5, repeats=1)
    rows = running(calibrate.measure_bursts(engine, bursts, 256, room=10_000))
    rows = np.concatenate([rows, running(calibrate.measure_mixed(engine, some(20), 4, 256))])
    table = calibrate.medians(rows)
    assert table["count"].sum() == len(rows) and table.height < len(rows)
    table.write_csv(tmp_path / "iterations.csv")
    header = {"name": "tiny", "device": "CPU", "model": SHAPE.model_dump(), "memory_gib": 1, "max_model_len": 512}
    header |= {"round_to_max_model_len": False, "block_size": 32}
    hardware = calibrate_iterations(tmp_path / "iterations.csv", header, tmp_path / "tiny.yaml")
    model = hardware.time_model()
    assert hardware.fit["held_out"]["rows"] == table.height // 5
    assert 1e-4 < model.base + model.compute[min(8, len(model.compute) - 1)] < 1.0


def test_generations_are_timed_per_batch_size(running, engine):
    whole = calibrate.Generation(prompt=16, output=4, batch=[1, 2], extrapolated=[4], repeats=2)
    table = running(calibrate.measure_generations(engine, whole, 256))
    assert table["batch"].to_list() == [1, 2, 4] * 2
    assert table["extrapolated"].to_list() == [False, False, True] * 2
    work = [batch * sum(range(16, 20)) for batch in (1, 2, 4)]
    assert table["kv_work"].to_list() == work * 2 and table["iterations"].to_list() == [4] * 6


def test_no_iterations_are_an_error():
    with pytest.raises(ConfigError, match="no iterations were measured"):
        calibrate.medians(np.empty((0, len(calibrate.COLUMNS))))


def test_the_model_folder_is_what_vllm_calls_a_llama(tmp_path):
    folder = write_model(tmp_path / "m", SHAPE, SETTINGS)
    assert '"vocab_size": 256' in (folder / "config.json").read_text()
    options = engine_options(folder, SETTINGS)
    assert options["num_gpu_blocks_override"] == 65 and options["enable_prefix_caching"] is False


def test_a_shape_that_is_no_llama_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="gated_mlp: a Llama has a gated MLP"):
        write_model(tmp_path, SHAPE.model_copy(update={"gated_mlp": False}), SETTINGS)


def test_without_vllm_there_is_one_clear_line(monkeypatch):
    def missing(name):
        raise loadgen_engine.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(loadgen_engine.importlib.metadata, "version", missing)
    with pytest.raises(ConfigError, match="vLLM is not installed here"):
        loadgen_engine.engine_version()
