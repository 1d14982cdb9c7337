"""Configuration: `load` reads it, `Config` is all that a node gets."""

from __future__ import annotations

from delaybox.config.load import FLAGS, Loaded, load
from delaybox.config.model import Config

__all__ = ["FLAGS", "Config", "Loaded", "load"]
