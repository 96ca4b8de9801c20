"""Hashes, atomic writing, sidecars, and every kind of finding of verify."""

from __future__ import annotations

import errno
import json
import math
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

import fluidwait
from fluidwait.artifacts import code as code_module
from fluidwait.artifacts.canonical import canonical_json, config_hash, file_sha256
from fluidwait.artifacts.code import code_fingerprint, imported_modules
from fluidwait.artifacts.embedded import embedded_hash
from fluidwait.artifacts.environment import git_state, package_versions
from fluidwait.artifacts.inputs import describe_input
from fluidwait.artifacts.sidecar import artifact_hash, read_sidecar, write_artifact
from fluidwait.artifacts.verify import Finding, artifacts, verify
from fluidwait.base import files as writing
from fluidwait.base.errors import ConfigError
from fluidwait.base.files import atomic_path, sidecar_path, write_text
from fluidwait.base.models import Strict
from fluidwait.drawing.saving import figure_metadata, save_figure

SCRIPT = "workflow/scripts/plot.py"


# --- canonical JSON ------------------------------------------------------------------------------------------------


def test_canonical_json_is_sorted_and_tight():
    assert (
        canonical_json({"b": [1, 2.5, None], "a": {"y": True, "x": "λ"}}) == '{"a":{"x":"λ","y":true},"b":[1,2.5,null]}'
    )


def test_floats_are_written_by_repr():
    assert canonical_json([0.1 + 0.2, 1e-7, 1.0, 1]) == "[0.30000000000000004,1e-07,1.0,1]"


def test_values_json_does_not_know():
    class Setting(Strict):
        max_wait: float
        path: Path

    value = {"setting": Setting(max_wait=math.inf, path=Path("a/b")), "n": np.int64(3), "x": np.array([1.5, -math.inf])}
    assert canonical_json(value) == '{"n":3,"setting":{"max_wait":"inf","path":"a/b"},"x":[1.5,"-inf"]}'
    assert canonical_json({20: "a"}) == canonical_json({"20": "a"})


def test_values_without_canonical_form_are_errors():
    with pytest.raises(TypeError, match="set"):
        canonical_json({"a": {1, 2}})
    with pytest.raises(TypeError, match="keys"):
        canonical_json({20: "a", "20": "b"})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), JSON))
def test_hash_depends_on_the_value_not_on_key_order(value):
    turned = dict(reversed(value.items()))
    assert config_hash(value) == config_hash(turned)
    assert config_hash(value) != config_hash({"outer": value})
    text = canonical_json(value)
    assert canonical_json(json.loads(text)) == text


def test_hash_is_sha256_of_the_text():
    assert config_hash({}) == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"  # of "{}"


