from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from fluidwait.base.errors import ConfigError
from fluidwait.base.models import parse
from fluidwait.base.paths import ROOT_VARIABLE, project_root
from fluidwait.workload import (
    LengthLaw,
    Workload,
    check_fits,
    check_offered,
    generate,
    input_files,
    is_random,
    length_law,
    load_workload,
    mean_rate,
    rows_used,
)

FIXED = {"kind": "fixed", "prompt": 512, "output": 20}
TYPES = [{"share": 0.7, "prompt": 512, "output": 20}, {"share": 0.3, "prompt": 512, "output": 50}]
MIXTURE = {"kind": "mixture", "types": TYPES}
TRACE = "prompt,output,arrival\n10,1,100\n20,2,100.5\n10,1,100.5\n40,4,103\n"


def workload(lengths=FIXED, **arrivals) -> Workload:
    data = {"name": "w", "lengths": lengths, "arrivals": arrivals or {"process": "poisson"}}
    return parse(Workload, data, "w.yaml")


@pytest.fixture
def trace(tmp_path) -> dict:
    path = tmp_path / "trace.csv"
    path.write_text(TRACE)
    return {"kind": "trace", "file": str(path)}


RENEWALS = {
    "poisson": {"process": "poisson"},
    "poisson_truncated": {"process": "poisson_truncated"},
    "smooth": {"process": "gamma", "cv": 0.5},
    "bursty": {"process": "gamma", "cv": 3.0},
    "deterministic": {"process": "deterministic"},
}
MEAN_AND_CV_OF_UNIT_GAPS = {
    "poisson": (1.0, 1.0),
    # E[min(X, 3)] = 1 - e^-3 and E[min(X, 3)^2] = 2 (1 - 4 e^-3) for X exponential of mean 1
    "poisson_truncated": (1 - np.exp(-3), np.sqrt(2 * (1 - 4 * np.exp(-3)) / (1 - np.exp(-3)) ** 2 - 1)),
    "smooth": (1.0, 0.5),
    "bursty": (1.0, 3.0),
    "deterministic": (1.0, 0.0),
}
PROCESSES = RENEWALS | {
    "piecewise": {"process": "piecewise", "segments": [{"until": 10, "rate": 2}, {"until": 15, "rate": 0.5}]},
    "repeated": {
        "process": "piecewise",
        "repeat": True,
        "segments": [{"until": 3, "rate": 0}, {"until": 10, "rate": 4}, {"until": 12, "rate": 0}],
    },
}


# --- arrival processes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RENEWALS)
def test_gaps_have_the_mean_and_variation_of_their_law(name):
    mean, cv = MEAN_AND_CV_OF_UNIT_GAPS[name]
    n, rate = 400_000, 20.0
    w = workload(**RENEWALS[name])
    gaps = np.diff(generate(w, n=n, rate=rate, seed=7).arrival, prepend=0.0) * rate
    assert gaps.mean() == pytest.approx(mean, abs=5 * cv * mean / np.sqrt(n) + 1e-9)
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.02, abs=1e-6)
    assert mean_rate(w, rate) == pytest.approx(rate / mean)
    lag_one = np.corrcoef(gaps[:-1], gaps[1:])[0, 1] if cv else 0.0
    assert abs(lag_one) < 5 / np.sqrt(n)


def test_truncated_poisson_runs_5_percent_fast_like_vidur():
    w = workload(process="poisson_truncated")
    gaps = np.diff(generate(w, n=100_000, rate=20.0, seed=3).arrival, prepend=0.0)
    exact = np.diff(generate(workload(process="poisson"), n=100_000, rate=20.0, seed=3).arrival, prepend=0.0)
    assert mean_rate(w, 20.0) / 20.0 == pytest.approx(1.0524, abs=5e-5)
    assert np.allclose(gaps, np.minimum(exact, 3 / 20.0), rtol=0, atol=1e-9)


def test_poisson_counts_in_windows_are_poisson():
    arrival = generate(workload(), n=200_000, rate=10.0, seed=5).arrival
    counts = np.histogram(arrival, bins=np.arange(0.0, 19_000.0, 1.0))[0]
    assert counts.mean() == pytest.approx(10.0, abs=5 * np.sqrt(10 / counts.size))
    assert counts.var() == pytest.approx(10.0, rel=0.06)
    assert (counts == 10).mean() == pytest.approx(0.12511, abs=5 * np.sqrt(0.125 * 0.875 / counts.size))


