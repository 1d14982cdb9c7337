"""What passes between callers and grpc's core, in pieces of any size."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from delaybox.api.grpc import frames
from delaybox.api.grpc.frames import PREFACE, Totals, Traffic, Violation, refusal
from tests.rawgrpc import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PING,
    RST_STREAM,
    WINDOW_UPDATE,
    frame,
    message,
)

LIMIT = 1_000


def cut(raw: bytes, sizes: list[int]) -> list[bytes]:
    out, at = [], 0
    for size in sizes * (1 + len(raw) // max(1, sum(sizes))):
        out.append(raw[at : at + size])
        at += size
    return [part for part in [*out, raw[at:]] if part]


def taken_apart(raw: bytes) -> list[tuple[int, int, int, bytes]]:
    out, at = [], 0
    while at < len(raw):
        size = int.from_bytes(raw[at : at + 3], "big")
        out.append((raw[at + 3], raw[at + 4], int.from_bytes(raw[at + 5 : at + 9], "big"), raw[at + 9 : at + 9 + size]))
        at += 9 + size
    return out


def messages_of(raw: bytes, stream: int) -> list[bytes]:
    """What the core would make of the DATA of a stream."""
    data = b"".join(payload for kind, _, number, payload in taken_apart(raw) if (kind, number) == (DATA, stream))
    out = []
    while len(data) >= 5:
        size = int.from_bytes(data[1:5], "big")
        if len(data) < 5 + size:
            break
        out.append(data[5 : 5 + size])
        data = data[5 + size :]
    return out


def traffic() -> tuple[Traffic, Totals]:
    totals = Totals()
    return Traffic(totals, LIMIT, lambda: 1.0), totals


def data(stream: int, raw: bytes, size: int = 100) -> bytes:
    return b"".join(frame(DATA, 0, stream, raw[at : at + size]) for at in range(0, len(raw), size))


sizes = st.lists(st.integers(1, 400), min_size=1, max_size=20)


@settings(deadline=None)
@given(sizes, st.lists(st.binary(max_size=LIMIT), max_size=5), st.integers(1, 300))
def test_what_is_within_the_bounds_passes_as_it_came(pieces: list[int], raws: list[bytes], size: int):
    one, totals = traffic()
    sent = PREFACE + frame(4, 0, 0) + frame(HEADERS, END_HEADERS, 1, b"h" * 20) + frame(HEADERS, END_HEADERS, 3, b"h")
    for raw in raws:
        sent += data(1, message(raw), size) + data(3, message(raw), size)
    sent += frame(DATA, END_STREAM, 1, b"")
    assert b"".join(map(one.from_caller, cut(sent, pieces))) == sent
    assert (one.unfinished, totals.unfinished) == (0, 0)
    assert one.held == sum(2 * (5 + len(raw)) for raw in raws)
    back = frame(HEADERS, END_HEADERS, 1, b"x" * 30) + frame(DATA, 0, 1, message(b"a")) + frame(8, 0, 0, b"\0\0\0\1")
    back += frame(HEADERS, END_HEADERS | END_STREAM, 1, b"t") + frame(RST_STREAM, 0, 3, b"\0\0\0\0")
    assert b"".join(map(one.from_core, cut(back, pieces))) == back
    assert (one.held, one.oldest()) == (0, float("inf"))


@settings(deadline=None)
@given(sizes, st.integers(LIMIT + 1, 1 << 31), st.integers(6, 300), st.integers(100, 2_000))
def test_a_message_that_is_too_long_is_told_to_the_call_and_dropped(
    pieces: list[int], claimed: int, size: int, come: int
):
    one, totals = traffic()
    begun = PREFACE + frame(HEADERS, END_HEADERS, 1, b"h") + frame(HEADERS, END_HEADERS, 3, b"h")
    long = data(1, message(b"x" * min(come, claimed), claimed=claimed), size)
    good = data(3, message(b"good"))
    sent = begun + good + long + good
    came = b"".join(map(one.from_caller, cut(sent, pieces)))
    assert came.startswith(PREFACE)
    came = came[len(PREFACE) :]
    assert messages_of(came, 3) == [b"good", b"good"]
    (mark,) = messages_of(came, 1)
    assert refusal(mark) == (True, claimed)
    assert totals.unfinished == 0
    # What the core did not see it cannot give back to the caller's window.
    seen = sum(len(payload) for kind, _, number, payload in taken_apart(came) if (kind, number) == (DATA, 1))
    dropped = 5 + min(come, claimed) - seen
    given = [payload for kind, _, _, payload in taken_apart(one.give_back()) if kind == WINDOW_UPDATE]
    assert sum(int.from_bytes(payload, "big") for payload in given) == max(0, dropped)


@settings(deadline=None)
@given(sizes)
def test_a_node_that_stops_refuses_new_streams_and_finishes_those_it_has(pieces: list[int]):
    one, totals = traffic()
    begun = PREFACE + frame(HEADERS, END_HEADERS, 1, b"h") + data(1, message(b"one"))
    assert one.from_caller(begun) == begun
    one.take_no_more()
    later = frame(HEADERS, 0, 3, b"h") + frame(CONTINUATION, END_HEADERS, 3, b"i") + data(3, message(b"x" * 50))
    rest = data(1, message(b"two")) + frame(PING, 0, 0, b"p" * 8)
    sent = later + rest + frame(RST_STREAM, 0, 3, b"\0\0\0\0") + frame(DATA, END_STREAM, 1, b"")
    assert b"".join(map(one.from_caller, cut(sent, pieces))) == rest + frame(DATA, END_STREAM, 1, b"")
    head = frame(HEADERS, END_HEADERS | END_STREAM, 1, b"trailers")
    # Frames of our own stand between those of the core.
    own = one.from_core(head[:4])
    assert own.endswith(head[:4])
    refused, window = taken_apart(own[:-4])
    assert refused == (RST_STREAM, 0, 3, b"\0\0\0\x07") and window == (WINDOW_UPDATE, 0, 0, b"\0\0\0\x37")
    assert one.from_caller(frame(HEADERS, END_HEADERS, 5, b"j")) == one.give_back() == b""
    assert one.from_core(head[4:]) == head[4:]
    assert taken_apart(one.give_back()) == [(RST_STREAM, 0, 5, b"\0\0\0\x07")]
    assert (one.open, one.held, totals.unfinished) == (0, 0, 0)


def test_unfinished_messages_are_counted_and_old_ones_known():
    totals = Totals()
    clock = 5.0
    one = Traffic(totals, LIMIT, lambda: clock)
    one.from_caller(PREFACE + frame(HEADERS, END_HEADERS, 1, b"h") + frame(HEADERS, END_HEADERS, 3, b"h"))
    one.from_caller(data(1, message(b"x" * 300, claimed=900)))
    clock = 7.0
    one.from_caller(data(3, message(b"x" * 200, claimed=201)))
    assert (one.unfinished, totals.unfinished, one.oldest()) == (500, 500, 5.0)
    one.from_caller(frame(RST_STREAM, 0, 1, b"\0\0\0\0"))
    assert (one.unfinished, totals.unfinished, one.oldest()) == (200, 200, 7.0)
    one.from_caller(data(3, b"x"))
    assert (one.unfinished, totals.unfinished, one.oldest()) == (0, 0, float("inf"))
    one.from_caller(data(3, message(b"x" * 200, claimed=201)))
    one.close()
    assert totals.unfinished == 0


def test_a_message_that_comes_while_too_much_is_under_way_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(frames, "BUSY_BYTES", 1_000)
    totals = Totals()
    first, second = Traffic(totals, LIMIT, lambda: 1.0), Traffic(totals, LIMIT, lambda: 1.0)
    for one in (first, second):
        one.from_caller(PREFACE + frame(HEADERS, END_HEADERS, 1, b"h"))
    first.from_caller(data(1, message(b"x" * 600, claimed=900)))
    came = second.from_caller(data(1, message(b"x" * 600, claimed=900)))
    (mark,) = messages_of(came, 1)
    assert refusal(mark) == (False, 900)
    # A small one is never unfinished for long.
    third = Traffic(totals, LIMIT, lambda: 1.0)
    third.from_caller(PREFACE + frame(HEADERS, END_HEADERS, 1, b"h"))
    assert messages_of(third.from_caller(data(1, message(b"x" * 500), 1_000)), 1) == [b"x" * 500]


@pytest.mark.parametrize(
    "wrong",
    [
        b"GET / HTTP/1.1\r\n",
        PREFACE + frame(HEADERS, END_HEADERS, 1, b"h") + frame(DATA, 8, 1, b"\1ab\0"),
        PREFACE + frame(HEADERS, END_HEADERS, 1, b"h") + data(1, message(b"x" * 50, claimed=5_000), 3),
    ],
)
def test_what_no_grpc_client_does_ends_the_connection(wrong: bytes):
    with pytest.raises(Violation):
        traffic()[0].from_caller(wrong)


@settings(deadline=None)
@given(sizes)
def test_what_opens_too_many_streams_waits_until_one_ends(pieces: list[int]):
    one, _ = traffic()
    one.most_streams = 3
    opened = [frame(HEADERS, END_HEADERS, n, b"h" * n) for n in (1, 3, 5, 7, 9)]
    sent = PREFACE + opened[0] + data(1, message(b"a")) + b"".join(opened[1:]) + data(9, message(b"b"))
    came = b"".join(map(one.from_caller, cut(sent, pieces)))
    assert came == PREFACE + opened[0] + data(1, message(b"a")) + opened[1] + opened[2]
    assert one.waiting
    assert one.from_caller(b"") == b"" and one.waiting
    one.from_core(frame(RST_STREAM, 0, 3, b"\0\0\0\0"))
    assert one.from_caller(b"") == opened[3] and one.waiting
    one.most_streams = 100
    assert one.from_caller(b"") == opened[4] + data(9, message(b"b")) and not one.waiting


@settings(deadline=None)
@given(sizes)
def test_frames_past_those_that_are_allowed_wait(pieces: list[int]):
    one, _ = traffic()
    one.frames = 5
    small, large = frame(PING, 0, 0, b"12345678"), frame(CONTINUATION, 0, 1, bytes(2_048))
    sent = PREFACE + small * 2 + large + small * 3
    assert b"".join(map(one.from_caller, cut(sent, pieces))) == PREFACE + small * 2 + large
    assert one.waiting
    one.frames = 2
    assert one.from_caller(b"") == small * 2 and one.waiting
    one.frames = 2
    assert one.from_caller(b"") == small and not one.waiting


@given(st.lists(st.binary(max_size=60), max_size=10))
def test_any_bytes_are_taken(parts: list[bytes]):
    one, _ = traffic()
    one.from_caller(PREFACE)
    try:
        for part in parts:
            one.from_caller(part)
            one.from_core(part)
    except Violation:
        pass


def test_a_refusal_can_not_be_forged():
    assert refusal(b"") is None
    assert refusal(b"x" * 25) is None