def test_hash_is_the_same_in_another_process():
    code = "from fluidwait.artifacts.canonical import config_hash; print(config_hash({'b': 0.1, 'a': [1, 'x']}))"
    environment = os.environ | {"PYTHONHASHSEED": "7"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == config_hash({"a": [1, "x"], "b": 0.1})


def test_file_sha256(tmp_path):
    (tmp_path / "x").write_bytes(b"{}")
    assert file_sha256(tmp_path / "x") == config_hash({})
    with pytest.raises(ConfigError, match="missing: cannot be read"):
        file_sha256(tmp_path / "missing")


# --- code ----------------------------------------------------------------------------------------------------------


def test_fingerprint_of_module_package_and_script(tmp_path):
    script = tmp_path / SCRIPT
    script.parent.mkdir(parents=True)
    script.write_bytes(b"print(1)\r\n")
    prints = code_fingerprint(["fluidwait.base.errors", "fluidwait.experiments.*", script], tmp_path)
    assert {"fluidwait.base.errors", "fluidwait.experiments", "fluidwait.experiments.sweep", SCRIPT} <= set(prints)
    assert prints["fluidwait.base.errors"] == file_sha256(Path(fluidwait.__file__).parent / "base" / "errors.py")
    script.write_bytes(b"print(1)\n")
    assert code_fingerprint([SCRIPT], tmp_path) == {SCRIPT: prints[SCRIPT]}  # line endings do not count
    script.write_bytes(b"print(2)\n")
    assert code_fingerprint([SCRIPT], tmp_path) != {SCRIPT: prints[SCRIPT]}


@pytest.mark.parametrize("name", ["fluidwait.nonsense", "numpy", "scripts/none.py"])
def test_fingerprint_of_what_does_not_exist(name, tmp_path):
    with pytest.raises(ConfigError, match=f"{name}: no such"):
        code_fingerprint([name], tmp_path)


def test_imports_are_followed():
    modules = imported_modules("fluidwait.stats.metrics")
    assert {
        "fluidwait",
        "fluidwait.artifacts.records",
        "fluidwait.artifacts.canonical",
        "fluidwait.base.errors",
    } <= set(modules)
    assert "fluidwait.stats.stability" not in modules


def test_imports_match_what_python_loads():
    """The modules read from the source are those that importing really loads."""
    root = "fluidwait.stats.metrics"
    code = f"import sys, {root}; print(*sorted(m for m in sys.modules if m.split('.')[0] == 'fluidwait'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) <= set(imported_modules(root))


def test_relative_imports_are_followed(tmp_path, monkeypatch):
    for name, text in {
        "__init__.py": "",
        "a.py": "from .sub import b",
        "sub/__init__.py": "",
        "sub/b.py": "def f():\n    from ..c import g",
        "c.py": "",
        "d.py": "",
    }.items():
        write_text(tmp_path / name, text)
    monkeypatch.setattr(code_module, "_PACKAGE_DIR", tmp_path)
    found = imported_modules("fluidwait.a")
    assert found == ("fluidwait", "fluidwait.a", "fluidwait.c", "fluidwait.sub", "fluidwait.sub.b")


# --- atomic writing ------------------------------------------------------------------------------------------------


def test_file_appears_whole_in_a_new_folder(tmp_path):
    target = tmp_path / "new" / "table.csv"
    with atomic_path(target) as temporary:
        temporary.write_text("x")
        assert temporary.parent == target.parent
        assert temporary.suffix == ".csv"
        assert not target.exists()
    assert target.read_text() == "x"
    assert list(target.parent.iterdir()) == [target]


def test_failure_leaves_the_old_file(tmp_path):
    target = tmp_path / "table.csv"
    write_text(target, "old")
    with pytest.raises(RuntimeError, match="in the middle"), atomic_path(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError("in the middle")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_written_files_have_ordinary_permissions(tmp_path):
    write_text(tmp_path / "ours", "x")
    (tmp_path / "theirs").write_text("x")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "theirs").stat().st_mode


def test_parent_that_is_a_file_is_one_line(tmp_path):
    (tmp_path / "results").write_text("")
    with pytest.raises(ConfigError, match=r"x\.csv: cannot be written \(") as caught:
        write_text(tmp_path / "results" / "x.csv", "x")
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere: run the tests as another user")
def test_read_only_folder_is_one_line(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ConfigError, match=r"x\.csv: cannot be written \(Permission denied\)"):
        write_text(tmp_path / "x.csv", "x")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a disk that is always full (Linux)")
def test_full_disk_is_one_line(tmp_path):
    target = tmp_path / "x.csv"
    full = r"x\.csv: cannot be written \(No space left on device\)"
    with pytest.raises(ConfigError, match=full), atomic_path(target), open("/dev/full", "w") as file:
        file.write("x")
    assert list(tmp_path.iterdir()) == []


def test_full_disk_under_parquet_is_one_line(tmp_path):
    """A file-size limit stands in for a full disk: Arrow's own writer fails in the middle of the file."""
    table = pa.table({"x": np.random.default_rng(0).random(200_000)})
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, old[1]))
        with pytest.raises(ConfigError, match=r"cannot be written"), atomic_path(tmp_path / "x.parquet") as temporary:
            pq.write_table(table, temporary)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)
    assert list(tmp_path.iterdir()) == []


def test_error_of_another_file_is_not_called_a_writing_error(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "x.csv"):
        (tmp_path / "input").read_text()


