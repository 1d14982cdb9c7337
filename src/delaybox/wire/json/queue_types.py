"""The bodies of ``/v1`` about queues: what they hold, and their rules."""

from __future__ import annotations

from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType

from delaybox.core.limit_keys import MOST_KEY_LIMITS
from delaybox.core.limits import LEAST_KEY_KEEP_MS, MAX_WEIGHT, MIN_WEIGHT
from delaybox.core.queue_limits import MOST_PERMITS
from delaybox.wire.json.types import TYPES, Count, Number, Retry, duration


class Lane(Struct, gc=False):
    """One task type of a queue now."""

    queue: str
    type: Annotated[str, Meta(extra_json_schema={"enum": list(TYPES)})]
    pending: Annotated[
        int, Meta(description="waiting, the ready ones among them; all or those due soon: see `pending_complete`")
    ]
    pending_complete: Annotated[
        bool,
        Meta(description="false: the store holds more than 10,000 tasks, of which `pending` counts those due soon"),
    ]
    ready: Annotated[int, Meta(description="due, waiting for a free slot")]
    in_flight: Annotated[int, Meta(description="being carried out")]
    fired_per_s: Annotated[
        float,
        Meta(
            description="carried out a second over the last minute, as the living nodes tell",
            extra_json_schema={"minimum": 0},
        ),
    ]
    unserved: Annotated[
        tuple[str, ...],
        Meta(description="functions and commands (without a name: the type) with ready tasks that nobody serves"),
    ] = ()
    waits: Annotated[str, Meta(description="why its due tasks wait by the queue's rules; empty: they do not")] = ""
    oldest_wait_ms: Annotated[
        int,
        Meta(
            description="for how long the first in line of its due tasks waits; 0: none does",
            extra_json_schema={"minimum": 0},
        ),
    ] = 0


class Queues(Struct, gc=False):
    """All queues that hold something now or fired in the last minute, a line for each task type."""

    queues: list[Lane]
    pending_complete: Annotated[
        bool,
        Meta(
            description="false: the store holds more than 10,000 tasks, and `pending` counts those due soon; a queue "
            "that is not here may have others"
        ),
    ]


class QueueSettings(Struct, gc=False):
    """What holds for a queue by the configuration of the node that answers."""

    keep_result_ms: Annotated[
        int,
        Meta(
            description="how long a worker's answer is kept unless its task says otherwise; 0: not at all",
            extra_json_schema={"minimum": 0},
        ),
    ]


Rule = UnsetType | None


