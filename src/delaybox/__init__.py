"""DelayBox: one-time tasks that fire on the millisecond, kept in Redis or Valkey."""

from __future__ import annotations

__all__ = ["__version__"]

__version__ = "0.1.0.dev0"