def test_killed_writer_leaves_nothing_that_stays(tmp_path):
    target = tmp_path / "x.csv"
    code = (
        "import sys, time\nfrom fluidwait.base.files import atomic_path\n"
        "with atomic_path(sys.argv[1]) as t:\n    t.write_text('half'); print('ready', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(target)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    process.kill()
    process.wait()
    process.stdout.close()
    assert not target.exists()
    assert len(list(tmp_path.iterdir())) == 1
    assert verify(tmp_path, tmp_path) == []
    write_text(target, "whole")
    assert list(tmp_path.iterdir()) == [target]


def test_live_writer_keeps_its_temporary_file(tmp_path):
    target = tmp_path / "x.csv"
    other = tmp_path / f".x.csv.{os.getppid()}.tmp.csv"
    other.write_text("of a running process")
    write_text(target, "whole")
    assert other.exists()


# --- artifacts -----------------------------------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path):
    """A small project: one configuration file, one script, a table made from both, and a figure made from the table."""
    write_text(tmp_path / "config" / "e1.yaml", "rate: 12  # requests/s\n")
    write_text(tmp_path / SCRIPT, "print(1)\n")
    make_table(tmp_path)
    make_figure(tmp_path)
    return tmp_path


def make_table(root, rate=12.0):
    return write_artifact(
        root / "results" / "e1" / "table.csv",
        lambda path, key: path.write_text(f"{key}\n{rate}\n"),
        config={"rate": rate, "seed": 1, "engine": {"name": "simulator", "version": "1"}},
        inputs=[root / "config" / "e1.yaml"],
        code=["fluidwait.base.errors", SCRIPT],
        rule="run_e1",
        root=root,
    )


def make_figure(root):
    return write_artifact(
        root / "results" / "e1" / "figure.svg",
        lambda path, key: save_figure(line_figure(), path, key),
        config={"style": "paper"},
        inputs=[root / "results" / "e1" / "table.csv"],
        code=["fluidwait.base.errors"],
        rule="plot_e1",
        root=root,
    )


def line_figure():
    figure = Figure(figsize=(2, 2))
    axes = figure.subplots()
    axes.plot([0, 1], [1, 2], label="WAIT")
    axes.legend()
    axes.fill_between([0, 1], [1, 1], [2, 2], hatch="/")
    return figure


def test_sidecar_tells_how_the_artifact_was_made(project):
    table = project / "results" / "e1" / "table.csv"
    sidecar = read_sidecar(table)
    assert sidecar.sha256 == file_sha256(table)
    assert sidecar.config == {"rate": 12.0, "seed": 1, "engine": {"name": "simulator", "version": "1"}}
    assert sidecar.inputs == [describe_input(project / "config" / "e1.yaml", project)]
    assert sidecar.inputs[0].path == "config/e1.yaml"
    assert sidecar.code == code_fingerprint(["fluidwait.base.errors", SCRIPT], project)
    assert sidecar.config_hash == artifact_hash(sidecar.config, sidecar.inputs, sidecar.code)
    assert table.read_text().startswith(sidecar.config_hash)
    assert sidecar.packages["fluidwait"] == fluidwait.__version__
    assert sidecar.packages["numpy"] == np.__version__
    assert sidecar.python == ".".join(map(str, sys.version_info[:3]))
    assert sidecar.device["processors"] == os.cpu_count()
    assert sidecar.rule == "run_e1"
    assert 0 <= sidecar.wall_seconds < 60
    text = sidecar_path(table).read_text()
    assert json.loads(text)["inputs"] == [sidecar.inputs[0].model_dump()]
    assert str(project) not in text


def test_configuration_hash_covers_config_inputs_and_code(project):
    first = make_table(project)
    assert make_table(project) == first
    assert make_table(project, rate=13.0) != first
    write_text(project / "config" / "e1.yaml", "# only the comment changed\nrate: 12\n")
    assert make_table(project) == first
    write_text(project / "config" / "e1.yaml", "rate: 14\n")
    second = make_table(project)
    assert second != first
    write_text(project / SCRIPT, "print(2)\n")
    assert make_table(project) not in (first, second)


def test_failing_writer_leaves_neither_artifact_nor_sidecar(project):
    with pytest.raises(ZeroDivisionError):
        write_artifact(project / "results" / "x.txt", lambda *_: 1 / 0, config={}, rule="r", root=project)
    assert sorted(p.name for p in (project / "results").iterdir()) == ["e1"]


def test_missing_input_is_one_line(project):
    with pytest.raises(ConfigError, match=r"none\.csv: cannot be read \(No such file or directory\)"):
        write_artifact(
            project / "x.txt", lambda *_: None, config={}, inputs=[project / "none.csv"], rule="r", root=project
        )


def test_input_in_the_shared_folder_is_found_wherever_it_lies(project, tmp_path_factory, monkeypatch):
    shared = tmp_path_factory.mktemp("shared")
    write_text(shared / "data" / "lengths.csv", "1\n")
    monkeypatch.setenv("FLUIDWAIT_SHARED", str(shared))
    table = project / "results" / "lengths.txt"
    write_artifact(
        table,
        lambda p, _: p.write_text("1"),
        config={},
        inputs=[shared / "data" / "lengths.csv"],
        rule="r",
        root=project,
    )
    assert read_sidecar(table).inputs[0].path == "$FLUIDWAIT_SHARED/data/lengths.csv"
    assert verify(project / "results", project) == []
    moved = tmp_path_factory.mktemp("elsewhere") / "shared"
    shared.rename(moved)
    monkeypatch.setenv("FLUIDWAIT_SHARED", str(moved))
    assert verify(project / "results", project) == []


def test_sidecar_that_is_none(tmp_path):
    with pytest.raises(ConfigError, match=r"has no sidecar x\.csv\.json"):
        read_sidecar(tmp_path / "x.csv")
    write_text(tmp_path / "x.csv.json", "{}")
    with pytest.raises(ConfigError, match="not a sidecar"):
        read_sidecar(tmp_path / "x.csv")


def test_git_state(tmp_path):
    assert git_state(tmp_path) is None
    environment = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    git = ["git", "-C", str(tmp_path), "-c", "user.name=t", "-c", "user.email=t@t", "-c", "commit.gpgsign=false"]

    def commit():
        subprocess.run([*git, "add", "."], check=True, env=os.environ | environment)
        subprocess.run([*git, "commit", "-qm", "x"], check=True, env=os.environ | environment)
        git_state.cache_clear()

    subprocess.run([*git, "init", "-q"], check=True)
    write_text(tmp_path / "x", "1")
    commit()
    state = git_state(tmp_path)
    assert len(state["commit"]) == 40
    assert state["dirty"] is False
    write_text(tmp_path / "x", "2")
    git_state.cache_clear()
    assert git_state(tmp_path) == {"commit": state["commit"], "dirty": True}


def test_without_git(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert git_state.__wrapped__(tmp_path) is None


def test_package_versions_leave_out_what_is_not_installed():
    assert package_versions(["numpy", "no-such-package"]) == {"numpy": np.__version__}


# --- figures -------------------------------------------------------------------------------------------------------

KEY = config_hash({"figure": 1})


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_figures_carry_the_hash_and_are_byte_identical(suffix, tmp_path):
    first, second = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    save_figure(line_figure(), first, KEY)
    time.sleep(1.1)  # dates in files have a resolution of one second
    save_figure(line_figure(), second, KEY)
    assert first.read_bytes() == second.read_bytes()
    assert embedded_hash(first) == KEY


def test_figure_of_another_format():
    with pytest.raises(ValueError, match=r"not '\.gif'"):
        figure_metadata(KEY, ".gif")


def test_hash_inside_other_files(tmp_path):
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"x": [1]}).replace_schema_metadata({"config_hash": KEY}), path)
    assert embedded_hash(path) == KEY
    pq.write_table(pa.table({"x": [1]}), path)
    assert embedded_hash(path) is None
    write_text(path, "not parquet")
    with pytest.raises(ConfigError, match="not a readable Parquet file"):
        embedded_hash(path)


