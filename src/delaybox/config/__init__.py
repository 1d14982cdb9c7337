"""Configuration: `load` reads it, `Config` is what a node is told."""

from __future__ import annotations

from delaybox.config.load import FLAGS, Loaded, load
from delaybox.config.model import Config

__all__ = ["FLAGS", "Config", "Loaded", "load"]