class Slack(Struct, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """By how much a task's virtual deadline is later than its due time; tasks of a queue go in the order of these."""

    high: Annotated[Number, duration("of priority high; 2 s unless given", "500ms", least=0)] = None
    normal: Annotated[Number, duration("of priority normal; 10 s unless given", "5s", least=0)] = None
    low: Annotated[Number, duration("of priority low; 60 s unless given", "10m", least=0)] = None


class SlackSet(Struct, omit_defaults=True, gc=False):
    """Slack in ms."""

    high: Annotated[int | None, Meta(extra_json_schema={"minimum": 0})] = None
    normal: Annotated[int | None, Meta(extra_json_schema={"minimum": 0})] = None
    low: Annotated[int | None, Meta(extra_json_schema={"minimum": 0})] = None


class KeyLimit(Struct, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """A limit that holds for the tasks of each value by themselves, such as those of each customer."""

    by: Annotated[
        str,
        Meta(
            description="`label:NAME`, `fairness_key` or `group`; tasks without that one are not limited by it",
            examples=["label:customer"],
        ),
    ]
    concurrency: Annotated[
        int | None,
        Meta(
            description="most tasks of one value that run at a time, over all nodes",
            extra_json_schema={"minimum": 1, "maximum": MOST_PERMITS, "examples": [2]},
        ),
    ] = None
    rate: Annotated[
        str | None,
        Meta(
            description="most tasks of one value that begin in any interval, over all nodes",
            extra_json_schema={"examples": ["5/s"]},
        ),
    ] = None
    burst: Annotated[
        int | None,
        Meta(
            description="how many tasks of that rate may begin together; unless set, all of one interval",
            extra_json_schema={"minimum": 1, "maximum": MOST_PERMITS, "examples": [2]},
        ),
    ] = None


class QueueRulesRequest(Struct, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """The rules of a queue. In a PATCH `null` clears a rule, and what is left out stays as it is."""

    paused: Annotated[
        bool | Rule, Meta(description="true: due tasks wait, scheduling goes on, and what runs already ends")
    ] = UNSET
    keep_result: Annotated[
        str | int | float | Rule,
        duration("how long results of its worker functions and commands are kept; 0: not at all", "1h", least=0),
    ] = UNSET
    retry: Retry | Rule = UNSET
    """Of tasks that have no policy, where their function has none either."""
    timeout: Annotated[
        str | int | float | Rule,
        duration("longest time of one attempt of a worker function or command whose task sets none", "30s"),
    ] = UNSET
    weight: Annotated[
        int | float | Rule,
        Meta(
            description="its share beside other queues where workers have fewer places than there is work; 1 unless "
            "set. A queue of weight 2 gets twice as much as one of weight 1",
            examples=[2],
            extra_json_schema={"x-is": {"type": ["number", "null"], "minimum": MIN_WEIGHT, "maximum": MAX_WEIGHT}},
        ),
    ] = UNSET
    slack: Slack | Rule = UNSET
    """How long tasks of each priority may wait behind others of their queue."""
    concurrency: Annotated[
        int | Rule,
        Meta(
            description="most of its tasks that run at a time, over all nodes",
            extra_json_schema={"minimum": 1, "maximum": MOST_PERMITS, "examples": [20]},
        ),
    ] = UNSET
    rate: Annotated[
        str | Rule,
        Meta(
            description="most of its tasks that begin in any interval, over all nodes",
            extra_json_schema={"examples": ["100/s", "5/10m"]},
        ),
    ] = UNSET
    burst: Annotated[
        int | Rule,
        Meta(
            description="how many tasks of its rate may begin together; unless set, all of one interval",
            extra_json_schema={"minimum": 1, "maximum": MOST_PERMITS, "examples": [10]},
        ),
    ] = UNSET
    keys: Annotated[
        list[KeyLimit] | Rule,
        Meta(
            description="limits that hold for each customer, say, by itself; what is set takes the place of all before",
            extra_json_schema={"maxItems": MOST_KEY_LIMITS},
        ),
    ] = UNSET
    key_keep: Annotated[
        str | int | float | Rule,
        duration("how long an idempotency key outlives its task; at least 1m", "24h", least=LEAST_KEY_KEEP_MS),
    ] = UNSET
    resume_rate: Annotated[
        str | Rule,
        Meta(
            description="after a pause: most of what waited that begins in any interval, until all of it has begun",
            extra_json_schema={"examples": ["100/s", "5/10m"]},
        ),
    ] = UNSET


class QueueRulesSet(Struct, omit_defaults=True, gc=False):
    """Rules, in the form in which they are set; those that are not set are left out."""

    paused: bool | None = None
    keep_result: Annotated[int | None, Meta(description="ms; 0: not at all", extra_json_schema={"minimum": 0})] = None
    retry: Retry | None = None
    timeout: Annotated[int | None, Meta(description="ms", extra_json_schema={"minimum": 1})] = None
    weight: float | None = None
    slack: SlackSet | None = None
    concurrency: Annotated[int | None, Meta(extra_json_schema={"minimum": 1})] = None
    rate: str | None = None
    burst: Annotated[int | None, Meta(extra_json_schema={"minimum": 1})] = None
    keys: list[KeyLimit] | None = None
    key_keep: Annotated[int | None, Meta(description="ms", extra_json_schema={"minimum": LEAST_KEY_KEEP_MS})] = None
    resume_rate: str | None = None


FullSpeedAt = Annotated[
    str | None,
    Meta(
        description="while what waited during its pause begins at its `resume_rate`: until about when; else null",
        extra_json_schema={"format": "date-time"},
    ),
]


Newer = Annotated[tuple[str, ...], Meta(description="rules that a newer DelayBox set; this one leaves them alone")]


class RuledQueue(Struct, gc=False):
    """The rules of one queue, or with `*` those of all queues without a rule of their own.

    `rules`: set for this queue. `effect`: what holds; a rule that is not set comes from `*`, or from the configuration.
    """

    queue: str
    rules: QueueRulesSet
    effect: QueueRulesSet
    waits: Annotated[str, Meta(description="why its due tasks wait by its rules; empty: they do not")]
    newer: Newer
    full_speed_at: FullSpeedAt = None
    version: Annotated[
        int,
        Meta(
            ge=0,
            description="of all rules together: a process of a node that goes by this one or a later one knows these "
            "(`rules_version` in `/v1/nodes`)",
        ),
    ] = 0


class RuledQueues(Struct, gc=False):
    """Every queue that has rules of its own, by name."""

    queues: list[RuledQueue]


class Queue(Struct, gc=False):
    """One queue: sums, and a line for each task type it holds."""

    queue: str
    pending: Count
    pending_complete: bool
    ready: Count
    in_flight: Count
    fired_per_s: Annotated[float, Meta(extra_json_schema={"minimum": 0})]
    settings: QueueSettings
    types: list[Lane]
    rules: QueueRulesSet
    effect: QueueRulesSet
    waits: str
    oldest_wait_ms: Count = 0
    full_speed_at: FullSpeedAt = None
    newer: Newer = ()
