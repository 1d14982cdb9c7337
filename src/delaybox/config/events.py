"""The section ``events``: the feed of what happens to tasks."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field, SecretStr

from delaybox.config.sections import Duration, Section, Size, split
from delaybox.config.webhooks import SECRET_FORMS, read_allowed, read_secret
from delaybox.core.errors import InvalidTask
from delaybox.core.events import BUFFER, KEEP_MS, MOST_BYTES, MOST_EVENTS, EventKind, EventRules
from delaybox.core.limits import QUEUE, QUEUE_FORM, TOPIC
from delaybox.core.webhook import WebhookRules, url_of


class EventsWebhook(Section):
    """The URL to which events are sent as webhooks. Off unless ``url`` is set."""

    url: str = Field(default="", description="a URL such as https://ops.example.com/delaybox, or nothing")
    secret: Annotated[tuple[SecretStr, ...], BeforeValidator(read_secret)] = Field(default=(), description=SECRET_FORMS)
    kinds: Annotated[tuple[EventKind, ...], BeforeValidator(split)] = Field(
        default=(), description=f"kinds of events with commas between them: {', '.join(EventKind)}; nothing: all"
    )
    queue: str = Field(
        default="", pattern=f"^({QUEUE.pattern})?$", description=f"a queue's name ({QUEUE_FORM}), or nothing"
    )
    allow: Annotated[tuple[str, ...], BeforeValidator(read_allowed)] = Field(
        default=(),
        description="a list of host names (*.example.org: all below it), addresses or networks such as 10.1.0.0/16, or "
        "text with commas between them",
    )
    batch: int = Field(default=1, ge=1, le=100, description="a number of events from 1 to 100")
    timeout: Duration = Field(
        default=10_000, ge=100, le=60_000, description="a duration with its unit from 100ms to 1m, such as 10s"
    )

    @property
    def rules(self) -> WebhookRules:
        """Where its requests may go: to the scheme and port of the URL."""
        url = url_of(self.url)
        return WebhookRules(
            enabled=True, section="events.webhook", allow=self.allow, ports=(url.port,), schemes=(url.scheme,)
        )

    def problem(self) -> str:
        """Why nothing can be sent to the URL, as far as can be seen from it; "" when it can."""
        try:
            return self.rules.url_problem(url_of(self.url))
        except InvalidTask as error:
            return str(error).removeprefix("url ")


class EventsSection(Section):
    """Events are written while somebody reads them, and for five minutes afterwards. ``always``: at any time."""

    enabled: bool = Field(default=True, description="true or false")
    always: bool = Field(default=False, description="true or false")
    keep: Duration = Field(
        default=KEEP_MS, ge=60_000, le=7 * 86_400_000, description="a duration with its unit from 1m to 7d"
    )
    entries: int = Field(default=MOST_EVENTS, ge=1_000, le=100_000_000, description="a number of events, 1000 or more")
    bytes: Size = Field(default=MOST_BYTES, ge=1 << 20, description="a size of 1MiB or more, such as 64MiB")
    buffer: int = Field(default=BUFFER, ge=1_000, le=1_000_000, description="a number of events from 1000 to 1000000")
    kafka_topic: str = Field(default="", pattern=f"^({TOPIC.pattern})?$", description="a topic's name, or nothing")
    stream: int = Field(default=0, ge=0, le=100_000_000, description="a number of events up to 100000000; 0: none")
    webhook: EventsWebhook = EventsWebhook()

    def rules(self) -> EventRules:
        """What these settings mean."""
        return EventRules(
            enabled=self.enabled,
            always=self.always,
            keep_ms=self.keep,
            entries=self.entries,
            bytes=self.bytes,
            buffer=self.buffer,
        )