@pytest.mark.parametrize("name", ["piecewise", "repeated"])
@pytest.mark.parametrize("rate", [None, 3.0])
def test_piecewise_counts_in_every_window_are_poisson_with_the_integrated_rate(name, rate):
    w = workload(**PROCESSES[name])
    windows = np.arange(0.0, 37.0)
    expected = np.diff(w.arrivals.expected(windows, rate))
    replications = 400
    counts = np.array(
        [
            np.histogram(generate(w, n=600, rate=rate, seed=1, replication=r).arrival, bins=windows)[0]
            for r in range(replications)
        ]
    )
    assert (counts[:, expected == 0] == 0).all()  # nothing arrives while the rate is 0
    error = np.sqrt(expected / replications)
    assert (np.abs(counts.mean(axis=0) - expected) <= 4.5 * error).all()
    dispersion = counts.var(axis=0).sum() / expected.sum()
    assert dispersion == pytest.approx(1.0, abs=0.1)


def test_piecewise_integral_and_mean_rate_by_hand():
    once, again = (workload(**PROCESSES[name]).arrivals for name in ("piecewise", "repeated"))
    assert once.expected(np.array([0.0, 5.0, 10.0, 15.0, 25.0])).tolist() == [0.0, 10.0, 20.0, 22.5, 27.5]
    assert again.expected(np.array([3.0, 4.0, 12.0, 15.0, 16.0, 24.0])).tolist() == [0.0, 4.0, 28.0, 28.0, 32.0, 56.0]
    assert once.mean_rate(None) == 22.5 / 15
    assert again.mean_rate(None) == pytest.approx(28 / 12)
    # the mean asked for is the mean over the segments, and the segments keep their shape
    assert once.mean_rate(4.0) == again.mean_rate(4.0) == 4.0
    assert once.expected(np.array([10.0, 15.0, 25.0]), 4.0) == pytest.approx(np.array([20.0, 22.5, 27.5]) * 4 / 1.5)
    # over the time of n requests: 20 come in 10 s; after 22.5 in 15 s the last rate goes on; a period has 28 in 12 s
    assert [once.mean_rate(None, n) for n in (2, 20, 30)] == [2.0, 2.0, 30 / 30]
    assert [again.mean_rate(None, n) for n in (28, 42, 56)] == pytest.approx([28 / 10, 42 / 18.5, 56 / 22])


def test_the_rate_asked_of_a_profile_is_the_rate_offered():
    """It multiplied the segments: 5 and 15 requests/s at "2" came as 20."""
    segments = [{"until": 60, "rate": 5}, {"until": 120, "rate": 15}]
    profile = workload(process="piecewise", repeat=True, segments=segments)
    for rate in (0.5, 1.0, 2.0, 3.0):
        n = round(rate * 120) * 40  # forty passes
        arrival = generate(profile, n=n, rate=rate, seed=1).arrival
        assert n / arrival[-1] == pytest.approx(rate, rel=4 / np.sqrt(n))
        low = np.count_nonzero(arrival % 120 < 60) / n
        assert low == pytest.approx(0.25, abs=4 * np.sqrt(0.25 * 0.75 / n))
        assert mean_rate(profile, rate) == rate
    own = generate(profile, n=12_000, seed=1).arrival  # without a rate the segments' own: 10 requests/s
    assert 12_000 / own[-1] == pytest.approx(10, rel=4 / np.sqrt(12_000))
    in_file = workload(process="piecewise", repeat=True, segments=segments, rate=2.0)
    assert (generate(in_file, n=100, seed=1).arrival == generate(profile, n=100, rate=2.0, seed=1).arrival).all()


def test_a_run_that_would_offer_another_rate_is_refused_with_the_nearest_number_of_requests():
    segments = [{"until": 60, "rate": 5}, {"until": 120, "rate": 15}]
    for repeat, n, rate, message in (
        (
            True,
            60,
            2.0,
            "x: 60 requests last 60 s of a profile of 120 s and would come at 1 requests/s, where 2 are asked",
        ),
        (True, 60, 2.0, "(nearest valid number of requests: 240)"),
        (True, 300, 2.0, "(nearest valid number of requests: 240)"),
        (False, 2000, 2.0, "(nearest valid number of requests: 240, or repeat: true)"),
        (False, 100, 2.0, "(nearest valid number of requests: 240)"),
    ):
        w = workload(process="piecewise", repeat=repeat, segments=segments)
        with pytest.raises(ConfigError, match=re.escape(message)):
            check_offered(w, n, rate, "x")
        check_offered(w, 240, rate, "x")
    check_offered(workload(process="piecewise", repeat=True, segments=segments), 2000, 2.0, "x")
    check_offered(workload(process="piecewise", segments=segments), 5, None, "x")  # no rate is asked for
    check_offered(workload(), 5, 2.0, "x")


