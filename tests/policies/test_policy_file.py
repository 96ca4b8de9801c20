"""A policy in a file of the user's: what it may be called, and one line with file and line for every mistake in it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from fluidwait.artifacts.code import code_fingerprint, imported_modules
from fluidwait.base.errors import FluidwaitError
from fluidwait.base.paths import ROOT_VARIABLE
from fluidwait.device.timing import linear
from fluidwait.engines import core, simulator
from fluidwait.engines.rehearsal import interpreted, rehearse
from fluidwait.policies import Policy, load_policy
from fluidwait.policies.contract import NO_LIMIT, EngineSize, Limits, Needs
from fluidwait.policies.file import COMPILED, FUNCTIONS
from fluidwait.workload import Requests

CHECKOUT = Path(__file__).resolve().parents[2]
PAGE = (CHECKOUT / "docs" / "adding-a-policy.md").read_text()
BATCH_OF = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)[1]  # the policy of the page
HERE = "    admitted, free = 0, view.free\n"  # its line 26
END = 'return admitted, float("inf")'

REQUESTS = Requests(np.arange(30) / 10, np.full(30, 40), np.full(30, 5), np.zeros(30, dtype=np.int64))
TIMES = linear(0.01, 1e-5)


@pytest.fixture
def project(tmp_path, monkeypatch):
    (tmp_path / "policies").mkdir()
    monkeypatch.setenv(ROOT_VARIABLE, str(tmp_path))
    return tmp_path


def write(project: Path, source: str, name: str = "mine") -> dict:
    (project / "policies" / f"{name}.py").write_text(source)
    return {"policy": f"policies/{name}.py"}


def use(spec: dict, requests: Requests = REQUESTS):
    """What every command does with a policy before it is used in earnest."""
    policy = load_policy(spec)
    knobs = policy.prepare(None)
    rehearse(requests, policy, knobs, TIMES, core.serving(100))
    return policy, knobs


def changed(old: str, new: str) -> str:
    assert old in BATCH_OF
    return BATCH_OF.replace(old, new)


def inserted(line: str) -> str:
    return changed(HERE, f"{HERE}    {line}\n")


MISTAKES = {
    "syntax": (changed("waiting == 0:", "waiting = 0:"), "mine.py:21: SyntaxError: invalid syntax"),
    "tabs": (changed(HERE, HERE.replace("    ", "\t", 1)), "mine.py:26: TabError"),
    "undefined at the top": (changed("class Settings", "x = y\nclass Settings"), "mine.py:10: NameError: name 'y'"),
    "undefined in plan": (changed("view.free\n", "freee\n"), "mine.py:26: NameError: name 'freee' is not defined"),
    "import": ("import no_such_module\n", "mine.py:1: ModuleNotFoundError: No module named 'no_such_module'"),
    "an exit": (BATCH_OF + "raise SystemExit(3)\n", "mine.py:34: SystemExit: 3"),
    "no plan": (changed("def plan", "def plam"), "mine.py: defines no 'plan'"),
    "no Settings": (changed("class Settings", "class Setting"), "mine.py: defines no 'Settings'"),
    "other Settings": (changed("(PolicySettings)", "(dict)"), "mine.py:10: Settings must be a class of PolicySettings"),
    "no @jit": (changed("@jit\n", ""), "mine.py:15: plan must be compiled: write @jit above it"),
    "three arguments": (
        changed("plan(view, knobs, memory, out)", "plan(view, knobs, out)"),
        "mine.py:16: plan must take plan(view, knobs, memory, out), found plan(view, knobs, out)",
    ),
    "arguments of prepare": (
        BATCH_OF + "\ndef prepare(settings):\n    return settings\n",
        "mine.py:35: prepare must take prepare(settings, context), found prepare(settings)",
    ),
    "a list": (
        inserted("queue = [admitted]\n    free = len(queue)"),
        "mine.py:27: Numba cannot compile 'queue = [admitted]': ",
    ),
    "an array": (
        "import numpy as np\n" + inserted("a = np.zeros(3)").replace("from __future__ import annotations\n", ""),
        "mine.py:27: Numba cannot compile 'a = np.zeros(3)': ",
    ),
    "a dictionary": (inserted("seen = {admitted: 1}"), "mine.py:27: Numba cannot compile 'seen = {admitted: 1}': "),
    "a string": (inserted("name = str(admitted)"), "mine.py:27: Numba cannot compile 'name = str(admitted)': "),
    "a file": (inserted("open('x')"), "mine.py:27: Numba cannot compile 'open('x')': "),
    "a helper without @jit": (
        "def helper(view):\n    return 0\n\n"
        + inserted("helper(view)").replace("from __future__ import annotations", ""),
        "mine.py:30: Numba cannot compile 'helper(view)': Untyped global name 'helper'",
    ),
    "of the view": (changed("view.free\n", "view.fre\n"), "mine.py:26: view has no 'fre' (did you mean 'free'?)"),
    "of the knobs": (changed("knobs.batch and", "knobs.bach and"), "knobs has no 'bach' (did you mean 'batch'?)"),
    "three results": (changed(END, f"{END}, 3"), "mine.py:16: plan must return (requests admitted, time to be asked "),
    "one result": (
        re.sub(r"return (0|admitted), .*", r"return \1", BATCH_OF),
        "mine.py:16: plan must return (requests admitted, time to be asked again), found int64",
    ),
    "nothing at times": (
        inserted("if free > 3: return None"),
        "must return (requests admitted, time to be asked again), found OptionalType",
    ),
    "more than waits": (
        changed(END, END.replace("admitted", "admitted + 1")),
        "plan admits 7 requests at t = 0.5 s, but 6 wait",
    ),
    "less than none": (changed(END, END.replace("admitted", "-1")), "mine.py:16: plan admits -1 requests"),
    "twice the same": (
        changed("out.admit[admitted] = admitted", "out.admit[admitted] = 0"),
        "(out.admit[1]); positions",
    ),
    "an empty chunk": (
        changed("= to_prefill(view, r)", "= 0"),
        "mine.py:16: plan admits with a first chunk of 0 tokens",
    ),
    "two decodes": (changed("[:residents] = 1\n", "[:residents] = 2\n"), "mine.py:16: plan gives resident 0 2 tokens"),
    "no time": (changed("return 0, patience", "return 0, float('nan')"), "a time that is not a number"),
    "beyond an array": (inserted("out.tokens[10**6] = 1"), "mine.py:27: IndexError: index 1000000 is out of bounds"),
    "into the view": (inserted("view.goal[0] = 1"), "mine.py:27: ValueError: assignment destination is read-only"),
    "held for ever": (
        changed(" and view.now < patience and not view.draining", "").replace(
            "return 0, patience", 'return 0, float("inf")'
        ),
        "policies/mine.py: requests stranded at t = ",
    ),
    "an error in prepare": (
        BATCH_OF + "\ndef prepare(settings, context):\n    return 1 / 0\n",
        "mine.py:36: ZeroDivisionError: division by zero",
    ),
    "knobs of prepare": (
        BATCH_OF + "\ndef prepare(settings, context):\n    return {}\n",
        "mine.py:35: prepare must return a NamedTuple of numbers and arrays, found dict",
    ),
    "a text as knob": (
        changed("    batch: int", '    mode: str = "a"\n    batch: int'),
        "mine.py:10: knob 'mode' must be a number or an array, found str; let prepare",
    ),
    "memory_size": (
        BATCH_OF + "\ndef memory_size(knobs):\n    return -1\n",
        "mine.py:35: memory_size must return a whole number from 0 on, found -1",
    ),
    "memory_size, compiled": (
        BATCH_OF + "\n@jit\ndef memory_size(knobs):\n    return -1\n",
        "mine.py:36: memory_size must return a whole number from 0 on, found -1",
    ),
    "memory that no machine has": (
        BATCH_OF + "\ndef memory_size(knobs):\n    return 10**15\n",
        "mine.py:35: memory_size returns 1000000000000000 numbers to keep (nearest valid value: 100000000)",
    ),
    "an unknown type of a setting": (
        changed("batch: int", "batch: Batches"),
        "mine.py:10: Settings: name 'Batches' is not defined",
    ),
    "a broken validator": (
        changed(
            'gt=0, description="requests to collect")',
            "gt=0)\n\n    def model_post_init(self, _):\n        return 1 / 0\n",
        ),
        "mine.py:14: ZeroDivisionError: division by zero",
    ),
    "a loop without end": (
        inserted("while free > 0:\n        waiting += 1"),
        "policies/mine.py:27: plan goes through more than ",
    ),
    "a loop without end, in one line": (
        inserted("while free > 0: waiting += 1"),
        "policies/mine.py:27: plan goes through more than ",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_with_file_and_line(project, mistake):
    source, expected = MISTAKES[mistake]
    with pytest.raises(FluidwaitError) as error:
        use(write(project, source))
    text = str(error.value)
    assert expected in text and "policies/mine.py" in text and "\n" not in text, text


def test_the_policy_of_the_page_passes(project):
    policy, knobs = use(write(project, BATCH_OF))
    assert (policy.name, policy.use, policy.code) == ("mine", "policies/mine.py", "policies/mine.py")
    assert knobs == (16, 0.5)


def test_a_second_file_is_not_imported(project):
    """No fingerprint would see it."""
    write(project, BATCH_OF, "other")
    with pytest.raises(FluidwaitError, match="mine.py:5: ModuleNotFoundError.*a policy is one file"):
        load_policy(write(project, changed("from pydantic", "import other\nfrom pydantic")))


def test_the_name_of_a_policy_that_ships_is_taken(project):
    """Else Vidur would run its own Sarathi in place of the file's."""
    with pytest.raises(FluidwaitError, match="'sarathi' is a policy that ships; give the file another name"):
        load_policy(write(project, BATCH_OF, "sarathi"))