# --- verify --------------------------------------------------------------------------------------------------------

TABLE, FIGURE = "e1/table.csv", "e1/figure.svg"


def found(root):
    return verify(root / "results", root)


def statuses(root):
    return {(f.path, f.status) for f in found(root)}


def edit_sidecar(root, artifact, change):
    path = sidecar_path(root / "results" / artifact)
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def test_nothing_to_find(project):
    assert found(project) == []
    assert artifacts(project / "results") == [project / "results" / FIGURE, project / "results" / TABLE]


def test_rerun_is_byte_identical_and_stays_well(project):
    before = {p: p.read_bytes() for p in artifacts(project / "results")}
    make_table(project)
    make_figure(project)
    assert {p: p.read_bytes() for p in artifacts(project / "results")} == before
    assert found(project) == []


def test_moved_project_stays_well(project, tmp_path_factory):
    moved = tmp_path_factory.mktemp("elsewhere") / "project"
    project.rename(moved)
    assert found(moved) == []


def test_changed_configuration_makes_stale_what_follows(project):
    write_text(project / "config" / "e1.yaml", "rate: 13\n")
    assert found(project) == [
        Finding(FIGURE, "stale", "input results/e1/table.csv is itself not up to date"),
        Finding(TABLE, "stale", "input config/e1.yaml has changed"),
    ]
    make_table(project, 13.0)
    assert found(project) == [Finding(FIGURE, "stale", "input results/e1/table.csv has changed")]
    make_figure(project)
    assert found(project) == []


def test_comment_in_a_configuration_changes_nothing(project):
    write_text(project / "config" / "e1.yaml", "# a comment\nrate:   12\n")
    assert found(project) == []


def test_configuration_that_no_longer_parses(project):
    write_text(project / "config" / "e1.yaml", "rate: [12\n")
    assert (TABLE, "stale") in statuses(project)