@given(st.integers(1, 400), st.floats(1e-3, 1e3), st.booleans())
@example(153, 0.001, True)  # n is a rounding error beyond what all segments but the last, of rate 0, bring
def test_the_mean_rate_of_n_requests_is_n_over_their_time(n, rate, repeat):
    name = "repeated" if repeat else "piecewise"
    arrivals = workload(**PROCESSES[name]).arrivals
    time = n / arrivals.mean_rate(rate, n)
    assert arrivals.expected(np.array([time]), rate)[0] == pytest.approx(n, rel=1e-9)


def test_whether_replications_differ(trace):
    assert not is_random(workload(process="deterministic"))
    assert not is_random(workload({"kind": "mixture", "types": [TYPES[0] | {"share": 1.0}]}, process="deterministic"))
    assert is_random(workload(MIXTURE, process="deterministic")) and is_random(workload())
    assert is_random(workload(trace, process="trace"))


def test_one_piecewise_segment_is_the_poisson_process():
    one = workload(process="piecewise", segments=[{"until": 5, "rate": 8.0}])
    poisson = generate(workload(), n=5_000, rate=8.0, seed=2)
    assert np.allclose(generate(one, n=5_000, seed=2).arrival, poisson.arrival, rtol=1e-12)


# --- random streams -------------------------------------------------------------------------------------------------

seeds, sizes = st.integers(0, 2**63), st.integers(1, 60)
rates = st.floats(1e-3, 1e3)


@given(name=st.sampled_from(sorted(PROCESSES)), seed=seeds, n=sizes, more=st.integers(0, 40), rate=rates)
def test_requests_are_valid_repeatable_and_the_first_ones_do_not_depend_on_how_many(name, seed, n, more, rate):
    w = workload(MIXTURE, **PROCESSES[name])
    requests = generate(w, n=n, rate=rate, seed=seed)
    assert [a.dtype for a in requests] == [np.float64, *[np.int64] * 3, np.dtype(object), *[np.int64] * 2]
    columns = [column for name, column in requests._asdict().items() if name != "blocks"]
    assert len(requests.blocks) == 0
    assert {a.shape for a in columns} == {(n,)}
    assert np.isfinite(requests.arrival).all()
    assert (np.diff(requests.arrival, prepend=0.0) >= 0).all()
    assert (requests.output == np.array([20, 50])[requests.kind]).all()
    for once, again in zip(requests, generate(w, n=n + more, rate=rate, seed=seed), strict=True):
        assert (once == again[:n]).all()


@given(name=st.sampled_from(sorted(RENEWALS)), seed=seeds, rate=rates, other=rates)
def test_another_rate_only_rescales_the_gaps(name, seed, rate, other):
    w = workload(MIXTURE, **RENEWALS[name])
    a, b = generate(w, n=50, rate=rate, seed=seed), generate(w, n=50, rate=other, seed=seed)
    assert np.allclose(a.arrival * rate, b.arrival * other, rtol=1e-12)
    assert (a.kind == b.kind).all()


@pytest.mark.parametrize("name", PROCESSES)
def test_lengths_do_not_depend_on_the_arrivals_and_gaps_not_on_the_lengths(name):
    plain = generate(workload(MIXTURE), n=1_000, rate=1.0, seed=9)
    assert (generate(workload(MIXTURE, **PROCESSES[name]), n=1_000, rate=5.0, seed=9).kind == plain.kind).all()
    single = generate(workload(FIXED, **PROCESSES[name]), n=1_000, rate=5.0, seed=9)
    assert (single.arrival == generate(workload(MIXTURE, **PROCESSES[name]), n=1_000, rate=5.0, seed=9).arrival).all()


def test_seeds_and_replications_are_different_and_uncorrelated():
    runs = [generate(workload(MIXTURE), n=20_000, rate=1.0, seed=s, replication=r) for s in (0, 1) for r in (0, 1)]
    gaps = np.array([np.diff(r.arrival) for r in runs])
    kinds = np.array([r.kind for r in runs])
    for samples in (gaps, kinds, np.vstack([gaps, kinds[:, 1:]])):  # also gaps against lengths of the same run
        off_diagonal = np.corrcoef(samples)[~np.eye(len(samples), dtype=bool)]
        assert np.abs(off_diagonal).max() < 5 / np.sqrt(20_000)


def test_a_request_does_not_owe_its_length_to_its_gap():
    # Many short runs: two streams from one state drift apart within a long one, so only the first requests would tell.
    runs = [generate(workload(MIXTURE), n=1, rate=1.0, seed=0, replication=r) for r in range(3_000)]
    first = np.array([(r.arrival[0], r.kind[0]) for r in runs]).T
    assert abs(np.corrcoef(first)[0, 1]) < 5 / np.sqrt(3_000)


