"""The Filter tab's ledger: in which order it shows the rows."""

from __future__ import annotations

import re

from lab.records import Pair, Verdict, append_rows
from lab.run import new_run
from lab.ui import charts
from lab.ui import filter as tab


def test_a_page_of_the_ledger_is_a_sample_and_each_row_stands_on_one_page() -> None:
    """Rows of one phrasing follow one another in the file; their ids are hashes."""
    run = new_run()
    ids = [f"{i * 7919 % 9973:04x}" for i in range(40)]
    pairs = [Pair(id_, f"말투 {i // 20}", "이야기", "토끼", ("당근",)) for i, id_ in enumerate(ids)]
    append_rows(run.pairs_file, [p.row() for p in pairs])
    append_rows(run.verdicts_file, [Verdict(p.id, i % 2 == 0).row() for i, p in enumerate(pairs)])

    def shown(page: int, show: str = "all") -> str:
        return tab.rows(run, "ko", show, "", "", page)[0]

    assert "말투 0" in shown(1) and "말투 1" in shown(1)
    seen = [id_ for page in (1, 2, 3, 4) for id_ in re.findall(r'data-id="(\w+)"', shown(page))]
    assert seen == sorted(ids)
    assert re.findall(r'data-id="(\w+)"', shown(1, "kept")) == sorted(ids[::2])[:12]


def test_where_the_slider_stands_is_written_neither_on_the_line_of_one_half_nor_on_the_axis() -> None:
    for rate, side in ((0.05, "top"), (0.4, "bottom"), (0.55, "top")):
        drawn = charts.pass_curve([(1.0, rate), (3.0, rate)], 3.0, "en")
        assert drawn.data[1].textposition == f"{side} center" and drawn.data[1].text == (f"now {rate:.0%}",)
