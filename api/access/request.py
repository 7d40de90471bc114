"""A request as it came over the network, as far as a signature covers it."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["HttpRequest"]


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """``url`` is the target URI in full; names in ``headers`` are in lower case, in the order in which they came."""

    method: str
    url: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = field(default=b"", repr=False)

    def header(self, name: str) -> str | None:
        """The value of a header that stands there once; None when it does not stand there, or several times."""
        found = [value for each, value in self.headers if each == name]
        return found[0] if len(found) == 1 else None