# --- lengths --------------------------------------------------------------------------------------------------------


def assert_drawn_from(law: LengthLaw, requests) -> None:
    """Every drawn pair is in the law, and the frequencies pass a chi-square bound of 5 standard deviations."""
    assert law.share.sum() == pytest.approx(1.0, abs=1e-12)
    pairs, index = np.unique(np.column_stack([law.prompt, law.output]), axis=0, return_inverse=True)
    share = np.bincount(index.ravel(), law.share)
    drawn, counts = np.unique(np.column_stack([requests.prompt, requests.output]), axis=0, return_counts=True)
    position = {tuple(pair): i for i, pair in enumerate(pairs)}
    observed = np.zeros(len(pairs))
    observed[[position[tuple(pair)] for pair in drawn]] = counts
    expected = share * len(requests.prompt)
    variance = np.sum((1 - share) * (2 + 1 / expected))  # of the sum below, also with small expected counts
    assert abs(np.sum((observed - expected) ** 2 / expected) - (len(pairs) - 1)) <= 5 * np.sqrt(variance)


def test_mixture_and_trace_are_drawn_from_their_law(trace):
    for lengths, pairs in ((MIXTURE, [(512, 20), (512, 50)]), (trace, [(10, 1), (20, 2), (40, 4)])):
        law = length_law(workload(lengths))
        assert list(zip(law.prompt, law.output, strict=True)) == pairs
        assert_drawn_from(law, generate(workload(lengths), n=100_000, rate=1.0, seed=4))
    assert law.share.tolist() == [0.5, 0.25, 0.25]


def test_table_is_drawn_from_its_law():
    w = load_workload("lmsys-chat-1m")
    law = length_law(w)
    assert_drawn_from(law, generate(w, n=1_000_000, rate=1.0, seed=4))
    work = law.share @ ((law.output + 1) * (law.prompt + law.output / 2))
    assert work == pytest.approx(28_172, rel=5e-3)  # the paper's mean KV work, token iterations


def test_fixed_law_and_single_kind():
    law = length_law(workload())
    assert [a.tolist() for a in law] == [[512.0], [20.0], [1.0]]
    assert not generate(workload(), n=10, rate=1.0, seed=0).kind.any()


def test_table_limits_cut_the_law(tmp_path):
    (tmp_path / "t.csv").write_text("prompt,output,count\n5,7,3\n6,7,1\n5,800,4\n")
    lengths = {"kind": "table", "file": str(tmp_path / "t.csv"), "max_output": 100}
    assert length_law(workload(lengths)).share.tolist() == [0.75, 0.25]
    assert generate(workload(lengths), n=1_000, rate=1.0, seed=0).output.max() == 7


# --- replayed traces ------------------------------------------------------------------------------------------------


def test_a_trace_is_replayed_in_order_from_time_0(trace):
    w = workload(trace, process="trace")
    requests = generate(w, n=4, seed=0)
    assert requests.arrival.tolist() == [0.0, 0.5, 0.5, 3.0]
    assert requests.prompt.tolist() == [10, 20, 10, 40]
    assert requests.output.tolist() == [1, 2, 1, 4]
    assert mean_rate(w) == 1.0
    assert generate(w, n=4, rate=4.0, seed=0).arrival.tolist() == [0.0, 0.125, 0.125, 0.75]
    assert mean_rate(w, 4.0) == 4.0
    assert mean_rate(workload(trace, process="trace", rate=2.0)) == 2.0


@pytest.fixture
def uneven(tmp_path) -> dict:
    """A trace of 1,000 rows that comes ten times faster in its second half: 1.82 requests/s over the whole."""
    gaps = np.repeat([1.0, 0.1], 500)
    path = tmp_path / "uneven.csv"
    rows = [f"{time:.1f},{row},{row + 1}" for row, time in enumerate(np.cumsum(gaps), start=1)]
    path.write_text("\n".join(["arrival,prompt,output", *rows, ""]))
    return {"kind": "trace", "file": str(path)}


@pytest.mark.parametrize("stretches", [1, 2, 5])
@pytest.mark.parametrize("rate", [0.5, 2.0])
def test_the_rate_asked_of_a_trace_is_offered_over_the_rows_used(uneven, rate, stretches):
    """The whole file was stretched to it, then cut: its first fifth came at 0.55 when 1 was asked for."""
    w = workload(uneven, process="trace")
    for replication in range(stretches):
        arrival = generate(w, n=200, rate=rate, seed=0, replication=replication, stretches=stretches).arrival
        assert arrival[0] == 0.0
        assert 199 / arrival[-1] == pytest.approx(rate, rel=1e-12)


