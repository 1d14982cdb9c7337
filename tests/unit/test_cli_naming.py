"""Fields of REST in a node's errors, by the options that stand for them."""

from __future__ import annotations

import pytest

from delaybox.cli.app import alone
from delaybox.cli.naming import in_options, option_of, options_of
from delaybox.wire.json import bulk_types, queue_types, types


def known(command: str) -> frozenset[str]:
    words = command.split()
    return options_of(alone(words), words)


@pytest.mark.parametrize(
    ("command", "request_", "without"),
    [
        ("schedule", types.TaskRequest, {"payload", "payload_base64"}),
        ("reschedule", bulk_types.RescheduleManyRequest, {"state"}),
        ("cancel", bulk_types.CancelManyRequest, {"state"}),
        ("run-now", bulk_types.SelectionRequest, {"state"}),
        ("dead replay", bulk_types.ReplayRequest, set()),
        ("dead discard", bulk_types.DiscardRequest, set()),
        ("queues set", queue_types.QueueRulesRequest, set()),
    ],
)
def test_each_field_that_a_command_sends_has_an_option(command: str, request_: type, without: set[str]) -> None:
    """``without``: what it sends otherwise, or never."""
    fields = {"retry.max_attempts", "retry.backoff.initial", "retry.backoff.max", *request_.__struct_fields__}  # type: ignore[attr-defined]
    if "retry" not in request_.__struct_fields__:  # type: ignore[attr-defined]
        fields = {field for field in fields if not field.startswith("retry")}
    missing = {field for field in fields - {"retry"} if not option_of(field, known(command))}
    assert missing == without


@pytest.mark.parametrize(
    ("command", "text", "field", "shown"),
    [
        ("schedule", "delay 'soon' is not a duration", "delay", "--delay 'soon' is not a duration"),
        ("queues set a", "keys[0].burst 2 has no rate", "keys[0].burst", "--per 2 has no rate"),
        ("schedule", "max_wait says nothing without on_conflict replace", "max_wait",
         "--max-wait says nothing without --on-conflict replace"),
        ("schedule", "retry.backoff.initial 5 ms; see retry.max_attempts", "retry.backoff.initial",
         "--backoff 5 ms; see --attempts"),
        ("queues set a", "retry.max_attempts 0", "retry.max_attempts", "--max-attempts 0"),
        # What a caller wrote, words of a sentence, and what no option stands for stay as they are.
        ("schedule", "delay 'due_to' is not a duration", "delay", "--delay 'due_to' is not a duration"),
        ("schedule", "the key of a queue", "key", "the key of a queue"),
        ("schedule", "delays are long", "delay", "delays are long"),
        ("schedule", "payload is empty; see workers.shell.commands", "payload",
         "payload is empty; see workers.shell.commands"),
        ("schedule", "url http://on.success/on_success?on_failure=1", "url",
         "--url http://on.success/on_success?on_failure=1"),
        ("queues set a", "'x' is not a rule of a queue; there are paused, keep_result", "x",
         "'x' is not a rule of a queue; there are paused, keep_result"),
        ("queues set a", "'keep_resul' is not a rule; did you mean keep_result? there are key_keep", "keep_resul",
         "'keep_resul' is not a rule; did you mean keep_result? there are key_keep"),
        ("get x", "id 'x' is not a UUID", "id", "id 'x' is not a UUID"),
        ("list", "due_from 'x'", "due_from", "--from 'x'"),
        ("nonsense", "due_from 'x'", "due_from", "due_from 'x'"),
    ],
)  # fmt: skip
def test_an_error_names_options(command: str, text: str, field: str, shown: str) -> None:
    assert in_options(text, field, known(command)) == shown
