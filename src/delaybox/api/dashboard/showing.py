"""How values are shown: moments, spans, numbers, and bytes that nobody can trust. Pure."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Final

from delaybox.wire.json.moments import render_moment

SHOWN: Final = 64 * 1024
"""Most bytes of a payload in a page; the whole of it can be downloaded."""
_HEX_SHOWN: Final = 4 * 1024
_LATEST_MS: Final = 253_402_300_799_999
_MARKS: Final = (
    0x200B, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2060, 0x206A), 0xFEFF, *range(0xD800, 0xE000),
)  # fmt: skip
"""Direction marks and the like, with which a text can be made to read as another one."""
_HIDDEN: Final = {
    **{code: f"\\u{code:04x}" for code in _MARKS},
    **{code: chr(0x2400 + code) for code in range(0x20) if code not in (0x09, 0x0A)},
    **{code: f"\\x{code:02x}" for code in range(0x7F, 0xA0)},
}


def number(value: float | None) -> str:
    """1234567 as 1,234,567; a fraction below 100 with one digit; a dash for nothing."""
    if value is None:
        return "–"
    if 0 < value < 0.05:
        return "< 0.1"
    if value < 100 and value != int(value):
        return f"{value:,.1f}"
    return f"{round(value):,}"


def moment(ms: int) -> str:
    """A moment in UTC for people."""
    if not 0 <= ms <= _LATEST_MS:
        return f"{ms} ms"
    return render_moment(ms).replace("T", " ").replace("Z", "").removesuffix(".000") + " UTC"


def iso(ms: int) -> str:
    """A moment for programs; "" where it has no such form."""
    return render_moment(ms) if 0 <= ms <= _LATEST_MS else ""


_UNITS: Final = ((86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s"))


def span(ms: float) -> str:
    """A duration for people, of at most two units: 1 h 30 m."""
    ms = round(ms)
    if ms < 1_000:
        return f"{ms} ms"
    if ms < 10_000 and ms % 1_000 > 0:
        return f"{ms / 1000:.1f} s"
    parts: list[str] = []
    for size, unit in _UNITS:
        if ms >= size or parts:
            if count := ms // size:
                parts.append(f"{count} {unit}")
            ms %= size
        if len(parts) == 2 or (parts and not ms):
            break
    return " ".join(parts)


def plain(text: str) -> str:
    """Text in which nothing is hidden: control characters and direction marks are shown as such."""
    return text.translate(_HIDDEN)


def ranges(numbers: Any) -> str:
    """Rising numbers as people write them: 0–3, 7."""
    found: list[list[int]] = []
    for one in numbers:
        if found and one == found[-1][1] + 1:
            found[-1][1] = one
        else:
            found.append([one, one])
    return ", ".join(f"{first}" if first == last else f"{first}–{last}" for first, last in found)


@dataclass(frozen=True, slots=True)
class ShownBytes:
    """``how``: text, json or hex. ``ways``: those that these bytes can be shown in. ``cut``: only the beginning."""

    how: str
    text: str
    ways: tuple[str, ...]
    size: int
    cut: bool


def shown_bytes(data: bytes, how: str = "") -> ShownBytes:
    """Bytes as ``how`` says, or in the way that fits them best."""
    ways = ["text", "hex"]
    pretty = _pretty(data)
    if pretty is not None:
        ways.insert(0, "json")
    try:
        data[:SHOWN].decode()
        readable = b"\0" not in data[:SHOWN]
    except UnicodeDecodeError as error:
        # A character that the cut parts is not an error.
        readable = len(data) > SHOWN and error.start >= SHOWN - 4
    if how not in ways:
        how = "json" if pretty is not None else "text" if readable else "hex"
    if how == "hex":
        return ShownBytes(how, _hex(data[:_HEX_SHOWN]), tuple(ways), len(data), len(data) > _HEX_SHOWN)
    if how == "json" and pretty is not None:
        return ShownBytes(how, plain(pretty[:SHOWN]), tuple(ways), len(data), len(pretty) > SHOWN)
    text = data[:SHOWN].decode("utf-8", "backslashreplace")
    return ShownBytes(how, plain(text), tuple(ways), len(data), len(data) > SHOWN)


def _pretty(data: bytes) -> str | None:
    if not data or len(data) > 256 * 1024 or data.lstrip()[:1] not in (b"{", b"["):
        return None
    try:
        json.loads(data)
        text = data.decode()
    except (ValueError, RecursionError):
        return None
    return _indented(text)


_TOKEN: Final = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s{}\[\],:"]+')


def _indented(text: str) -> str:
    """JSON in lines, every value as it was written: reading numbers and writing them again would make 10.10 another
    text. Ends where more is there than is shown."""
    parts: list[str] = []
    size, depth, opened = 0, 0, False
    for found in _TOKEN.finditer(text):
        word = found[0]
        line = "\n" + "  " * (depth - 1 if word in "}]" else depth)
        if word in "}]":
            depth -= 1
            piece = word if opened else line + word
        else:
            piece = (line if opened else "") + {",": f",{line}", ":": ": "}.get(word, word)
        opened = word in "{["
        depth += opened
        parts.append(piece)
        size += len(piece)
        if size > SHOWN:
            break
    return "".join(parts)


def _hex(data: bytes) -> str:
    lines = []
    for at in range(0, len(data), 16):
        row = data[at : at + 16]
        letters = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in row)
        lines.append(f"{at:06x}  {row[:8].hex(' '):<23}  {row[8:].hex(' '):<23}  {letters}")
    return "\n".join(lines)