def test_replications_of_a_trace_are_different_stretches(uneven):
    """All were the rows at its beginning."""
    w = workload(uneven, process="trace")
    runs = [generate(w, n=200, rate=2.0, seed=0, replication=r, stretches=4) for r in range(4)]
    assert [run.prompt[0] for run in runs] == [1, 251, 501, 751]
    assert [rows_used(w, 200, r, 4) for r in range(4)] == [
        (1, 200, 1000),
        (251, 450, 1000),
        (501, 700, 1000),
        (751, 950, 1000),
    ]
    assert not set.intersection(*(set(run.prompt.tolist()) for run in runs))
    assert mean_rate(w, None, 200) == pytest.approx(1.0)
    for change, message in (
        (
            {"n": 251, "stretches": 4},
            "asked for 251 requests in each of 4 stretches, but the trace has 1000 (nearest valid",
        ),
        ({"n": 251, "stretches": 4}, "number of stretches: 3)"),
        ({"n": 10, "replication": 1}, "replication 1, but the trace is cut into 1 stretch(es) only"),
    ):
        with pytest.raises(ConfigError, match=re.escape(message)):
            generate(w, **({"seed": 0, "rate": 1.0} | change))


UNITS = [
    # first time, step, what is found, what to say
    (1_700_158_666_680, 200, "1700158666680 is 2023-11-16 in milliseconds since 1970, not seconds", "unit: ms"),
    (1_700_158_666_680_000, 200_000, "is 2023-11-16 in microseconds since 1970, not seconds", "unit: us"),
    (1_700_158_666_680_000_000, 200_000_000, "is 2023-11-16 in nanoseconds since 1970, not seconds", "unit: ns"),
    (0, 200, "as seconds they are 0.005 requests/s on average, which looks like milliseconds", "unit: ms"),
    (7_000, 200_000, "as seconds they are 5e-06 requests/s on average", "unit: ms"),
    (3e11, 1, "3e+11 seconds are no time since 1970 or a start", "the units are s, ms, us, ns"),
    (0, 1e-5, "as seconds they are 1e+05 requests/s on average, which looks like hours or days", "unit: s"),
]


@pytest.mark.parametrize(("first", "step", "found", "say"), UNITS)
def test_times_in_another_unit_are_never_taken_for_seconds(tmp_path, first, step, found, say):
    rows = "".join(f"{first + i * step!r},10,1\n" for i in range(20))
    (tmp_path / "t.csv").write_text(f"arrival,prompt,output\n{rows}")
    w = workload({"kind": "trace", "file": str(tmp_path / "t.csv")}, process="trace")
    with pytest.raises(ConfigError, match=re.escape(found)) as error:
        generate(w, n=10, rate=2.0, seed=0)
    assert f"t.csv: column 'arrival': {first:.0f}"[:20] in str(error.value) and say in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("unit", "first", "step"),
    [
        ("ms", 1_700_158_666_680, 200),
        ("us", 1_700_158_666_680_000, 200_000),
        ("ns", 1_500_000_000, 200_000_000),  # a machine's clock, a second after its start
        ("ms", 0, 200),
        ("s", 1_700_158_666.68, 0.2),
        ("s", 0, 0.2),
        (None, 1_700_158_666.68, 0.2),
        (None, 0, 0.2),
    ],
)
def test_the_unit_of_a_trace_is_said_with_a_key(tmp_path, unit, first, step):
    rows = "".join(f"{first + i * step!r},10,1\n" for i in range(20))
    (tmp_path / "t.csv").write_text(f"arrival,prompt,output\n{rows}")
    w = workload({"kind": "trace", "file": str(tmp_path / "t.csv")}, process="trace", unit=unit)
    assert generate(w, n=20, seed=0).arrival == pytest.approx(0.2 * np.arange(20), abs=1e-5)
    assert mean_rate(w) == pytest.approx(5.0, rel=1e-5)


def test_a_slow_trace_in_seconds_is_one_when_that_is_said(tmp_path):
    (tmp_path / "t.csv").write_text("arrival,prompt,output\n0,10,1\n60,10,1\n120,10,1\n")
    lengths = {"kind": "trace", "file": str(tmp_path / "t.csv")}
    with pytest.raises(ConfigError, match=r"unit: ms, or unit: s if they are seconds"):
        mean_rate(workload(lengths, process="trace"))
    assert mean_rate(workload(lengths, process="trace", unit="s")) == pytest.approx(1 / 60)
    with pytest.raises(ConfigError, match=r"arrivals\.unit: .*'ms'"):
        workload(lengths, process="trace", unit="msec")


