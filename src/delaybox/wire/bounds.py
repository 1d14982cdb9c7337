"""Counts what a request holds, within `delaybox.core.limits`, before the request costs anything.

A parsed message takes up to seventy times its bytes: 16 MiB of empty items become 1.1 GiB, and millions of numbers take
the event loop for seconds. So the items of a large message are counted on the wire before a parser sees it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

import msgspec
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto
from google.protobuf.message import Message
from msgspec import UNSET, Raw, UnsetType

from delaybox.core.errors import PayloadTooLarge
from delaybox.core.limits import MAX_BATCH, MAX_FIELDS

_SMALL: Final = 16 * 1024
"""A message up to this size is parsed without counting: at worst a megabyte."""
_COUNTED_FROM: Final = 10_000
"""Commas in a JSON body from which on the tasks in it are counted first."""
_VARINT, _FIXED64, _BYTES, _GROUP, _GROUP_END, _FIXED32 = range(6)
_FIXED: Final = {_FIXED64: 8, _FIXED32: 4, _GROUP: 0, _GROUP_END: 0}
_HIGH: Final = bytes(range(128, 256))
_NUMBERS: Final = None
"""In a plan: a repeated field of numbers, which may be packed."""


def check_batch_count(body: bytes) -> None:
    """Refuses a JSON batch with more than ``MAX_BATCH`` tasks before anything is made of them. PayloadTooLarge.

    Any other mistake in it is left to its reader.
    """
    if body.count(b",") < _COUNTED_FROM:
        return
    try:
        _batch_decoder().decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        if "at most length" in str(error):
            raise PayloadTooLarge(
                "tasks", f"tasks holds more than {MAX_BATCH} tasks; send 1 to {MAX_BATCH}", limit=MAX_BATCH
            ) from None


@lru_cache(maxsize=1)
def _batch_decoder() -> msgspec.json.Decoder[msgspec.Struct]:
    # msgspec checks a list's length after it has decoded all of it; the length of a struct written as an array it
    # checks
    # while decoding.
    places = [(f"t{place}", Raw | UnsetType, UNSET) for place in range(MAX_BATCH)]
    tasks = msgspec.defstruct("Tasks", places, array_like=True, forbid_unknown_fields=True, gc=False)
    return msgspec.json.Decoder(msgspec.defstruct("Batch", [("tasks", tasks)]))


def check_items(raw: bytes, kind: type[Message], *, field: str = "request", most: int = MAX_FIELDS) -> None:
    """Counts the items of a serialized message of that kind. PayloadTooLarge for more than ``most``.

    Bytes that are no such message are left to the parser.
    """
    if len(raw) > _SMALL:
        _Count(raw, field, most).message(0, len(raw), _plan(kind.DESCRIPTOR))


_Plan = dict[int, Any]
"""By number: the descriptor of a message to look into, or ``_NUMBERS``."""


@lru_cache(maxsize=256)
def _plan(kind: Any) -> _Plan:
    """The fields to look into: messages that hold messages or lists themselves, and lists of numbers."""
    plan: _Plan = {}
    lists = _lists(kind)
    for f in kind.fields:
        if f.type == FieldDescriptor.TYPE_MESSAGE:
            if _plan(f.message_type) or _lists(f.message_type):
                plan[f.number] = f.message_type
        elif f.number in lists and f.type not in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES):
            plan[f.number] = _NUMBERS
    return plan


def _lists(kind: Any) -> frozenset[int]:
    """The repeated fields."""
    described = DescriptorProto()
    kind.CopyToProto(described)
    return frozenset(f.number for f in described.field if f.label == FieldDescriptorProto.LABEL_REPEATED)


class _Count:
    def __init__(self, raw: bytes, field: str, most: int) -> None:
        self._raw = raw
        self._field = field
        self._most = most
        self._left = most

    def message(self, at: int, stop: int, plan: _Plan) -> None:
        try:
            self._fields(at, stop, plan)
        except IndexError:
            return  # it ends inside a field, so it is no message

    def _fields(self, at: int, stop: int, plan: _Plan) -> None:
        raw = self._raw
        while at < stop:
            self._take(1)
            tag, at = self._varint(at)
            wire = tag & 7
            if wire == _BYTES:
                size, at = self._varint(at)
                end = at + size
                if end > stop:
                    return
                if tag >> 3 in plan:
                    inner = plan[tag >> 3]
                    if inner is _NUMBERS:
                        # A number ends with the byte whose high bit is not set.
                        self._take(len(raw[at:end].translate(None, _HIGH)))
                    else:
                        self._fields(at, end, _plan(inner))
                at = end
            elif wire == _VARINT:
                _, at = self._varint(at)
            elif wire in _FIXED:
                at += _FIXED[wire]
            else:
                return

    def _varint(self, at: int) -> tuple[int, int]:
        raw = self._raw
        byte = raw[at]
        at += 1
        if byte < 128:
            return byte, at
        value, shift = byte & 127, 7
        while True:
            byte = raw[at]
            at += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value, at
            shift += 7
            if shift > 63:
                raise IndexError

    def _take(self, count: int) -> None:
        self._left -= count
        if self._left < 0:
            raise PayloadTooLarge(
                self._field,
                f"the {self._field} holds more than {self._most} fields and numbers; send it in several parts",
                limit=self._most,
            )
