"""A step of the demonstration, as it is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Step"]


@dataclass(frozen=True, slots=True)
class Step:
    """A step of the story. ``caught`` is None for a step that is no attack."""

    title: str
    lines: tuple[str, ...]
    figures: Mapping[str, Any] = field(default_factory=dict)
    caught: bool | None = None
