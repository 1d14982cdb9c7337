"""The headers of answers; those that differ in nothing but the length of a body are encoded once."""

from __future__ import annotations

from typing import Final

from delaybox.api.rest.http1.answers import GUARDS, SetHeaders
from delaybox.api.rest.routing import Answer

_MOST_LENGTHS: Final = 1024


class AnswerHeaders:
    """Of one process."""

    def __init__(self) -> None:
        self._by_length: dict[int, SetHeaders] = {}

    def of(self, answer: Answer) -> list[tuple[bytes, bytes]]:
        """The headers of an answer; nobody changes them."""
        if answer.headers or answer.status == 204 or answer.content_type != b"application/json":
            return headers_of(answer)
        size = len(answer.body)
        known = self._by_length.get(size)
        if known is None:
            known = SetHeaders(headers_of(answer))
            if len(self._by_length) < _MOST_LENGTHS:
                self._by_length[size] = known
        return known


def headers_of(answer: Answer) -> list[tuple[bytes, bytes]]:
    """The headers of one answer."""
    if answer.status == 204:
        return [*GUARDS, *answer.headers]
    size = b"%d" % len(answer.body)
    own = {name for name, _ in answer.headers}
    guards = [guard for guard in GUARDS if guard[0] not in own] if own else GUARDS
    return [(b"content-type", answer.content_type), (b"content-length", size), *guards, *answer.headers]
