"""emostream.operate.dashboard.timeline: the counts of the last minutes as CSV."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given

from emostream.operate.dashboard.timeline import harmless, to_csv
from testkit.settings import settings_with
from testkit.strategies import any_text
from tests.unit.operate.dashboard.conftest import NOW_MS


@pytest.mark.usefixtures("topic")
def test_the_csv_has_a_line_per_emoji_and_batch_oldest_first_and_then_highest_count_first() -> None:
    assert to_csv(settings_with(), 30, NOW_MS).decode() == (
        "time,batch_id,emoji,count,events\r\n"
        '2026-07-25T17:19:56.000Z,,"\'=HYPERLINK(""http://x"",1)",1,\r\n'
        "2026-07-25T17:19:56.000Z,7,🔥,2,1500\r\n"
        "2026-07-25T17:19:56.000Z,7,👏,1,3\r\n"
        "2026-07-25T17:19:58.000Z,8,😊,1,1\r\n"
    )


@given(any_text)
def test_no_text_is_a_formula_to_a_spreadsheet_and_each_comes_back_as_it_was(text: str) -> None:
    out = io.StringIO()
    csv.writer(out).writerow([harmless(text), 1])
    [[cell, _]] = csv.reader(io.StringIO(out.getvalue(), newline=""))
    assert cell.removeprefix("'") == text.removeprefix("'")
    assert cell.lstrip()[:1] not in set("=+-@＝＋－＠")