def test_trace_mistakes_are_one_line(trace, tmp_path):
    w = workload(trace, process="trace")
    with pytest.raises(ConfigError, match=r"workload w: .*trace\.csv: asked for 5 requests, but the trace has 4"):
        generate(w, n=5, seed=0)
    path = tmp_path / "trace.csv"
    path.write_text("prompt,output,arrival\n1,1,5\n1,1,4\n")
    with pytest.raises(ConfigError, match=r"column 'arrival' must not decrease, but 4\.0 follows 5\.0"):
        generate(w, n=1, seed=0)
    path.write_text("prompt,output,arrival\n1,1,5\n1,1,5\n")
    with pytest.raises(ConfigError, match="all requests of the trace arrive at once"):
        generate(w, n=1, rate=2.0, seed=0)
    path.write_text("prompt,output,time\n1,1,5\n")
    with pytest.raises(ConfigError, match=r"trace\.csv: no column 'arrival'"):
        generate(w, n=1, seed=0)
    path.unlink()
    with pytest.raises(ConfigError, match=r"trace\.csv: no such file"):
        generate(workload(trace), n=1, rate=1.0, seed=0)


# --- mistakes in a workload file ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lenghts": FIXED}, "lenghts: unknown key (did you mean 'lengths'?)"),
        ({"lengths": {**FIXED, "kind": "fixd"}}, "'fixd' is not a valid value (did you mean 'fixed'?)"),
        (
            {"lengths": {**FIXED, "output": 0}},
            "lengths.output: input should be greater than or equal to 1, found 0",
        ),
        ({"lengths": {**FIXED, "output": "20"}}, "lengths.output: input should be a valid integer, found '20'"),
        ({"lengths": {**FIXED, "output": 10**12}}, "less than or equal to 1000000000"),
        ({"lengths": {"kind": "fixed", "prompt": 3}}, "lengths.output: required key is missing"),
        (
            {"lengths": {"kind": "mixture", "types": [TYPES[0], {**TYPES[1], "share": 0.2}]}},
            "the shares of the types must sum to 1, found 0.9",
        ),
        ({"lengths": {"kind": "mixture", "types": []}}, "lengths.types: tuple should have at least 1 item"),
        ({"arrivals": {"process": "poison"}}, "'poison' is not a valid value (did you mean 'poisson'?)"),
        ({"arrivals": {"process": "poisson", "rate": 0}}, "arrivals.rate: input should be greater than 0"),
        ({"arrivals": {"process": "poisson", "rate": float("inf")}}, "arrivals.rate: input should be a finite"),
        ({"arrivals": {"process": "gamma"}}, "arrivals.cv: required key is missing"),
        ({"arrivals": {"process": "trace"}}, "arrivals 'trace' replays the file of lengths 'trace'"),
        (
            {"arrivals": {"process": "piecewise", "segments": [{"until": 2, "rate": 1}, {"until": 2, "rate": 3}]}},
            "'until' must increase from segment to segment, but 2 follows 2",
        ),
        ({"arrivals": {"process": "gamma", "cv": 1e-300}}, "arrivals.cv: input should be greater than or equal to"),
        ({"arrivals": {"process": "gamma", "cv": 1e300}}, "arrivals.cv: input should be less than or equal to 100"),
        ({"name": " "}, "name: must be printable text on one line"),
        (
            {"arrivals": {"process": "piecewise", "segments": [{"until": 2, "rate": 0}]}},
            "the last segment's rate continues for ever, so it must be above 0",
        ),
        (
            {"arrivals": {"process": "piecewise", "repeat": True, "segments": [{"until": 2, "rate": 0}]}},
            "at least one segment needs a rate above 0",
        ),
    ],
)
def test_a_bad_workload_file_is_told_in_one_line(tmp_path, change, message):
    path = tmp_path / "w.yaml"
    path.write_text(yaml.safe_dump({"name": "w", "lengths": FIXED, "arrivals": {"process": "poisson"}} | change))
    with pytest.raises(ConfigError, match=re.escape(message)) as error:
        load_workload(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rate": None}, "arrivals.rate: not set; write it in the workload file or give a rate"),
        ({"rate": 0.0}, "rate: must be above 0 requests/s and finite, found 0.0"),
        ({"rate": float("nan")}, "rate: must be above 0 requests/s and finite, found nan"),
        ({"n": 0}, "n: must be at least 1 request, found 0"),
        ({"n": 10**12}, "n: must be at most 100000000 requests, found 1000000000000"),
        ({"seed": -1}, "seed: must be at least 0, found -1"),
        ({"replication": -2}, "replication: must be at least 0, found -2"),
        ({"rate": 1e-300, "n": 50}, "rate: 50 requests would last "),
        ({"rate": 1e-9, "n": 50}, "rate: 50 requests would last "),
    ],
)
def test_bad_arguments_are_told_in_one_line(arguments, message):
    with pytest.raises(ConfigError, match=re.escape(f"workload w: {message}")):
        generate(workload(), **({"n": 1, "rate": 1.0, "seed": 0} | arguments))


