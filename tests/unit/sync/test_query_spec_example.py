"""The worked example of docs/spec/query.md."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from sync.filtertext import parse_filter
from sync.indexkey import index_text
from sync.query import filter_from_json, filter_to_json, matcher

SPEC = (Path(__file__).resolve().parents[3] / "docs" / "spec" / "query.md").read_text("utf-8")


def fenced(language: str) -> str:
    return re.findall(rf"```{language}\n(.*?)```", SPEC, re.DOTALL)[0].strip()


def table(after: str) -> list[list[str]]:
    lines = SPEC.partition(after)[2].partition("\n\n")[0].splitlines()
    return [
        [cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in lines if line.startswith("| `")
    ]


DOCUMENTS: dict[str, Any] = {key: json.loads(fields) for key, fields in table("| key | fields |\n")}


def test_text_and_json_say_the_same() -> None:
    found = parse_filter(fenced("text"))
    assert filter_from_json(json.loads(fenced("json"))) == found
    assert filter_to_json(found) == json.loads(fenced("json"))


def test_the_documents_that_fit() -> None:
    fits = matcher(parse_filter(fenced("text")))
    assert len(DOCUMENTS) == 4
    assert [key for key, fields in DOCUMENTS.items() if fits(key, fields)] == ["1", "2"]
    assert "fits the documents `1` and `2`" in SPEC


def test_the_index_texts() -> None:
    stated = {key: text.replace("\\n", "\n") for key, text in table("| key | index text |\n")}
    assert stated == {key: index_text(fields, ("owner", "balance")) for key, fields in DOCUMENTS.items()}
