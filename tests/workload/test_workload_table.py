from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluidwait.base.errors import ConfigError
from fluidwait.base.paths import project_root
from fluidwait.base.tables import read_columns
from fluidwait.workload.table import bin_upper, bin_width, histogram, make_table, read_table

LMSYS = project_root() / "data" / "workloads" / "lmsys-chat-1m.csv"
SOURCE = (
    "lmsys-chat-1m in the Llama-2 tokenizer, a sample of 100,000 (prompt, answer) pairs "
    "with prompt < 500 and answer < 600"
)


def shared_sample() -> Path:
    folder = Path(os.environ.get("FLUIDWAIT_SHARED", project_root().parent / "shared"))
    path = folder / "data" / "lmsys_chat_1m_lengths_sample.csv"
    if not path.is_file():
        pytest.skip("the raw lmsys-chat-1m sample is not beside this checkout (FLUIDWAIT_SHARED); the table ships")
    return path


def statistics(prompt, output, count) -> dict[str, float]:
    def mean(x):
        return float(np.average(x, weights=count))

    def median(x):
        order = np.argsort(x)
        reached = np.cumsum(count[order])
        return float(x[order][np.searchsorted(reached, reached[-1] / 2)])

    return {
        "prompt mean": mean(prompt),
        "prompt median": median(prompt),
        "output mean": mean(output),
        "output median": median(output),
        "P(output <= 50)": mean(output <= 50),
        "P(output > 300)": mean(output > 300),
        "E[(l'+1)(l + l'/2)]": mean((output + 1) * (prompt + output / 2)),
    }


def test_shipped_table_has_the_statistics_of_the_whole_sample():
    # Of the 96,898 pairs with prompt < 500 and answer < 500, 151 of them with an empty side. The paper (C9)
    # reports 58.6, 21, 147.3, 116, 31 %, 14 %: the sample's output median is 117 and its prompt mean 58.5.
    sample = {
        "prompt mean": 58.4702,
        "prompt median": 21,
        "output mean": 147.3264,
        "output median": 117,
        "P(output <= 50)": 0.311410,
        "P(output > 300)": 0.143656,
        "E[(l'+1)(l + l'/2)]": 28171.96,
    }
    table = read_table(LMSYS)
    assert statistics(*table) == pytest.approx(sample, rel=5e-4)
    assert table.count.sum() == 96_898
    assert table.prompt.max() <= 499
    assert table.output.max() <= 499


def test_shipped_table_is_what_the_code_makes_of_the_raw_sample(tmp_path):
    made = tmp_path / "made.csv"
    summary = make_table(
        shared_sample(),
        made,
        prompt_column="question_length",
        output_column="answer_length",
        max_prompt=499,
        max_output=499,
        empty="one",
        source=SOURCE,
    )
    shipped = LMSYS.read_text().replace("fluidwait.workload_table.make_table", "fluidwait table")  # its older name
    assert made.read_text() == shipped
    assert (summary.rows, summary.empty, summary.too_long, summary.kept) == (100_000, 151, 3_102, 96_898)


AZURE = {
    "conv": ("conversation requests", (19_366, 1_612, 17_754), (878.2, 224.0)),
    "code": ("code requests", (8_819, 1_257, 7_562), (1_372.8, 27.6)),
}
"""By trace: what it holds; requests read, too long, kept; mean prompt and output of those kept, tokens."""


@pytest.mark.parametrize("trace", AZURE)
def test_azure_table_keeps_what_llama_2_can_hold_and_says_what_was_dropped(trace):
    path = LMSYS.with_name(f"azure-2023-{trace}.csv")
    _, (rows, dropped, kept), means = AZURE[trace]
    table, text = read_table(path), path.read_text()
    assert table.count.sum() == kept and (table.prompt + table.output).max() <= 4096
    assert [column @ table.count / kept for column in table[:2]] == pytest.approx(means, rel=1e-3)
    assert f"# requests: {rows} read, {dropped} too long dropped, {kept} kept" in text and "Microsoft, CC-BY" in text


@pytest.mark.parametrize("trace", AZURE)
def test_azure_table_is_what_the_command_makes_of_the_trace(trace, tmp_path):
    what, (rows, dropped, kept), _ = AZURE[trace]
    raw = shared_sample().with_name("traces") / f"azure_2023_{trace}.csv"
    if not raw.is_file():
        pytest.skip(f"{raw.name} is not here")
    file = f"AzureLLMInferenceTrace_{trace}.csv of Azure/AzurePublicDataset"
    summary = make_table(
        raw,
        tmp_path / "made.csv",
        prompt_column="ContextTokens",
        output_column="GeneratedTokens",
        max_total=4096,
        source=f"Azure LLM inference trace 2023, {what} ({file}; Patel et al., Splitwise, ISCA 2024), Microsoft, CC-BY",
    )
    assert (tmp_path / "made.csv").read_text() == LMSYS.with_name(f"azure-2023-{trace}.csv").read_text()
    assert (summary.rows, summary.too_long, summary.kept) == (rows, dropped, kept)