def test_a_changed_file_is_read_again(project):
    assert use(write(project, BATCH_OF))[1].batch == 16
    assert use(write(project, changed("Field(16", "Field(8")))[1].batch == 8


def test_arithmetic_on_request_numbers_is_that_of_compiled_code(project):
    """They are uint64, of which NumPy makes floats."""
    use(write(project, inserted("admitted = 0 // (view.waiting[0] - view.waiting[0])")))


def test_the_nearest_file_is_told(project):
    write(project, BATCH_OF)
    with pytest.raises(FluidwaitError, match=r"policy: no such file .*did you mean 'policies/mine.py'"):
        load_policy({"policy": "policies/mines.py"})


def test_two_files_of_one_name(project):
    (project / "elsewhere").mkdir()
    first = load_policy(write(project, BATCH_OF))
    (project / "elsewhere" / "mine.py").write_text(changed("Field(16", "Field(8"))
    second = load_policy({"policy": "elsewhere/mine.py"})
    assert (first.settings.batch, second.settings.batch) == (16, 8)
    assert first.module is not second.module


@pytest.mark.parametrize("name", ["my-policy", "my policy", "política"])
def test_any_file_name(project, name):
    policy, _ = use(write(project, BATCH_OF, name))
    assert policy.name == name


def test_the_fingerprint_holds_the_file_and_what_it_imports(project):
    borrowed = changed("@jit\n", "from fluidwait.policies.nested_wait import queue_depth  # noqa\n\n\n@jit\n")
    policy = load_policy(write(project, borrowed))
    modules = imported_modules("fluidwait.device.timing", policy.code)
    assert {"policies/mine.py", "fluidwait.policies.nested_wait", "fluidwait.device.timing"} <= set(modules)
    before = code_fingerprint(modules)
    write(project, borrowed + "# changed\n")
    after = code_fingerprint(modules)
    assert {name for name in before if before[name] != after[name]} == {"policies/mine.py"}


