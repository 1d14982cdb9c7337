"""The one speller of Redis keys. scripts/lib/keys.lua spells the same for the scripts.

Every key of a partition shares one Redis Cluster hash tag, ``{prefix:partition}``, so each script touches one slot.
"""

from __future__ import annotations

from delaybox.core.task import TaskType

_SPECIAL = "*?[]\\^-"
"""Characters that mean something in a pattern."""
_CRITICAL = ":critical"
_LETTERS = [task_type.value for task_type in TaskType]


def tag(prefix: str, partition: int) -> str:
    """The hash tag of a partition; the one KEYS entry of every script."""
    return f"{{{prefix}:{partition}}}"


def confirm(key: str) -> str:
    """String that is written behind a write that must be confirmed, in the slot of its first key. Expires."""
    return f"{key}:confirm" if key.startswith("{") else f"{{{key}}}:confirm"


def bucket(tag_: str, number: int) -> str:
    """Hash id -> record of the tasks whose id falls in bucket ``number``."""
    return f"{tag_}:b:{number}"


def buckets(tag_: str) -> str:
    """Zset of the numbers of buckets that are not empty."""
    return f"{tag_}:buckets"


def near(tag_: str, priority: int, letter: str = "") -> str:
    """Zset id + lane -> due ms of the tasks due before the horizon; WORKER and HTTP tasks (``letter`` w, h) have their
    own."""
    return f"{tag_}:near:{letter}:{priority}" if letter in ("w", "h") else f"{tag_}:near:{priority}"


def nears(tag_: str) -> list[str]:
    """All near indexes of a partition: those of time keepers, then those of WORKER tasks, then those of HTTP tasks."""
    return [near(tag_, priority, letter) for letter in ("", "w", "h") for priority in range(4)]


def active(tag_: str, letter: str, *, critical: bool) -> str:
    """Zset of the lanes of a task type that have ready work, critical or not."""
    return f"{tag_}:active:{letter}{_CRITICAL if critical else ''}"


def actives(tag_: str) -> list[tuple[str, bool]]:
    """All `active` sets of a partition; and whether it is of critical work."""
    return [(active(tag_, letter, critical=critical), critical) for letter in _LETTERS for critical in (False, True)]


def ready(tag_: str, lane: bytes, *, critical: bool) -> str:
    """Zset id -> virtual deadline of due tasks of one lane that nobody had room for, critical or not."""
    return f"{tag_}:ready:{lane.decode()}{_CRITICAL if critical else ''}"


def steered(tag_: str) -> str:
    """Hash: group of queues (``*``: all others) -> what scripts must know of their rules (`store.rules.codes`)."""
    return f"{tag_}:steered:groups"


def former_steered(tag_: str) -> str:
    """As `steered`, kept by nodes of the previous version, in their form (steer.lua)."""
    return f"{tag_}:steered"


def parked(tag_: str) -> str:
    """Zset of the lanes with ready work whose queue is paused; `parked_lane` reads a member."""
    return f"{tag_}:parked"


def parked_lane(member: bytes) -> tuple[bytes, bool]:
    """The lane that a member of `parked` or `limited` names, and whether its critical work is meant."""
    _, _, rest = member.partition(b"\0")
    return rest[1:], rest[:1] == b"!"


def permits(tag_: str) -> str:
    """Hash: pool of permits -> what this partition may use of it (scripts/lib/limits.lua)."""
    return f"{tag_}:permits"


def used(tag_: str, pool: bytes) -> bytes:
    """Zset of what is in use here of a pool's permits: task id (of a rate: and its delivery) -> until when (ms)."""
    return f"{tag_}:used:".encode() + pool


def limited(tag_: str) -> str:
    """Zset of the lanes of limited queues with ready work; `parked_lane` reads a member."""
    return f"{tag_}:limited"


def held(tag_: str) -> str:
    """Zset: queue that has no permits left for what is ready -> when there may be some again (ms)."""
    return f"{tag_}:held"


def held_keys(tag_: str) -> str:
    """Zset: limit key (`core.limit_keys`) without permits for what waits -> when to look at it again (ms)."""
    return f"{tag_}:held:keys"


