"""The table of what answers show: every answer has its line, and a type's line can make that type."""

from __future__ import annotations

import pytest

from delaybox.api import call_scopes, disclosure
from delaybox.api.rest.v1.routes import CALLS
from delaybox.core.scopes import Access
from delaybox.wire.gen import scheduler_pb2, worker_pb2
from delaybox.wire.json import types


def test_an_answer_without_a_line_is_not_served_to_whoever_lacks_read():
    with pytest.raises(LookupError, match="TaskPage answers a call that needs cancel alone"):
        disclosure.limits(Access.CANCEL, "TaskPage")
    assert disclosure.limits(Access.READ, "TaskPage") is None
    assert disclosure.limits(call_scopes.WithoutToken.PROBE, "HealthCheckResponse") is None


def test_every_line_is_of_an_answer_and_names_its_fields():
    answers = {kind.__name__: kind for call in CALLS for _, kind in call.answers.values() if kind is not None}
    messages = {
        **scheduler_pb2.DESCRIPTOR.message_types_by_name,
        **worker_pb2.DESCRIPTOR.message_types_by_name,
    }
    for name, fields in disclosure.WITHOUT_READ.items():
        assert name in answers or name in messages, name
        if fields is None:
            continue
        if name in answers:
            assert fields <= set(answers[name].__struct_fields__)
            answers[name](**dict.fromkeys(fields))  # what is left out has a default
        else:
            assert fields & set(messages[name].fields_by_name)


def test_results_and_progress_go_with_the_rest():
    shown = disclosure.limits(Access.SCHEDULE, "ChangedTask")
    assert shown is not None and sorted(shown) == ["due", "due_ms", "id", "state"]
    assert {"result", "progress", "reason", "name"} <= set(types.ChangedTask.__struct_fields__) - shown
