"""Keeps what a command printed up to a number of bytes: the start and the end, and a mark where the middle was cut."""

from __future__ import annotations

_MARK = b"\n[... %d bytes cut ...]\n"
_MARK_ROOM = 64


class Output:
    """Collects; `kept` is never longer than ``cap`` bytes, mark included."""

    def __init__(self, cap: int) -> None:
        self._cap = cap
        self._half = max(0, cap - _MARK_ROOM) // 2
        self._head = bytearray()
        self._tail = bytearray()
        self._size = 0

    @property
    def truncated(self) -> bool:
        """Whether something was cut."""
        return self._size > self._cap

    def add(self, data: bytes) -> None:
        """Takes more in."""
        self._size += len(data)
        room = self._cap - len(self._head)
        if room > 0:
            self._head += data[:room]
            data = data[room:]
        if data:
            self._tail += data
            if len(self._tail) > 4 * self._cap:
                del self._tail[: -self._cap]

    def kept(self) -> bytes:
        """All of it, or its two ends."""
        if not self.truncated:
            return bytes(self._head)
        end = bytes((self._head + self._tail)[-self._half :]) if self._half else b""
        return bytes(self._head[: self._half]) + _MARK % (self._size - 2 * self._half) + end
