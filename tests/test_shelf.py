"""The shelf counts what is appended, once, and finds any page again."""

from __future__ import annotations

from pathlib import Path

from lab.records import Pair, append_rows, dump, write_text
from lab.shelf import STEP, Shelf


def pair(number: int, **changes) -> dict:
    row = Pair(
        str(number), f"부탁 {number}", f"이야기 {number}", "토끼 토토", ("당근", "비"), tokens=10, seconds=0.5
    ).row()
    return row | changes


def test_what_is_appended_is_counted_once(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    shelf = Shelf(path)
    assert shelf.look().count == 0
    append_rows(path, [pair(1), pair(2, split="test", finish="length", character="곰", output="가" * 60)])
    assert shelf.look().count == 2
    assert shelf.look().count == 2
    append_rows(path, [pair(3)])
    shelf.look()
    assert (shelf.count, shelf.test, shelf.cut_off, shelf.tokens, shelf.seconds) == (3, 1, 1, 30, 1.5)
    assert shelf.characters == {"토끼 토토": 2, "곰": 1} and shelf.words == {"당근": 3, "비": 3}
    assert shelf.lengths == {0: 2, 60 // STEP * STEP: 1}


def test_a_line_that_is_being_written_waits(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    line = dump(pair(1)) + "\n"
    path.write_text(line + line[:20], "utf-8")
    shelf = Shelf(path)
    assert shelf.look().count == 1
    path.write_text(line + line, "utf-8")
    assert shelf.look().count == 2


def test_another_file_in_its_place_is_counted_anew(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    append_rows(path, [pair(i) for i in range(5)])
    shelf = Shelf(path)
    shelf.look()
    write_text(path, dump(pair(9)) + "\n")
    assert shelf.look().count == 1 and shelf.tokens == 10
    path.unlink()
    assert shelf.look().count == 0


def test_pages_come_newest_first_and_can_be_searched(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    append_rows(path, [pair(i) for i in range(30)])
    shelf = Shelf(path).look()
    page, found = shelf.page(2, 3)
    assert [p.id for p in page] == ["27", "26", "25"] and found == 30
    page, found = shelf.page(0, 2, "이야기 1")
    assert [p.id for p in page] == ["19", "18"] and found == 11
    page, found = shelf.page(0, 2, '"quote"')
    assert page == [] and found == 0
    append_rows(path, [pair(31, output='그는 "quote" 했다')])
    assert shelf.look().page(0, 2, '"quote"')[1] == 1
    assert shelf.page(0, 2, "토끼 토토")[1] == 0  # looked for in stories and instructions, not in other fields


def test_a_broken_line_hides_no_other(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text("{broken}\n" + dump(pair(1)) + "\n", "utf-8")
    assert Shelf(path).look().count == 1