def test_a_rate_in_the_file_is_used_and_a_given_one_replaces_it():
    w = workload(process="deterministic", rate=4.0)
    assert generate(w, n=2, seed=0).arrival.tolist() == [0.25, 0.5]
    assert generate(w, n=2, rate=2.0, seed=0).arrival.tolist() == [0.5, 1.0]


# --- finding files --------------------------------------------------------------------------------------------------


def test_every_shipped_workload_loads_by_name_and_generates():
    names = sorted(p.stem for p in (project_root() / "config" / "workloads").glob("*.yaml"))
    assert {"lmsys-chat-1m", "p512d1000", "p512d20", "two_types"} <= set(names)
    for name in names:
        w = load_workload(name)
        assert w.name == name
        assert len(generate(w, n=10, rate=1.0, seed=0).arrival) == 10
        assert all(file.is_file() for file in input_files(w))


def test_an_unknown_name_gets_the_nearest_one():
    with pytest.raises(ConfigError, match=r"workload 'two_type': no such file .*\(did you mean 'two_types'\?\)"):
        load_workload("two_type")


def test_a_data_file_is_found_beside_the_workload_then_in_the_project(tmp_path, monkeypatch):
    root, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    table = "prompt,output,count\n5,{output},1\n"
    for folder, output in ((root / "data", 1), (elsewhere, 2), (elsewhere / "data", 3)):
        folder.mkdir(parents=True)
        (folder / "t.csv").write_text(table.format(output=output))
    monkeypatch.setenv(ROOT_VARIABLE, str(root))

    def load(folder: Path, file: str) -> Workload:
        path = folder / "w.yaml"
        data = {"name": "w", "lengths": {"kind": "table", "file": file}, "arrivals": {"process": "poisson"}}
        path.write_text(yaml.safe_dump(data))
        return load_workload(path)

    beside = load(elsewhere, "data/t.csv")
    assert length_law(beside).output.tolist() == [3]
    assert input_files(beside) == [elsewhere / "data" / "t.csv"]
    assert load(elsewhere, str(elsewhere / "t.csv")).lengths.file == str(elsewhere / "t.csv")
    # inside the project the path kept does not name this machine, wherever it was found from
    assert load(root, "data/t.csv").lengths.file == load(root / "data", "t.csv").lengths.file == "data/t.csv"
    (elsewhere / "data" / "t.csv").unlink()
    assert length_law(load(elsewhere, "data/t.csv")).output.tolist() == [1]
    with pytest.raises(
        ConfigError, match=r"w\.yaml: lengths\.file: no file 'data/u\.csv' .*\(did you mean 't\.csv'\?\)"
    ):
        load(elsewhere, "data/u.csv")


# --- memory ---------------------------------------------------------------------------------------------------------


def test_lengths_that_no_empty_server_holds_are_refused():
    w = workload(MIXTURE)
    for lengths in (length_law(w), generate(w, n=100, rate=1.0, seed=0)):
        check_fits(lengths, 562, "x.yaml")
        message = (
            "x.yaml: a request of 512 prompt and 50 output tokens needs 562 tokens of KV cache, "
            "but memory holds 561 (longest output that fits: 49; "
        )
        with pytest.raises(ConfigError, match=rf"^{re.escape(message)}\d+ % of the requests are too long\)$"):
            check_fits(lengths, 561.9, "x.yaml")
        with pytest.raises(ConfigError, match=re.escape("(longest prompt that fits: 99; 100 % of")):
            check_fits(lengths, 100, "x.yaml")


def test_lengths_that_the_model_does_not_take_are_refused():
    law = length_law(workload(MIXTURE))
    check_fits(law, 1e5, "x.yaml", 562)
    message = (
        "x.yaml: a request of 512 prompt and 50 output tokens needs 562 tokens of KV cache, "
        "but max_model_len of the hardware is 561 (longest output that fits: 49; 30 % of the requests are too long)"
    )
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        check_fits(law, 1e5, "x.yaml", 561)
    with pytest.raises(ConfigError, match=r"but memory holds 540 \(longest output that fits: 28;"):
        check_fits(law, 540, "x.yaml", 561)  # the tighter of the two, so that its hint is enough


# --- what clients allow and predict -----------------------------------------------------------------------------------