def test_the_rehearsal_in_python_is_the_compiled_run(project):
    """The same simulator, interpreted: every completion to the last bit."""
    policy, knobs = use(write(project, BATCH_OF))
    semantics = core.serving(100)
    compiled = simulator.simulate(REQUESTS, policy, knobs, TIMES, semantics)
    state = core.new_state(REQUESTS, semantics)
    parts = {"plan": policy.module.plan, "victim": core.victim_of(policy.module)}
    decide = interpreted(core.decide, **{name: interpreted(part) for name, part in parts.items()})
    rows, memory = np.empty((0, len(simulator.LOG_COLUMNS))), np.zeros(1, dtype=np.int64)
    interpreted(simulator._run, decide=decide)(knobs, memory, state, TIMES, semantics, rows, True)
    assert np.array_equal(state.completion, compiled.completion)


def test_policies_that_ship_are_not_rehearsed(monkeypatch):
    monkeypatch.setattr(simulator, "compiled", None)
    use({"policy": "sarathi"})


@pytest.mark.parametrize("answer", ["waiting + 1", "-1", "10**9"])
def test_the_engines_refuse_a_plan_that_admits_what_does_not_wait(project, answer):
    """Also when it comes later than a rehearsal looks: nothing is read beyond an array."""
    source = changed(
        "    if waiting == 0:", f"    if view.now > 2.0:\n        return {answer}, 0.0\n    if waiting == 0:"
    )
    policy = load_policy(write(project, source, "late"))
    knobs = policy.prepare(None)
    with pytest.raises(FluidwaitError, match="^policies/late.py: the plan at t = .*admits what does not wait"):
        simulator.simulate(REQUESTS, policy, knobs, TIMES, core.serving(100))