def apart(tag_: str) -> str:
    """Zset of the sets of tasks that stand apart because their limit key has no permits; `apart_key` and
    `parked_lane` read a member."""
    return f"{tag_}:apart"


def unserved(tag_: str) -> str:
    """Zset of lanes with tasks that stand apart and nobody serves -> until when that counts (ms)."""
    return f"{tag_}:unserved"


def apart_key(member: bytes) -> bytes:
    """The limit key that a member of `apart` names."""
    return member.partition(b"\0")[0]


def waits(tag_: str, member: bytes) -> bytes:
    """Zset id -> virtual deadline of the tasks of one lane that stand apart by one limit key: a member of `apart`."""
    return f"{tag_}:waits:".encode() + member


def ledger(tag_: str) -> str:
    """Hash: pool that has its home here -> how its permits are dealt to partitions (`store.permits`)."""
    return f"{tag_}:ledger"


def clock(tag_: str) -> str:
    """Hash: store, horizon, expanded, expanding, wake, wake:w, wake:h, turn, turn:critical (lib/turns.lua), floor,
    floor:w, floor:h (lib/claim_order.lua), rules, grouped and steered (steer.lua),
    and of reapers: reaped, run, outage, grace, held (reap.lua). docs/storage.md explains each."""
    return f"{tag_}:clock"


def leases(tag_: str) -> str:
    """Zset lease id -> expiry ms."""
    return f"{tag_}:leases"


def lease(tag_: str, lease_id: bytes) -> bytes:
    """Hash id -> record of what one claim handed out."""
    return f"{tag_}:lease:".encode() + lease_id


def leased(tag_: str) -> str:
    """Hash id -> lease id of what is leased: a hint, see scripts/lib/leased.lua."""
    return f"{tag_}:leased"


def body(tag_: str, task_id: bytes) -> bytes:
    """String: the body of a task whose record is a stub."""
    return f"{tag_}:body:".encode() + task_id


def idem(tag_: str, key: bytes) -> bytes:
    """String: what an idempotency key stands for (`record.id_of_key`)."""
    return f"{tag_}:idem:".encode() + key


def dead(tag_: str) -> str:
    """Hash id -> dead letter."""
    return f"{tag_}:dead"


def dead_at(tag_: str) -> str:
    """Zset id -> ms it died."""
    return f"{tag_}:dead:at"


def quarantine(tag_: str) -> str:
    """Hash id -> record that could not be read."""
    return f"{tag_}:quarantine"


def quarantine_at(tag_: str) -> str:
    """Zset id -> ms it was put into quarantine."""
    return f"{tag_}:quarantine:at"


def results(tag_: str) -> str:
    """Hash id -> result and record of a finished task."""
    return f"{tag_}:results"


def results_at(tag_: str) -> str:
    """Zset id -> ms until which its result is kept."""
    return f"{tag_}:results:at"


def cancelled(tag_: str, task_id: bytes) -> bytes:
    """String: the idempotency key that a cancelled task had; it expires with the key's entry."""
    return f"{tag_}:cancelled:".encode() + task_id


def history(tag_: str) -> str:
    """Hash: sums over what is remembered of ended tasks, and which hash of a bucket is filled
    (lib/history_keys.lua)."""
    return f"{tag_}:history"


def history_at(tag_: str, family: str) -> str:
    """Zset name of a hash of ended tasks -> ms of its last entry. ``family``: f failed, s all others."""
    return f"{tag_}:history:at:{family}"


def history_sizes(tag_: str) -> str:
    """Hash name of a hash of ended tasks -> its entries, bytes, when it was begun, chunks (lib/history_keys.lua)."""
    return f"{tag_}:history:sizes"


def history_hash(tag_: str, name: bytes) -> bytes:
    """Hash: chunks that say how tasks ended. ``name``: a member of `history_at`."""
    return f"{tag_}:history:".encode() + name


def label(tag_: str, number: int) -> str:
    """Set: entries of the index of labels (`label_entries.place`)."""
    return f"{tag_}:label:{number}"


