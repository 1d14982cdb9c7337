"""Makes text from elsewhere bounded and harmless to show: it may be of any length, may be no valid Unicode, and can
hold characters that a terminal obeys or that break a log's line.
"""

from __future__ import annotations

from typing import Final

from delaybox.core.limits import REASON_BYTES

_LEFT_OUT: Final = "[...]"


def line(text: str) -> str:
    """``text`` in one line: what is not printable (line ends, escapes, marks that turn the direction of writing) is
    written as Python writes it."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def block(text: str) -> str:
    """The lines of ``text``, each as `line`; those behind the first are indented, so that none looks like a record."""
    return line(text) if "\n" not in text else "\n    ".join(line(one.expandtabs(4)) for one in text.split("\n"))


def head(text: str, most: int = REASON_BYTES) -> str:
    """The beginning of ``text``, at most ``most`` bytes of valid UTF-8; the mark ``[...]`` stands where it was cut."""
    if len(text) * 4 <= most and text.isascii():
        return text
    # A character takes at least a byte, so only the first `most` characters are encoded, and not all of 20 MB.
    raw = text[: most + 1].encode("utf-8", "replace")
    if len(raw) <= most:
        return raw.decode()
    return raw[: most - len(_LEFT_OUT)].decode("utf-8", "ignore") + _LEFT_OUT


def tail(text: str, most: int) -> str:
    """As `head`, of the end of ``text``: the mark stands in front."""
    raw = text[-most - 1 :].encode("utf-8", "replace")
    if len(raw) <= most:
        return raw.decode()
    return _LEFT_OUT + raw[len(raw) - most + len(_LEFT_OUT) :].decode("utf-8", "ignore")


def tail_bytes(raw: bytes, most: int) -> bytes:
    """The end of ``raw``, at most ``most`` bytes, with the mark in front where it was cut."""
    if len(raw) <= most:
        return raw
    return _LEFT_OUT.encode()[:most] + raw[len(raw) - max(0, most - len(_LEFT_OUT)) :]
