"""Targets of the real engine: every mistake is one line before an engine is started."""

from __future__ import annotations

import pytest
import yaml

from fluidwait.base.errors import ConfigError
from fluidwait.base.paths import ROOT_VARIABLE, project_root
from fluidwait.cli import main
from fluidwait.device.hardware import Hardware
from fluidwait.real.target import STOCK, load_target, rehearsal


def changed(tmp_path, **change):
    """A copy of the CPU target with some keys replaced; a dotted name goes down."""
    data = yaml.safe_load((project_root() / "config" / "real" / "cpu.yaml").read_text())
    for key, value in change.items():
        *path, last = key.split("__")
        inside = data
        for name in path:
            inside = inside[name]
        inside[last] = value
    file = tmp_path / "changed.yaml"
    file.write_text(yaml.safe_dump(data))
    return file


@pytest.mark.parametrize("name", ["cpu", "gpu"])
def test_the_targets_that_ship_are_sound(name):
    target = load_target(name)
    hardware = Hardware.model_validate(target.header())
    assert target.device == name and hardware.kv_blocks == target.engine.kv_blocks
    for variant in target.variants.values():
        assert STOCK in variant.policies
    limits = target.policy(STOCK).settings
    assert limits.token_budget == target.engine.max_num_batched_tokens
    assert limits.max_requests == target.engine.max_num_seqs


def test_the_gpu_target_is_the_papers_model_on_a_gpu_of_80_gb():
    target = load_target("gpu")
    used = target.model.weight_bytes + target.engine.kv_blocks * target.engine.block_size * 524_288
    assert 0.8 * 80e9 < used < 0.9 * 80e9
    assert target.model.kv_bytes_per_token == 524_288
    assert (target.generation.prompt, target.generation.output) == (256, 20)
    assert target.generation.batch == [1, 2, 4, 8, 16, 32, 64, 128] and target.generation.extrapolated == [256]


def test_a_rehearsal_keeps_everything_but_the_size():
    target, small = load_target("gpu"), rehearsal(load_target("gpu"))
    assert small.device == "cpu" and small.model.weights < 1e6 < target.model.weights
    assert small.engine.kv_blocks * small.engine.block_size == target.engine.kv_blocks * target.engine.block_size
    assert small.bursts == target.bursts and small.generation == target.generation
    assert [v.shares for v in small.variants.values()] == [v.shares for v in target.variants.values()]


def test_a_trace_must_have_the_rows_of_every_replication(tmp_path):
    """All replications would have replayed the rows at its beginning."""
    (tmp_path / "t.csv").write_text("arrival,prompt,output\n" + "".join(f"{i},64,20\n" for i in range(100)))
    workload = {"name": "t", "lengths": {"kind": "trace", "file": "t.csv"}, "arrivals": {"process": "trace"}}
    (tmp_path / "t.yaml").write_text(yaml.safe_dump(workload))
    change = {"variants__single__workload": str(tmp_path / "t.yaml"), "variants__single__replications": 3}
    load_target(changed(tmp_path, **change, variants__single__requests=33))
    with pytest.raises(
        ConfigError, match=r"variants\.single: .*in each of 3 stretches, but the trace has 100 \(nearest"
    ):
        load_target(changed(tmp_path, **change, variants__single__requests=34))


MISTAKES = {
    "a misspelt key": ({"engine__kv_block": 3}, "engine.kv_block: unknown key (did you mean 'kv_blocks'?)"),
    "an unknown policy": (
        {"variants__single__policies": ["stock", "wiat"]},
        "variants.single.policies: no policy 'wiat' (did you mean 'wait'?)",
    ),
    "shares that do not increase": ({"variants__single__shares": [0.9, 0.5]}, "shares must increase"),
    "more blocks than the engine's": (
        {"variants__memory__kv_blocks": 100_000},
        "variants.memory.kv_blocks: 100000 is more than the engine's (nearest valid value: 512)",
    ),
    "requests longer than the engine takes": (
        {"variants__single__workload": "p512d20"},
        "variants.single.workload: requests of 532 tokens, but the engine takes 256 (nearest valid value)",
    ),
    "a burst longer than the engine takes": (
        {"bursts__prompt": [8, 400]},
        "bursts: requests of 406 tokens, but the engine takes 256 (nearest valid value)",
    ),
    "an unknown workload": (
        {"mixed__workload": "lmsys-shrot"},
        "workload 'lmsys-shrot': no such file",
    ),
    "an unknown setting of the auto mode": (
        {"policies__auto": {"label": "auto", "use": "auto", "settings": {"refersh": 1}}},
        "policies.auto: settings: refersh: unknown key (did you mean 'refresh'?)",
    ),
    "an unknown workload of a sweep": (
        {"sweeps": [{"workload": "p64d02", "in_flight": 2, "token_budgets": [8]}]},
        "workload 'p64d02': no such file",
    ),
    "a sweep past the engine's token budget": (
        {"sweeps": [{"workload": "p64d20", "in_flight": 2, "token_budgets": [8, 512]}]},
        "sweeps[0].token_budgets: 512 is more than the engine's max_num_batched_tokens (nearest valid value: 256)",
    ),
    "an unknown setting": (
        {"policies__wait__settings": {"max_wiat": 1}},
        "policies.wait: max_wiat: unknown key (did you mean 'max_wait'?)",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line(mistake, tmp_path, capsys):
    change, message = MISTAKES[mistake]
    path = changed(tmp_path, **change)
    with pytest.raises(ConfigError) as error:
        load_target(path)
    assert message in str(error.value) and "\n" not in str(error.value)
    assert main(["real", "record", str(path), "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_rehearsal_needs_a_place(capsys):
    assert main(["real", "record", "gpu", "--rehearse"]) == 2
    assert "a rehearsal needs --out" in capsys.readouterr().err


def test_no_such_bundle_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(ROOT_VARIABLE, str(tmp_path))
    assert main(["real", "draw", "nothing", "--as", "mine"]) == 2
    told = capsys.readouterr().err
    assert "nothing/bundle.json: no bundle here" in told and told.count("\n") == 1
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