def listing(tag_: str) -> str:
    """List: new entries of the index of labels, as they came."""
    return f"{tag_}:listing"


def listed(tag_: str, number: int) -> str:
    """List: entries of the index of labels that were looked at (`label_entries.number_of`)."""
    return f"{tag_}:listed:{number}"


def indexed(prefix: str) -> str:
    """Hash label -> since when (ms) it is to be indexed."""
    return f"{prefix}:labels"


def kafka(tag_: str) -> str:
    """Hash topic id/Kafka partition -> the offset up to which its records are stored here."""
    return f"{tag_}:kafka"


def imported(tag_: str, export: str) -> str:
    """String: the last line of an exported store that this partition has; expires."""
    return f"{tag_}:import:{export}"


def groups(tag_: str) -> str:
    """Zset of group + NUL + id, all scored 0: the tasks of each group that have not ended."""
    return f"{tag_}:groups"


def stream(tag_: str) -> str:
    """Stream of fired PUB_SUB tasks, one a partition."""
    return f"{tag_}:stream"


def failures(tag_: str) -> str:
    """Hash id -> why its last attempts failed (store/failures.py)."""
    return f"{tag_}:failures"


def failures_at(tag_: str) -> str:
    """Zset id -> ms of its last failure."""
    return f"{tag_}:failures:at"


def failures_bytes(tag_: str) -> str:
    """String: bytes of all that ``failures`` holds, with 100 for each task."""
    return f"{tag_}:failures:bytes"


def events(tag_: str) -> str:
    """Stream: the feed of events, in chunks (store/events.py). It lies with partition 0."""
    return f"{tag_}:events"


def events_sums(tag_: str) -> str:
    """Hash: how many events and bytes the feed has; the last entry that its bounds dropped."""
    return f"{tag_}:events:sums"


def events_wanted(tag_: str) -> str:
    """String: exists while somebody reads events, and for some minutes afterwards."""
    return f"{tag_}:events:wanted"


def events_stream(prefix: str) -> str:
    """Stream: events as CloudEvents in JSON, for others to read."""
    return f"{prefix}:events"


def events_position(tag_: str, way: str) -> str:
    """String: the position in the feed up to which events went one way out: ``topic``, ``webhook`` or ``stream``."""
    return f"{tag_}:events:{way}"


def events_sender(tag_: str, way: str) -> str:
    """String: the member that sends events that way; expires."""
    return f"{tag_}:events:sender" if way == "topic" else f"{tag_}:events:{way}:sender"


def meta(prefix: str) -> str:
    """Hash: format, partitions, bucket width."""
    return f"{prefix}:meta"


def dashboard_secret(prefix: str) -> str:
    """String: by which nodes sign the dashboard's cookies, where none is configured."""
    return f"{prefix}:dashboard:secret"


def nodes(prefix: str) -> str:
    """Hash member id -> its last heartbeat (JSON)."""
    return f"{prefix}:nodes"


def beats(prefix: str) -> str:
    """Zset member id -> ms of its last heartbeat, of those that live."""
    return f"{{{nodes(prefix)}}}:beats"


def silent(prefix: str) -> str:
    """Zset member id -> ms of its last heartbeat, of those that went silent."""
    return f"{{{nodes(prefix)}}}:silent"


def members_channel(prefix: str) -> str:
    """Channel of the list of members: its version, whenever somebody joins, goes silent or leaves."""
    return f"{prefix}:members"


def former_wake(prefix: str) -> str:
    """Channel of wake-ups for all partitions, on which scripts of the previous version publish."""
    return f"{prefix}:wake"


def wake(tag_: str) -> str:
    """Channel of a partition's wake-ups: scripts publish here when something is due before the next look. For WORKER
    tasks see `wake_workers`, for HTTP tasks `wake_hooks`."""
    return f"{tag_}:wake"


def wake_workers(tag_: str) -> str:
    """As `wake`, of WORKER tasks."""
    return f"{wake(tag_)}:w"


def wake_hooks(tag_: str) -> str:
    """As `wake`, of HTTP tasks for which a process that claims them has promised to look."""
    return f"{wake(tag_)}:h"