def test_the_plug_in_takes_a_file_and_a_name(project):
    from fluidwait.engines.vllm.settings import read_settings

    own = write(project, BATCH_OF + "\n\ndef queue_depth(knobs):\n    return knobs.batch\n", "for_vllm")
    (project / "config" / "policies").mkdir(parents=True)
    (project / "config" / "policies" / "of_8.yaml").write_text(json.dumps(own | {"batch": 8}))
    _, by_path = read_settings({"fluidwait": own | {"settings": {"batch": 4}}})
    _, by_name = read_settings({"fluidwait": "of_8"})
    assert (by_path.settings.batch, by_name.settings.batch) == (4, 8)
    assert by_path.module is by_name.module
    with pytest.raises(FluidwaitError, match=re.escape("'of_9' is not a valid value (did you mean 'of_8'?)")):
        read_settings({"fluidwait": {"policy": "of_9"}})


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("limits(knobs):\n    return (1, 2)", "mine.py:35: limits must return Limits, found tuple"),
        ("needs(settings):\n    return None", "mine.py:35: needs must return Needs, found NoneType"),
        (
            "queue_depth(knobs):\n    return -1",
            "mine.py:35: queue_depth must return a whole number from 0 on, found -1",
        ),
        ("within(settings, law):\n    return settings", "mine.py:35: within must take within(settings, size, law)"),
        ("thresholds(knobs):\n    return knobs.bacth", "mine.py:36: AttributeError: 'Knobs' object has no attribute"),
    ],
)
def test_what_the_contract_asks_besides_is_checked_too(project, answer, message):
    with pytest.raises(FluidwaitError, match="policies/" + re.escape(message)):
        policy, knobs = use(write(project, BATCH_OF + f"\ndef {answer}\n"))
        policy.needs(), policy.thresholds(knobs)


def test_a_file_that_says_nothing_more_has_the_contracts_defaults(project):
    policy, knobs = use(write(project, BATCH_OF))
    assert (policy.memory_size(knobs), policy.reserved_tokens(knobs), policy.reserves) == (1, None, False)
    assert policy.longest_prompt(knobs) == policy.queue_depth(knobs) == NO_LIMIT
    assert policy.longest_output(knobs, np.array([0, 3])).tolist() == [NO_LIMIT] * 2
    assert policy.limits(knobs) == Limits() and not policy.limits(knobs).splits_prompts
    assert not policy.fills_batches and not policy.by_type and not policy.within_engine_limits
    assert policy.needs() == Needs(any_output=1, times=False, rate=False)  # there is no prepare
    assert policy.max_wait == 0.5 and list(policy.thresholds(knobs)) == []
    assert policy.within(EngineSize(1, 1, 1, False, 1), None) == policy
    assert policy.prepare_at_most(None, Limits(requests=1)) == knobs


def test_the_names_in_the_contract_are_the_methods_of_a_policy():
    for name in FUNCTIONS:
        assert name in COMPILED or hasattr(Policy, name) or name == "at_most", name