def told(lengths=MIXTURE, **more) -> Workload:
    return parse(Workload, {"name": "w", "lengths": lengths, "arrivals": {"process": "poisson"}, **more}, "w.yaml")


def test_a_client_allows_the_longest_output_unless_the_file_says_more():
    assert set(generate(told(), n=50, rate=1.0, seed=1).max_output) == {50}
    drawn = generate(told(max_output=200), n=50, rate=1.0, seed=1)
    assert set(drawn.max_output) == {200}
    assert not drawn.predicted.any()


def test_a_client_allows_no_less_than_the_longest_output(tmp_path):
    path = tmp_path / "w.yaml"
    data = {"name": "w", "lengths": MIXTURE, "arrivals": {"process": "poisson"}, "max_output": 49}
    path.write_text(yaml.safe_dump(data))
    says = "max_output: 49 tokens, but there are outputs of 50 (nearest valid value: 50)"
    with pytest.raises(ConfigError, match=re.escape(f"{path}: {says}")):
        load_workload(path)
    with pytest.raises(ConfigError, match=re.escape(f"workload w: {says}")):
        generate(told(max_output=49), n=5, rate=1.0, seed=1)


@pytest.mark.parametrize("error", [-0.1, float("inf"), "much"])
def test_an_error_of_predictions_is_a_standard_deviation(error):
    with pytest.raises(ConfigError, match=r"w.yaml: predictions.error"):
        told(predictions={"error": error})


def test_predictions_change_neither_arrivals_nor_lengths():
    """Their stream of random numbers is a third one; the first two are those of a workload without."""
    plain, predicted = (generate(w, n=200, rate=2.0, seed=4) for w in (told(), told(predictions={"error": 0.5})))
    for name in ("arrival", "prompt", "output", "kind", "max_output"):
        assert getattr(plain, name).tobytes() == getattr(predicted, name).tobytes()
    streams = [np.random.default_rng(s) for s in np.random.SeedSequence([4, 0]).spawn(2)]
    assert plain.arrival.tobytes() == (np.cumsum(streams[0].standard_exponential(200)) / 2.0).tobytes()
    longer = generate(told(predictions={"error": 0.5}), n=300, rate=5.0, seed=4)
    assert longer.predicted[:200].tolist() == predicted.predicted.tolist()


def test_without_error_the_prediction_is_the_output():
    drawn = generate(told(predictions={"error": 0}), n=300, rate=1.0, seed=2)
    assert drawn.predicted.tolist() == drawn.output.tolist()


def test_predictions_are_log_normal_between_one_and_what_is_allowed():
    lengths = {"kind": "fixed", "prompt": 10, "output": 400}
    drawn = generate(told(lengths, predictions={"error": 0.5}, max_output=10**6), n=100_000, rate=1.0, seed=3)
    error = np.log(drawn.predicted / 400)
    assert error.mean() == pytest.approx(0, abs=5 * 0.5 / np.sqrt(100_000) + 1e-3)
    assert error.std() == pytest.approx(0.5, rel=0.02)
    lag_one = np.corrcoef(error[:-1], error[1:])[0, 1]
    assert abs(lag_one) < 5 / np.sqrt(100_000)
    cut = generate(told(lengths, predictions={"error": 3.0}), n=2000, rate=1.0, seed=3)
    assert (cut.predicted.min(), cut.predicted.max()) == (1, 400)


def test_a_replayed_trace_is_predicted_too(trace):
    w = told(trace, arrivals={"process": "trace", "unit": "s"}, predictions={"error": 0.7}, max_output=9)
    drawn, other = (generate(w, n=2, seed=seed) for seed in (1, 2))
    assert drawn.output.tolist() == other.output.tolist() == [1, 2]
    assert set(drawn.max_output) == {9}
    assert ((drawn.predicted >= 1) & (drawn.predicted <= 9)).all()
    whole = told(trace, arrivals={"process": "trace", "unit": "s"})
    assert set(generate(whole, n=2, seed=1).max_output) == {4}  # the longest of the file, not of the rows used


def test_replications_differ_where_only_the_predictions_do():
    even = {"process": "deterministic"}
    assert not is_random(told(FIXED, arrivals=even, predictions={"error": 0}))
    assert is_random(told(FIXED, arrivals=even, predictions={"error": 0.1}))


def test_a_workload_that_says_neither_is_written_down_as_before():
    """Sidecars of results made before these settings hold its older form."""
    assert set(told().model_dump(mode="json")) == {"name", "lengths", "arrivals"}
    assert told(predictions={"error": 0.2}).model_dump(mode="json")["predictions"] == {"error": 0.2}