@given(lengths=st.lists(st.tuples(st.integers(1, 400), st.integers(1, 400)), min_size=1, max_size=60))
def test_no_pair_is_longer_than_the_longest_total(lengths, tmp_path_factory):
    """Nor after rounding, when the means of a cell are rounded up in both."""
    folder = tmp_path_factory.mktemp("total")
    (folder / "in.csv").write_text("prompt,output\n" + "".join(f"{p},{o}\n" for p, o in lengths))
    most = sorted(p + o for p, o in lengths)[len(lengths) // 2]
    summary = make_table(folder / "in.csv", folder / "out.csv", max_total=most)
    table = read_table(folder / "out.csv")
    assert (table.prompt + table.output).max() <= most
    assert summary.kept == table.count.sum() == sum(p + o <= most for p, o in lengths)
    assert f"# filter: prompt + output <= {most}\n" in (folder / "out.csv").read_text()


def test_binning_moves_no_statistic_of_the_raw_sample_by_half_a_percent():
    columns = read_columns(shared_sample(), {"question_length": 0, "answer_length": 0})
    prompt, output = columns["question_length"], columns["answer_length"]
    kept = output < 500
    prompt, output = np.maximum(prompt, 1), np.maximum(output, 1)
    raw = statistics(prompt[kept], output[kept], np.ones(kept.sum(), dtype=np.int64))
    binned = statistics(*histogram(prompt[kept], output[kept]))
    assert binned == pytest.approx(raw, rel=5e-4)
    for name in ("prompt median", "output median", "P(output <= 50)", "P(output > 300)"):
        assert binned[name] == raw[name]


def test_bins_are_exact_up_to_100_tokens_and_narrow_beyond():
    length = np.arange(1, 20_000)
    width, upper = bin_width(length), bin_upper(length)
    assert (width[:100] == 1).all()
    assert (width <= np.maximum(1, 0.025 * length)).all()
    assert (upper - width < length).all()
    assert (length <= upper).all()
    assert (np.diff(upper) >= 0).all()
    # bins partition the lengths: a bin starts where the one before it ends
    last_of_bin = np.append(np.diff(upper) > 0, True)
    assert (upper[last_of_bin][:-1] == length[last_of_bin][:-1]).all()
    assert {50, 100, 200, 300, 500, 1000, 2000, 4000, 10_000} <= set(upper.tolist())


lengths = st.lists(st.tuples(st.integers(1, 3_000), st.integers(1, 3_000)), min_size=1, max_size=80)


@given(lengths)
def test_a_histogram_keeps_every_request_and_each_in_its_bin(pairs):
    prompt, output = np.array(pairs, dtype=np.int64).T
    table = histogram(prompt, output)
    assert table.count.sum() == len(pairs)
    cells = np.column_stack([bin_upper(table.prompt), bin_upper(table.output)])
    assert len(np.unique(cells, axis=0)) == len(cells)
    edge = int(bin_upper(np.array([1_234]))[0])
    assert table.count[table.output <= edge].sum() == (output <= edge).sum()
    assert abs(table.count @ table.prompt - prompt.sum()) <= 0.5 * len(pairs)


@given(lengths)
def test_a_data_set_of_short_requests_comes_back_exactly(pairs):
    prompt, output = (np.array(pairs, dtype=np.int64) % 100 + 1).T
    table = histogram(prompt, output)
    back = sorted(zip(np.repeat(table.prompt, table.count), np.repeat(table.output, table.count), strict=True))
    assert back == sorted(zip(prompt, output, strict=True))


@pytest.fixture
def data_set(tmp_path) -> Path:
    path = tmp_path / "mine.csv"
    path.write_text("in,out,text\n5,7,a\n5,7,b\n0,3,c\n4,0,d\n900,7,e\n5,8000,f\n30,40,g\n")
    return path


def test_make_table_counts_what_it_drops_and_says_so_in_the_file(tmp_path, data_set):
    out = tmp_path / "tables" / "mine.csv"
    columns = {"prompt_column": "in", "output_column": "out"}
    settings = columns | {"max_prompt": 500, "max_output": 1000, "empty": "drop", "source": "my\nservice"}
    summary = make_table(data_set, out, **settings)
    assert summary._asdict() == {"rows": 7, "too_long": 2, "empty": 2, "kept": 3, "cells": 2}
    table = read_table(out)
    assert [c.tolist() for c in table] == [[5, 30], [7, 40], [2, 1]]
    text = out.read_text()
    assert "# source: my service\n" in text
    assert "# filter: prompt <= 500 and output <= 1000\n" in text
    assert "7 read, 2 too long dropped, 2 with an empty prompt or output dropped, 3 kept\n" in text
    again = tmp_path / "again.csv"
    make_table(data_set, again, **settings)
    assert again.read_bytes() == out.read_bytes()


def test_an_empty_length_is_one_token_only_when_asked_for(tmp_path, data_set):
    """An output of 0 was counted as 1 without a word: another law than the data have."""
    out = tmp_path / "out.csv"
    settings = {"prompt_column": "in", "output_column": "out", "max_prompt": 500, "max_output": 1000}
    with pytest.raises(
        ConfigError,
        match=r"mine\.csv: 2 of 7 requests have an empty prompt or output, the first 0 \+ 3 in row 3 \(say",
    ):
        make_table(data_set, out, **settings)
    assert not out.exists()
    summary = make_table(data_set, out, **settings, empty="one")
    assert (summary.empty, summary.kept) == (2, 5)
    assert [c.tolist() for c in read_table(out)] == [[1, 4, 5, 30], [3, 1, 7, 40], [1, 1, 2, 1]]
    assert "5 kept, 2 of them with an empty prompt or output, counted as 1 token\n" in out.read_text()


def test_a_data_set_without_empty_lengths_gives_the_same_table_whatever_is_said_of_them(tmp_path):
    data = tmp_path / "mine.csv"
    data.write_text("prompt,output\n5,7\n30,40\n")
    tables = []
    for empty in ("refuse", "drop", "one"):
        assert make_table(data, tmp_path / f"{empty}.csv", empty=empty).empty == 0
        tables.append([c.tolist() for c in read_table(tmp_path / f"{empty}.csv")])
    assert tables[0] == tables[1] == tables[2] == [[5, 30], [7, 40], [1, 1]]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prompt_column": "in", "output_column": "oot"}, "mine.csv: no column 'oot' (did you mean 'out'?)"),
        ({"prompt_column": "in", "output_column": "text"}, "mine.csv: line 2, column 'text': 'a' is not a number"),
        ({"prompt_column": "in", "output_column": "in"}, "prompts and outputs cannot both be column 'in'"),
        ({"prompt_column": "in", "output_column": "out", "max_prompt": 0}, "max_prompt: must be at least 1, found 0"),
        ({"prompt_column": "in", "output_column": "out", "max_total": 0}, "max_total: must be at least 1, found 0"),
        (
            {"prompt_column": "in", "output_column": "out", "max_output": 2, "max_prompt": 3},
            "mine.csv: no request is left of 7: all are too long",
        ),
        (
            {"prompt_column": "in", "output_column": "out", "max_output": 3, "empty": "drop"},
            "mine.csv: no request is left of 7: all are too long or empty",
        ),
        (
            {"prompt_column": "in", "output_column": "out", "empty": "dorp"},
            "empty: must be refuse, drop or one, found 'dorp' (did you mean 'drop'?)",
        ),
    ],
)
def test_make_table_mistakes_are_one_line_and_leave_no_file(tmp_path, data_set, settings, message):
    with pytest.raises(ConfigError, match=re.escape(message)) as error:
        make_table(data_set, tmp_path / "out.csv", **settings)
    assert "\n" not in str(error.value)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.csv"]


def test_make_table_says_when_it_cannot_write(tmp_path, data_set):
    with pytest.raises(ConfigError, match=r"mine\.csv/out\.csv: cannot be written"):
        make_table(data_set, data_set / "out.csv", prompt_column="in", output_column="out", empty="drop")


def test_limits_of_a_table_are_inclusive_and_must_leave_something(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("prompt,output,count\n5,7,2\n6,7,1\n5,8,4\n")
    assert read_table(path, max_prompt=5, max_output=7).count.tolist() == [2]
    assert read_table(path, max_output=7).count.tolist() == [2, 1]
    with pytest.raises(
        ConfigError, match=re.escape("no pair has prompt <= 4 and output <= None; the shortest is 5 + 7")
    ):
        read_table(path, max_prompt=4)
    path.write_text("prompt,output,count\n5,7,0\n")
    with pytest.raises(ConfigError, match="line 2, column 'count': '0' is out of range"):
        read_table(path)
