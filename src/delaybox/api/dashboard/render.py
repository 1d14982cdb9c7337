"""Templates -> pages. Everything that is put into one is escaped."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from delaybox import __version__
from delaybox.api.dashboard import filters, showing

if TYPE_CHECKING:
    from jinja2 import Environment

FOLDER: Final = Path(__file__).parent
KINDS: Final = {".js": b"text/javascript; charset=utf-8", ".css": b"text/css; charset=utf-8", ".svg": b"image/svg+xml"}
_POLICY: Final = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    b"form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS: Final = (
    (b"content-security-policy", _POLICY),
    # With no-referrer a browser sends its forms with Origin: null.
    (b"referrer-policy", b"same-origin"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
)
"""Of every page: nothing inline runs, nothing comes from elsewhere, and no other page may show it in a frame."""
HTML: Final = b"text/html; charset=utf-8"


@cache
def _environment() -> Environment:
    # With the first page: a node that nobody looks at does without it.
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(FOLDER / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    for filter_ in (showing.number, showing.moment, showing.iso, showing.span, showing.plain, showing.ranges):
        made.filters[filter_.__name__] = filter_
    made.globals.update(version=__version__, asset=asset, written=filters.written)
    return made


@cache
def static(name: str) -> tuple[bytes, bytes] | None:
    """(content, type) of a file that pages use; None where there is no such file."""
    kind = KINDS.get(Path(name).suffix)
    if kind is None or "/" in name or name not in _names():
        return None
    return (FOLDER / "static" / name).read_bytes(), kind


@cache
def _names() -> frozenset[str]:
    return frozenset(path.name for path in (FOLDER / "static").iterdir())


@cache
def asset(name: str) -> str:
    """The name of such a file with its content's hash, so that a browser may keep it for ever."""
    found = static(name)
    assert found is not None, name
    return f"{name}?{hashlib.sha256(found[0]).hexdigest()[:12]}"


def page(template: str, values: dict[str, Any]) -> bytes:
    """A page as bytes."""
    return _environment().get_template(template).render(values).encode("utf-8", "replace")
