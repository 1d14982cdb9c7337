"""The readme that a package index shows: README.md, with links that lead somewhere from there.

In the repository its links are relative, so that they lead to the same branch. An index has no such files beside it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

_LINK = re.compile(r"(!?\[[^\]]*\]\()(?![a-z]+:|#)([^)\s]+)(?=\))")


class AbsoluteLinks(MetadataHookInterface):
    """Hatch calls `update` before it writes the package's metadata."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Sets ``readme``. KeyError where [project.urls] names no Repository."""
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        repository = metadata["urls"]["Repository"].rstrip("/")
        metadata["readme"] = {"content-type": "text/markdown", "text": absolute(text, f"{repository}/blob/main/")}


def absolute(text: str, base: str) -> str:
    """Markdown ``text`` with ``base`` before each relative link; pictures are asked for as they are (``?raw=true``)."""

    def whole(match: re.Match[str]) -> str:
        return f"{match[1]}{base}{match[2]}{'?raw=true' if match[1].startswith('!') else ''}"

    return _LINK.sub(whole, text)
