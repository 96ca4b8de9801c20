"""The page on the architecture against the real imports: its table, its picture, and no arrow up."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def load_generate():
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


generate = load_generate()
ROOMS = generate.rooms()
LISTED = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "architecture.md").read_text(), re.MULTILINE)


def test_the_table_has_every_room_once():
    assert sorted(LISTED) == sorted(ROOMS)
    assert len(ROOMS) > 10


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_from_those_above_it_in_the_table_only(room):
    assert ROOMS[room] <= set(LISTED[: LISTED.index(room)])


def test_the_imports_that_are_known_are_found():
    assert "policies" in ROOMS["engines"] and "base" in ROOMS["fluid"] and ROOMS["base"] == set()


def test_floors_lie_above_what_is_imported():
    floors = generate.floors(ROOMS)
    assert all(floors[room] > floors[other] for room, near in ROOMS.items() for other in near)


def test_a_circle_is_named():
    with pytest.raises(ValueError, match="rooms import each other: a -> b -> a"):
        generate.floors({"a": {"b"}, "b": {"a"}})


def test_arrows_that_follow_from_others_are_left_out():
    assert generate.direct({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == {"a": {"b"}, "b": {"c"}, "c": set()}


def test_what_is_generated_is_up_to_date(capsys):
    """The README's counts and the picture of the rooms."""
    assert generate.main(["--check"]) == 0, capsys.readouterr().out


def test_the_counts_are_those_of_the_files():
    table = generate.counts()
    assert f"| experiments | {len(generate.load_yaml(ROOT / 'config' / 'config.yaml')['experiments'])}, with" in table
    assert table.count("\n") == 10


def test_the_counts_stand_once_in_the_readme():
    text = (ROOT / "README.md").read_text()
    assert text.count(generate.BEGIN) == text.count(generate.END) == 1
    assert generate.counts() in text