def ready_workers(tag_: str) -> str:
    """As `ready_channel`, of WORKER tasks: the server's clock (ms), and how many became ready just now."""
    return f"{ready_channel(tag_)}:w"


def help_channel(prefix: str) -> str:
    """Channel of calls for help: a member whose workers are busy publishes where others may take work (Unix ms, then
    partitions); one that was called, where that was not taken (partitions with a lane each, ``3=wmail:send``)."""
    return f"{prefix}:help"


def lanes_channel(prefix: str) -> str:
    """Channel of lanes with needs (`core.needs`) that a claim met, with spaces between: members whose workers have what
    is needed serve them from then on."""
    return f"{prefix}:lanes"


def ready_channel(tag_: str) -> str:
    """Channel on which a claim publishes that it left due work ready for others."""
    return f"{tag_}:ready"


def functions(prefix: str) -> str:
    """Hash function -> the queue that it has of its own; the empty field holds the version."""
    return f"{prefix}:functions"


def rules(prefix: str) -> str:
    """Hash queue -> its rules (JSON); the empty field holds the version."""
    return f"{prefix}:queues"


def ended_channel(prefix: str) -> str:
    """Channel of ended tasks: scripts publish their ids here, one after another, for those who wait for results. On a
    cluster each partition has one of its own: see `ended_at`."""
    return f"{prefix}:ended"


def ended_at(tag_: str) -> str:
    """As `ended_channel`, of one partition."""
    return f"{tag_}:ended"


def is_partition_channel(channel: str) -> bool:
    """Whether a channel is that of a partition, by its tag."""
    return channel.startswith("{") and "}:" in channel


def folded(prefix: str) -> str:
    """Hash: uuid of a folded copy among the original's tasks -> the id of the task that stands for it."""
    # Its name is stored: what an import of an earlier version wrote is found under it.
    return f"{prefix}:legacy:folded"


def role(prefix: str, name: str) -> str:
    """String: the node that holds a role which only one node holds at a time; it expires unless that node renews it."""
    return f"{prefix}:{name}"


def control_channel(prefix: str) -> str:
    """Channel on which nodes are asked to stop a running task: ``cancel <id>``."""
    return f"{prefix}:control"


def progress(tag_: str, task_id: bytes) -> bytes:
    """String: how far a running task is, as its worker reported last; it expires."""
    return f"{tag_}:progress:".encode() + task_id


# -- read back ----------------------------------------------------------------------------------------------------


def pattern(prefix: str) -> str:
    """What matches the keys of all partitions, for SCAN."""
    return "".join("\\" + c if c in _SPECIAL else c for c in f"{{{prefix}:") + "*"


def is_history(rest: bytes) -> bool:
    """Whether a key of the kind ``history`` is a hash of ended tasks, by what stands behind the kind."""
    return rest[1:2].isdigit() and rest[:1] in (b"s", b"f")


def ready_of(tag_: str, lane: bytes) -> bytes:
    """The ready set of a lane as other keys name it: with ``:critical`` behind it for critical tasks."""
    return tag_.encode() + b":ready:" + lane


def stands(tag_: str, lane: bytes) -> list[tuple[str, str, bytes]]:
    """Asks whether a lane, named as for `ready_of`, is active or parked: then a claim may find it, with work or not."""
    asks: list[tuple[str, str, bytes]] = []
    for critical, name in ((False, lane), (True, lane.removesuffix(_CRITICAL.encode()))):
        queue = name[1:].partition(b":")[0]
        asks.append(("ZSCORE", active(tag_, chr(name[0]), critical=critical), name))
        asks.append(("ZSCORE", parked(tag_), queue + (b"\0!" if critical else b"\0-") + name))
    return asks


def parts(key: bytes) -> tuple[bytes, bytes, bytes]:
    """(tag, kind such as ``b`` or ``lease``, the rest behind the colon) of a partition's key."""
    tag_, _, name = key.partition(b"}:")
    kind, _, rest = name.partition(b":")
    return tag_ + b"}", kind, rest
