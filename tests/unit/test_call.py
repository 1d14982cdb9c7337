"""Function calls as bytes: what a client writes is what a worker reads, and what other languages may write."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from delaybox.core.errors import InvalidTask, NotDecodable, NotEncodable
from delaybox.wire.call import BYTES, CONTENT_TYPE, NAME_ATTRIBUTE, Call, Calls, Codecs, Encoded, check_name, name_of
from delaybox.wire.calls import CALLS, CallPart, join

CODECS = Codecs()


def _headers(encoded: Encoded) -> dict[str, bytes]:
    return {CONTENT_TYPE: encoded.content_type.encode()} if encoded.content_type else {}


def _there_and_back(arguments: object) -> Call:
    encoded = CODECS.call(arguments)
    found = CODECS.arguments(encoded.data, _headers(encoded))
    assert isinstance(found, Call)
    return found


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text("aäé☃\n\""),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
_names = st.sampled_from(["args", "kwargs", "x", "self", "größe"])


@given(st.lists(_json, max_size=3), st.dictionaries(_names, _json, max_size=3))
def test_any_call_arrives_as_it_was_made(args: list[Any], kwargs: dict[str, Any]):
    assert _there_and_back(Call(*args, **kwargs)) == Call(*args, **kwargs)


@pytest.mark.parametrize(
    ("arguments", "payload", "call"),
    [
        (None, b"", Call()),
        ([], b"", Call()),
        ({}, b'{"kwargs":{}}', Call()),
        ([1, "zwei"], b'[1,"zwei"]', Call(1, "zwei")),
        ((1, 2), b"[1,2]", Call(1, 2)),
        ({"to": "a@b"}, b'{"to":"a@b"}', Call(to="a@b")),
        ({"args": [1]}, b'{"kwargs":{"args":[1]}}', Call(args=[1])),
        (Call(1, x=2), b'{"args":[1],"kwargs":{"x":2}}', Call(1, x=2)),
        (Call({"a": 1}), b'[{"a":1}]', Call({"a": 1})),
        (17, b"17", Call(17)),
        ("text", b'"text"', Call("text")),
        (False, b"false", Call(False)),
        (b"\x00\xff", b"\x00\xff", Call(b"\x00\xff")),
        (bytearray(b"[1]"), b"[1]", Call(b"[1]")),
        (b"", b"", Call(b"")),
        (Call(b"x"), b"x", Call(b"x")),
    ],
)
def test_what_is_written_and_read(arguments: object, payload: bytes, call: Call):
    assert CODECS.call(arguments).data == payload
    assert _there_and_back(arguments) == call


@pytest.mark.parametrize(
    ("payload", "call"),
    [
        (b"", Call()),
        (b"null", Call(None)),
        (b"[[1, 2]]", Call([1, 2])),
        (b'{"args": [1]}', Call(1)),
        (b'{"kwargs": {"x": 1}}', Call(x=1)),
        # Not of the form: what is named there are parameters.
        (b'{"args": 1}', Call(args=1)),
        (b'{"args": [1], "kwargs": {}, "more": 2}', Call(args=[1], kwargs={}, more=2)),
        (b"{}", Call()),
    ],
)
def test_plain_json_of_other_languages(payload: bytes, call: Call):
    assert CODECS.arguments(payload, {}) == call
    assert CODECS.arguments(payload, {CONTENT_TYPE: b"Application/JSON; charset=utf-8"}) == call


@pytest.mark.parametrize("payload", [b"{", b"\xff", b"NaN", b"[Infinity]", b"[" * 100_000, b"[1] x"])
def test_what_is_not_json_is_refused_with_words(payload: bytes):
    with pytest.raises(NotDecodable, match=r"the payload is not application/json: ."):
        CODECS.arguments(payload, {})


@pytest.mark.parametrize("value", [object(), float("nan"), {1, 2}, [b"bytes inside"], "\ud800"])
def test_what_json_cannot_say_is_refused_with_words(value: object):
    with pytest.raises(NotEncodable, match="the arguments cannot be sent as application/json"):
        CODECS.call(Call(value))
    with pytest.raises(NotEncodable, match="the result cannot be sent"):
        CODECS.result(value)


def test_keyword_arguments_have_names_of_text():
    with pytest.raises(NotEncodable, match="1 for a name"):
        CODECS.call({1: "x"})


@pytest.mark.parametrize("value", [None, 1, "x", [1, {"a": None}], {}, [], b"", b"\x00", False])
def test_results_return(value: object):
    encoded = CODECS.result(value)
    back = CODECS.returned(encoded.data, encoded.content_type)
    assert back == value and type(back) is type(value)


def test_bytes_say_that_they_are_bytes():
    assert CODECS.result(memoryview(b"1")) == (b"1", BYTES)
    assert CODECS.call([1]).content_type == ""


def test_own_codecs_go_by_their_content_type():
    codecs = Codecs()
    codecs.add("application/x-repr", lambda value: repr(value).encode(), lambda data: {"was": data.decode()})
    encoded = codecs.call([1, 2], "application/x-repr")
    assert encoded == (b"[1, 2]", "application/x-repr")
    assert codecs.arguments(encoded.data, _headers(encoded)) == Call(was="[1, 2]")
    assert codecs.returned(*codecs.result(3, "application/x-repr")) == {"was": "3"}


def test_a_form_that_nobody_added_is_named():
    with pytest.raises(
        NotDecodable, match="no codec for 'application/cbor' was added here; there are application/json"
    ):
        CODECS.arguments(b"x", {CONTENT_TYPE: b"application/cbor"})
    with pytest.raises(NotEncodable, match="application/cbor"):
        CODECS.call([1], "application/cbor")
    with pytest.raises(NotEncodable, match="it is list, not bytes"):
        CODECS.call([1], BYTES)
    for taken in ("application/json", BYTES, "text"):
        with pytest.raises(ValueError, match="cannot be added"):
            CODECS.add(taken, bytes, bytes)


def test_functions_are_scheduled_by_name():
    def send() -> None: ...

    with pytest.raises(InvalidTask, match=r"decorate it with @worker\.task"):
        name_of(send)
    setattr(send, NAME_ATTRIBUTE, "mail.send")
    assert name_of(send) == name_of("mail.send") == "mail.send"
    for wrong in ("", "a b", "x" * 129, "größe"):
        with pytest.raises(InvalidTask, match="1 to 128"):
            check_name(wrong)


def test_a_call_shows_what_it_is():
    assert repr(Call(1, x="y")) == "Call(1, x='y')"


def test_several_calls_in_one_payload():
    given = [Call(1, b=2), Call(b"\x00"), Call(), Call("é")]
    encoded = CODECS.several([CODECS.call(call) for call in given])
    found = CODECS.arguments(encoded.data, _headers(encoded))
    assert isinstance(found, Calls) and found.calls == given
    for broken in (encoded.data[:-1], encoded.data + b"\x00", b"\x00\xff\xff\xff\xff"):
        with pytest.raises(NotDecodable, match="breaks off"):
            CODECS.arguments(broken, _headers(encoded))
    with pytest.raises(NotDecodable, match="holds more than 10000 parts"):
        CODECS.arguments(join([CallPart(0, b"")] * 10_001), _headers(encoded))
    with pytest.raises(NotDecodable, match="is not application/json"):
        CODECS.arguments(join([CallPart(0, b"{")]), {CONTENT_TYPE: CALLS.encode()})


def test_several_calls_in_a_form_of_ones_own():
    codecs = Codecs()
    codecs.add("application/x-repr", lambda value: repr(value).encode(), lambda data: eval(data))
    encoded = codecs.several([codecs.call(Call({1, 2}), "application/x-repr"), codecs.call(Call(b"x"))])
    found = codecs.arguments(encoded.data, _headers(encoded))
    assert isinstance(found, Calls) and found.calls == [Call({1, 2}), Call(b"x")]
    with pytest.raises(ValueError, match="one form"):
        codecs.several([codecs.call(Call(1), "application/x-repr"), codecs.call(Call(2))])


class _Array:
    """As numpy's, which cannot be asked whether it equals a list."""

    def __eq__(self, other: object) -> Any:
        raise ValueError("the truth value of an array is ambiguous")


def test_an_array_is_refused_in_words():
    with pytest.raises(NotEncodable, match=r"_Array is not JSON serializable.*tolist\(\)"):
        CODECS.call(_Array())
