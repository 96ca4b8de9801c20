from __future__ import annotations

import re

import numpy as np
import pytest

from fluidwait.base.errors import ConfigError
from fluidwait.base.tables import column_names, load_table, read_columns


def read(tmp_path, text: str | bytes):
    path = tmp_path / "lengths.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_columns(path, {"prompt": 1, "output": 1})


@pytest.mark.parametrize(
    "text",
    [
        "prompt,output\n4,5\n6,7\n",
        "prompt,output\r\n4,5\r\n6,7",  # Windows line ends, no last one
        "\ufeffprompt,output\n4,5\n6,7\n",  # as spreadsheets save it
        "prompt,output\n\n4,5\n6,7\n",  # a blank first row
        "# made by hand\n\nprompt,output\n4,5\n\n6,7\n\n\n",  # comments above, blank lines anywhere
        'text,output,prompt\n"# one, two\nthree",5,4\nx,7.0, 6\n',  # other columns, any order, quoted line ends
    ],
)
def test_reads_the_named_columns_whatever_surrounds_them(tmp_path, text):
    columns = read(tmp_path, text)
    assert columns["prompt"].tolist() == [4, 6]
    assert columns["output"].tolist() == [5, 7]
    assert columns["prompt"].dtype == columns["output"].dtype == np.int64


def test_real_columns_are_float64(tmp_path):
    path = tmp_path / "trace.csv"
    path.write_text("arrival,prompt\n0.5,1\n1e3,2\n")
    assert column_names(path) == ["arrival", "prompt"]
    arrival = read_columns(path, {}, ["arrival"])["arrival"]
    assert arrival.dtype == np.float64
    assert arrival.tolist() == [0.5, 1000.0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        ("# nothing but comments\n\n", "the file is empty"),
        ("prompt,output\n", "no rows below the header"),
        ("prompt,output\n\n\n", "no rows below the header"),
        ("prompt,outptu\n1,2\n", "no column 'output' (did you mean 'outptu'?)"),
        ("prompt,output,prompt\n1,2,3\n", "2 columns 'prompt'; only one can be meant"),
        ("prompt;x\n1;2\n", "no column 'prompt' (did you mean 'prompt;x'?)"),
        ("prompt,output\n1,2\nthree,4\n", "line 3, column 'prompt': 'three' is not a number"),
        ("# c\nprompt,output\n1,2\n\n\n3,4.5\n", "line 6, column 'output': '4.5' is not a whole number (nearest: 4)"),
        (
            't,prompt,output\n"a\nb",1,2\nc,3,0\n',
            "line 4, column 'output': '0' is out of range, must be 1 to 1000000000",
        ),
        ("prompt,output\n1,-7\n", "line 2, column 'output': '-7' is out of range, must be 1 to 1000000000"),
        ("prompt,output\n1,2e10\n", "line 2, column 'output': '2e10' is out of range, must be 1 to 1000000000"),
        ("prompt,output\n1,nan\n", "line 2, column 'output': 'nan' is not a number"),
        ("prompt,output\n1,2\n3,\n", "line 3, column 'output': the value is missing"),
        ("t,prompt,output\na,1,2\nb,,\n", "line 3, column 'prompt': the value is missing"),
        ("prompt,output\n1,2\n3,4,5\n", "line 3: 3 fields where the header has 2"),
        ("prompt,output\n1\n3,4\n", "line 2, column 'output': the value is missing"),
        ('t,prompt,output\n"a,1,2\nb,3,4\n', "line 2: 1 fields where the header has 3"),
        (b"prompt,output\n\xff,2\n", "cannot be read as CSV text"),
    ],
)
def test_a_bad_file_is_told_in_one_line(tmp_path, text, message):
    with pytest.raises(ConfigError, match=re.escape(message)) as error:
        read(tmp_path, text)
    assert str(error.value).startswith(str(tmp_path / "lengths.csv"))
    assert "\n" not in str(error.value)


def test_a_missing_file_is_named_with_its_nearest_neighbour(tmp_path):
    (tmp_path / "lengths.csv").write_text("prompt,output\n1,2\n")
    with pytest.raises(ConfigError, match=r"lenghts\.csv: no such file \(did you mean 'lengths\.csv'\?\)"):
        read_columns(tmp_path / "lenghts.csv", {"prompt": 1})
    with pytest.raises(ConfigError, match="cannot be read as CSV text"):
        read_columns(tmp_path, {"prompt": 1})


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b'prompt,output\n1,"2\n' + b"3,4\n" * 40_000, "line 2: "),
        (b'"' + b"x" * 140_000, "line 1: cannot be read as CSV text (field larger than field limit (131072): a quote"),
        (b"prompt,output\n1,2\n3,\xff\n", "line 3: byte 0xff is not UTF-8"),
        ("prompt,output\n1,2\n".encode("utf-16"), "it looks like UTF-16 text"),
        (b"\x1f\x8b\x08\x00\xff", "it looks like compressed with gzip"),
        (b"prompt,output\n1," + b"9" * 500, "line 2, column 'output': '999"),
    ],
)
def test_files_that_are_no_csv_text_are_one_short_line(tmp_path, content, says):
    with pytest.raises(ConfigError) as error:
        read(tmp_path, content)
    assert says in str(error.value) and "\n" not in str(error.value)
    assert len(str(error.value)) < 200 + len(str(tmp_path))


def test_a_table_of_the_project_that_is_none(tmp_path):
    path = tmp_path / "summary.csv"
    with pytest.raises(ConfigError, match="summary.csv: no such file"):
        load_table(path)
    for content in (b"", b"a,b\n1,2,3,4\n", b"\xff"):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match="summary.csv: ") as error:
            load_table(path)
        assert "\n" not in str(error.value)
