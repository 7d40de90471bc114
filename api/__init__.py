"""The rim: command line, settings, and the one place where the parts are wired together."""

from __future__ import annotations

__all__ = ["__version__"]

__version__ = "0.1.0"
