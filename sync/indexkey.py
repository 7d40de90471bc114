"""What an index over fields compares: the sort keys of a document's indexed fields, in one text that SQL takes apart.

Implements docs/spec/query.md, section "Index keys". Of each indexed field that a document has, a line holds the key of
its value (``sync.sortkey``), shortened so that every engine can keep it in an index, or a mark above all keys for a
value that has none. The text is made of printable ASCII and line feeds, and nothing in a key can look like a line.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from identity.encoding import Value
from sync.sortkey import prefix_range, sort_key

__all__ = ["MAX_INDEX_KEY", "UNKEYED", "index_key", "index_line", "index_prefix", "index_text", "read_index_key"]

MAX_INDEX_KEY: Final = 512
"""Characters of the longest index key: with a document's key behind it, it fits an index row of PostgreSQL."""

UNKEYED: Final = "9"
"""In the place of a key: a list, a map or a sealed value is there."""

_CUT: Final = "~z"
_ABOVE: Final = "~~"
_KEPT: Final = MAX_INDEX_KEY - len(_CUT)
_PLAIN: Final = re.compile(r"[A-Za-z0-9_]+")


def index_key(value: Value) -> str:
    """The index key of a stored value, never empty.

    ``a < b`` gives ``index_key(a) <= index_key(b)``, and equal keys mean equal values, unless ``sync.sortkey.is_cut``
    says of a key that it holds only the beginning. All that has no sort key has ``UNKEYED``.
    """
    return _shortened(sort_key(value) or UNKEYED)


def index_prefix(prefix: str) -> tuple[str, str]:
    """``low`` and ``high`` of the texts that begin with ``prefix``: all of them have keys ``low <= key < high``.

    Other texts can lie between them only when ``low`` is cut.
    """
    low, high = prefix_range(prefix)
    return _shortened(low), high if len(low) <= _KEPT else low[:_KEPT] + _ABOVE


def _shortened(key: str) -> str:
    return key if len(key) <= _KEPT else key[:_KEPT] + _CUT


def index_line(field: str) -> str:
    """What stands before the field's key: a line feed, its label and ``=``. No two fields have the same one."""
    label = field if _PLAIN.fullmatch(field) else "~" + field.encode("utf-8").hex()
    return f"\n{label}="


def index_text(fields: Mapping[str, Value], indexed: Iterable[str]) -> str:
    """What is kept for a document: a line for each indexed field that it has, and a line feed at the end."""
    found = (index_line(name) + index_key(fields[name]) for name in sorted(indexed) if name in fields)
    return "".join(found) + "\n"


def read_index_key(text: str, field: str) -> str:
    """The key of a field in such a text; empty when the document does not have it. What the SQL expressions compute."""
    _, found, rest = text.partition(index_line(field))
    return rest.partition("\n")[0] if found else ""
