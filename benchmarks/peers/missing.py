"""What is raised where a peer cannot be had."""

from __future__ import annotations


class PeerMissingError(RuntimeError):
    """The peer cannot be measured on this machine; the message says what is missing."""