def test_changed_code(project):
    write_text(project / SCRIPT, "print(2)\n")
    assert Finding(TABLE, "stale", f"code {SCRIPT} has changed") in found(project)
    (project / SCRIPT).unlink()
    assert Finding(TABLE, "stale", f"code {SCRIPT} is gone") in found(project)


def test_changed_and_removed_module(project, tmp_path_factory, monkeypatch):
    package = tmp_path_factory.mktemp("package")
    write_text(package / "base" / "errors.py", "changed = True\n")
    monkeypatch.setattr(code_module, "_PACKAGE_DIR", package)
    assert Finding(FIGURE, "stale", "code fluidwait.base.errors has changed") in found(project)
    (package / "base" / "errors.py").unlink()
    assert Finding(FIGURE, "stale", "code fluidwait.base.errors is gone") in found(project)


def test_missing_artifact(project):
    (project / "results" / TABLE).unlink()
    assert (TABLE, "missing") in statuses(project)
    assert Finding(FIGURE, "missing", "input results/e1/table.csv is gone") in found(project)


def test_missing_input(project):
    (project / "config" / "e1.yaml").unlink()
    assert Finding(TABLE, "missing", "input config/e1.yaml is gone") in found(project)


def test_altered_artifact(project):
    with open(project / "results" / FIGURE, "a") as file:
        file.write("<!-- touched up -->")
    assert found(project) == [Finding(FIGURE, "altered", "its bytes are not those that were written")]


def test_altered_configuration_in_the_sidecar(project):
    edit_sidecar(project, FIGURE, lambda data: data["config"].update(style="slides"))
    assert [(f.path, f.status) for f in found(project)] == [(FIGURE, "altered")]


def test_sidecar_of_another_figure(project):
    """Sidecar and bytes agree with each other, the hash inside the file tells that it was made by something else."""
    path = project / "results" / FIGURE
    save_figure(line_figure(), path, KEY)
    edit_sidecar(project, FIGURE, lambda data: data.update(sha256=file_sha256(path)))
    expected = Finding(FIGURE, "altered", "the configuration hash inside it is not that of its sidecar")
    assert found(project) == [expected]


@pytest.mark.parametrize("text", ["", "[]", '{"record": "something else"}'])
def test_broken_sidecar(project, text):
    sidecar_path(project / "results" / FIGURE).write_text(text)
    assert found(project) == [Finding(FIGURE, "altered", "its sidecar cannot be read")]


@pytest.mark.parametrize("key", ["sha256", "config", "config_hash", "inputs", "code", "packages", "python"])
def test_sidecar_that_lacks_a_key_or_holds_the_wrong_type(project, key):
    edit_sidecar(project, FIGURE, lambda data: data.pop(key))
    assert [(f.path, f.status) for f in found(project)] == [(FIGURE, "altered")]
    make_figure(project)
    edit_sidecar(project, FIGURE, lambda data: data.update({key: 5}))
    assert {f.path: f.status for f in found(project)} == {FIGURE: "altered"}


def test_untracked_file(project):
    write_text(project / "results" / "by_hand.csv", "1")
    write_text(project / "results" / "claims.json", "{}")
    write_text(project / "results" / "e1" / "run.log", "a log is not an artifact")
    write_text(project / "results" / "logs" / "e1.txt", "nor is this")
    assert found(project) == [
        Finding("by_hand.csv", "untracked", "has no sidecar"),
        Finding("claims.json", "untracked", "has no sidecar"),
    ]


def test_artifact_that_is_json_itself(project):
    path = project / "results" / "claims.json"
    write_artifact(path, lambda p, _: p.write_text("{}"), config={}, rule="r", root=project)
    assert found(project) == []
    path.write_text("[]")
    assert statuses(project) == {("claims.json", "altered")}


def test_other_environment(project, monkeypatch):
    edit_sidecar(project, TABLE, lambda data: data["packages"].update(numpy="1.0", nosuch="2.0"))
    assert found(project) == [
        Finding(TABLE, "environment", "made with nosuch 2.0, installed is none"),
        Finding(TABLE, "environment", f"made with numpy 1.0, installed is {np.__version__}"),
    ]
    make_table(project)
    edit_sidecar(project, TABLE, lambda data: data.update(python="3.9.1"))
    assert [f.detail.split(",")[0] for f in found(project)] == ["made with Python 3.9.1"]


def test_folder_that_does_not_exist(tmp_path):
    with pytest.raises(ConfigError, match="no such folder"):
        verify(tmp_path / "results")


def test_errno_list_covers_full_and_read_only_disks():
    assert {errno.ENOSPC, errno.EROFS} <= writing.WRITE_ERRORS
