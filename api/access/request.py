"""A request as it is signed and verified: what came over the wire, and nothing of any framework."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["HttpRequest"]


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """One HTTP request.

    ``url`` is the absolute target URI: for a server the public address that it believes to have, with path and query
    as they came, undecoded. ``headers`` are (lower-case name, value), in the order in which they came, a name as often
    as it came. ``body`` is the content as it was sent, before any content coding is undone.
    """

    method: str
    url: str
    headers: tuple[tuple[str, str], ...]
    body: bytes = b""

    def values(self, name: str) -> list[str]:
        """Every value of the header with this lower-case name."""
        return [value for header, value in self.headers if header == name]

    def header(self, name: str) -> str | None:
        """The value of a header that stands there once; None when it does not stand there, or several times."""
        found = self.values(name)
        return found[0] if len(found) == 1 else None
