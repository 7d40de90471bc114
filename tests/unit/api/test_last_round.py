"""The memory of the last round: written whole, read strictly, never relied upon."""

from __future__ import annotations

from pathlib import Path

import pytest

from api.home import Home
from api.last_round import LastRound, keep_round, load_round, parse_round
from identity.errors import MalformedError


def test_a_round_is_remembered(tmp_path: Path) -> None:
    home = Home(tmp_path)
    assert load_round(home) is None
    keep_round(home, LastRound(5, {"chain 1": "no answer"}))
    keep_round(home, LastRound(7, {"chain 1": "x" * 1000, "clock": "é"}))
    assert load_round(home) == LastRound(7, {"chain 1": "x" * 500, "clock": "é"})
    assert [file.name for file in tmp_path.iterdir()] == ["last-round.json"]


def test_a_home_that_cannot_be_written_to_forgets(tmp_path: Path) -> None:
    home = Home(tmp_path / "absent")
    keep_round(home, LastRound(5, {}))
    assert load_round(home) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"v": 2, "ended": 1, "failures": {}}',
        '{"v": 1, "ended": "1", "failures": {}}',
        '{"v": 1, "ended": -1, "failures": {}}',
        '{"v": 1, "ended": 9007199254740993, "failures": {}}',
        '{"v": 1, "ended": 1, "failures": []}',
        '{"v": 1, "ended": 1, "failures": {"a": 1}}',
        '{"v": 1, "ended": 1, "failures": {}, "more": 1}',
    ],
)
def test_what_is_no_memory_counts_as_none(tmp_path: Path, text: str) -> None:
    with pytest.raises(MalformedError):
        parse_round(text.encode())
    home = Home(tmp_path)
    home.last_round.write_text(text)
    assert load_round(home) is None
