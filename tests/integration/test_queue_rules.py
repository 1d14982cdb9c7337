"""Rules of queues on a running node: set over REST, gRPC, the command line and the configuration, with one effect."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from delaybox import Client, Worker
from delaybox.client import InvalidTask, Retry, TaskFailed, TaskState
from tests.command import Command
from tests.nodes import Node, node
from tests.visitor import Visitor
from tests.waiting import PATIENCE_S, Gate, until

CONFIG = """
queues: {first: {paused: true, timeout: 30s, concurrency: 8, burst: 2, rate: 9/m,
                 keys: [{by: "label:customer", concurrency: 2}], resume_rate: 5/s,
                 retry: {max_attempts: 2, backoff: {initial: 10ms}}}}
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    folder = tmp_path_factory.mktemp("queue-rules")
    (folder / "c.yaml").write_text(CONFIG)
    arguments = ("--http-port", "0", "--data-dir", str(folder / "data"), "--config", str(folder / "c.yaml"))
    with node(*arguments, "--enable-shell", folder=folder) as started:
        yield started


@pytest.fixture
def client(served: Node) -> Iterator[Client]:
    with Client(f"127.0.0.1:{served.grpc_port}") as made:
        yield made


def in_force(served: Node, version: int) -> None:
    """Returns when every process that takes tasks goes by this version of the rules."""

    def everywhere() -> bool:
        nodes = served.call("GET", "/v1/nodes")[2]["nodes"]
        of_kind = {member["kind"]: member["rules_version"] for one in nodes for member in one["members"]}
        return all(of_kind[kind] >= version for kind in ("clock", "work", "grpc"))

    until(everywhere)


class Crew:
    """A worker in a thread. `gate` holds its function up; `ran` is what it ran, in order."""

    def __init__(self) -> None:
        self.gate, self.ran, self.failures = Gate(), list[str](), 0
        self.gate.open()

    async def step(self, name: str) -> str:
        self.ran.append(name)
        await self.gate.passed()
        return name

    async def fail(self) -> None:
        self.failures += 1
        raise ValueError("no")


@pytest.fixture(scope="module")
def crew(served: Node) -> Iterator[Crew]:
    made, over = Crew(), threading.Event()
    worker = Worker("crew", servers=f"127.0.0.1:{served.grpc_port}", queues=["mail", "first", "other"], grace="1s")

    @worker.task(name="step")
    async def step(name: str) -> str:
        return await made.step(name)

    @worker.task(name="fail")
    async def fail() -> None:
        await made.fail()

    async def work() -> None:
        async with worker.running():
            await asyncio.to_thread(over.wait)

    thread = threading.Thread(target=asyncio.run, args=(work(),), daemon=True)
    thread.start()
    served.until(lambda: served.call("GET", "/v1/workers")[2]["count"])
    yield made
    made.gate.open()
    over.set()
    thread.join(PATIENCE_S)


def rules(served: Node, queue: str, body: Any, method: str = "PATCH") -> Any:
    status, _, answer = served.call(method, f"/v1/queues/{queue}", body)
    assert status in (200, 204), answer
    return answer


@pytest.fixture
def cli(served: Node, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    monkeypatch.setenv("DELAYBOX_SERVER", f"http://127.0.0.1:{served.port}")
    return Command(monkeypatch, capsys)


def test_pause_drain_and_resume(served: Node, client: Client, crew: Crew, cli: Command) -> None:
    crew.gate.close()
    running = client.schedule("step", ["running"], queue="mail", keep_result="1m")
    until(lambda: crew.ran)
    # In force when it is answered; the command below finds it so, and waits.
    rules(served, "mail", {"paused": True})
    draining = subprocess.Popen(
        [*(sys.executable, "-m", "delaybox", "queues", "set", "mail", "--pause", "--drain"),
         *("--server", f"http://127.0.0.1:{served.port}")],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    held = [client.schedule("step", [str(n)], queue="mail", keep_result="1m") for n in range(3)]
    elsewhere = client.schedule("step", ["elsewhere"], queue="other", keep_result="1m")
    assert draining.poll() is None
    crew.gate.open()
    out, _ = draining.communicate(timeout=PATIENCE_S)
    assert draining.returncode == 0 and "waits: queue 'mail' is paused" in out
    assert running.result(timeout=PATIENCE_S) == "running"
    assert elsewhere.result(timeout=PATIENCE_S) == "elsewhere"
    reason = "waits: queue 'mail' is paused; `delaybox queues set mail --resume` ends that"
    until(lambda: served.call("GET", "/v1/queues/mail")[2]["ready"] == 3)
    task = client.get(held[0].id)
    assert (task.state, task.reason) == (TaskState.READY, reason)
    listed = served.call("GET", "/v1/tasks?queue=mail")[2]["tasks"]
    assert {one["reason"] for one in listed} == {reason}
    assert [queue.waits for queue in client.queues("mail")] == [reason]
    assert "paused" in cli("queues").out
    assert "paused, while due tasks wait: mail (3 due)" in cli("doctor").out
    assert cli("queues", "set", "mail", "--resume").code == 0
    assert [one.result(timeout=PATIENCE_S) for one in held] == ["0", "1", "2"]
    assert sorted(crew.ran[-3:]) == ["0", "1", "2"], "they lie in several partitions"
    assert cli("queues", "unset", "mail").code == 0


def test_what_waited_is_let_go_at_a_rate(served: Node, client: Client, crew: Crew, cli: Command) -> None:
    crew.ran.clear()
    assert cli("queues", "set", "mail", "--pause", "--resume-rate", "2/h").code == 0
    held = [client.schedule("step", [str(n)], queue="mail", keep_result="1m") for n in range(5)]
    until(lambda: served.call("GET", "/v1/queues/mail")[2]["ready"] == 5)
    assert client.queue_rules("mail")[0].full_speed_at is None
    shown = client.set_queue("mail", paused=False)
    assert (shown.resume_rate, shown.rate) == ("2/h", None) and shown.full_speed_at is not None
    ahead = shown.full_speed_at - client.get(held[0].id).due
    assert timedelta(hours=2.49) < ahead < timedelta(hours=2.6)
    until(lambda: len(crew.ran) == 2)
    at = shown.full_speed_at.strftime("%Y-%m-%dT%H:%M:")
    why = f"waits: what waited during the pause of queue 'mail' begins at 2/h, until about {at}"
    until(lambda: served.call("GET", "/v1/queues/mail")[2]["waits"].startswith(why))
    assert served.call("GET", "/v1/queues/mail")[2]["full_speed_at"].startswith(at)
    assert rules(served, "mail", {"paused": False})["full_speed_at"].startswith(at), "said again it is the same"
    printed = cli("queues", "mail").out
    seen = Visitor(served.port)
    page, moment = seen.get("/dashboard/queues/mail")[2], f'<time datetime="{at}'
    assert f"what waited begins at 2/h. Full speed at about {moment}" in page and "it is paused" not in page
    assert f"full speed at about {moment}" in seen.get("/dashboard/queues")[2]
    assert "resume_rate = 2/h" in printed and f"what waited during its pause begins at 2/h, until about {at}" in printed
    waiting = [client.get(one.id) for one in held]
    assert all("has limits (rate 2/h)" in one.reason for one in waiting if one.state is TaskState.READY)
    assert len(crew.ran) == 2
    assert cli("queues", "set", "mail", "--resume-rate", "1000/s").code == 0
    assert [one.result(timeout=PATIENCE_S) for one in held] == ["0", "1", "2", "3", "4"]
    # With the end of the ramp the rule alone is left, for the next pause.
    until(lambda: client.queue_rules("mail")[0].full_speed_at is None)
    (left,) = client.queue_rules("mail")
    assert (left.paused, left.resume_rate, left.waits) == (False, "1000/s", "")
    assert "ull speed" not in seen.get("/dashboard/queues/mail")[2] + seen.get("/dashboard/queues")[2]
    client.unset_queue("mail")


def test_other_types_wait_as_well(served: Node) -> None:
    rules(served, "*", {"paused": True})
    bodies: list[dict[str, Any]] = [{"payload": "x"}, {"type": "shell", "payload": "true", "keep_result": "1m"}]
    ids = [served.call("POST", "/v1/tasks", {**body, "queue": "batch"})[2]["id"] for body in bodies]
    until(lambda: served.call("GET", "/v1/queues/batch")[2]["ready"] == 2)
    for task_id in ids:
        assert served.call("GET", f"/v1/tasks/{task_id}")[2]["state"] == "ready"
    rules(served, "*", None, "DELETE")
    until(lambda: served.call("GET", "/v1/queues/batch")[2]["pending"] == 0)
    until(lambda: served.call("GET", f"/v1/tasks/{ids[1]}")[2].get("state") == "succeeded")


def test_retry_timeout_and_keeping_results_are_live(served: Node, client: Client, crew: Crew) -> None:
    crew.failures = 0
    shown = client.set_queue("mail", retry=Retry(attempts=3, initial=0.01), keep_result="1h", timeout=0.3)
    assert shown.effect is not None and shown.effect.timeout is not None
    in_force(served, shown.version)
    with pytest.raises(TaskFailed):
        client.schedule("fail", queue="mail", timeout="60s").result(timeout=PATIENCE_S)
    assert crew.failures == 3
    crew.gate.close()
    slow = client.schedule("step", ["slow"], queue="mail", retry=0)
    with pytest.raises(TaskFailed, match="timed out"):
        slow.result(timeout=PATIENCE_S)
    crew.gate.open()
    kept = client.schedule("step", ["kept"], queue="mail", timeout="60s")
    until(lambda: client.get(kept.id).state is TaskState.SUCCEEDED)
    client.unset_queue("mail")
    assert client.queue_rules("mail")[0].retry is None


def test_limits_hold_and_say_why_a_queue_waits(served: Node, client: Client, crew: Crew, cli: Command) -> None:
    assert cli("queues", "set", "other", "--rate", "100/s", "--burst", "10", "--concurrency", "1").code == 0
    shown = rules(served, "other", {"burst": 20})
    assert shown["rules"] == {"concurrency": 1, "rate": "100/s", "burst": 20}
    assert shown["effect"] == {**shown["rules"], "keep_result": 0}
    assert "rate = 100/s" in cli("queues", "other").out
    (mine,) = client.queue_rules("other")
    assert (mine.concurrency, mine.rate, mine.burst) == (1, "100/s", 20)
    crew.gate.close()
    crew.ran.clear()
    tasks = [client.schedule("step", [str(n)], queue="other", keep_result="1m") for n in range(4)]
    until(lambda: crew.ran)
    why = "waits: 1 tasks of queue 'other' run, which is its concurrency; the next begins when one ends"
    until(lambda: served.call("GET", "/v1/queues/other")[2]["waits"] == why)
    until(lambda: why in cli("queues", "other").out)
    page = Visitor(served.port).get("/dashboard/queues/other")[2]
    assert "which is its concurrency" in page and "it is paused" not in page
    assert client.queue_rules("other")[0].waits == why
    until(lambda: sum(client.get(task.id).state is TaskState.READY for task in tasks) == 3)
    waiting = [view.reason for task in tasks if (view := client.get(task.id)).state is TaskState.READY]
    assert all("has limits (concurrency 1, rate 100/s)" in reason for reason in waiting)
    assert len(crew.ran) == 1
    crew.gate.open()
    assert [task.result(timeout=PATIENCE_S) for task in tasks] == ["0", "1", "2", "3"]
    in_force(served, client.set_queue("other", rate="1/m", burst=None, concurrency=None).version)
    first, second = (client.schedule("step", [name], queue="other", keep_result="1m") for name in "ab")
    until(lambda: "rate of 1/m; the next begins at 20" in served.call("GET", "/v1/queues/other")[2]["waits"])
    assert cli("queues", "set", "other", "--clear", "rate").code == 0
    assert [task.result(timeout=PATIENCE_S) for task in (first, second)] == ["a", "b"]
    assert client.queue_rules("other")[0].waits == ""
    client.unset_queue("other")


def test_limits_by_key_are_set_in_each_way_and_say_why_a_queue_waits(
    served: Node, client: Client, crew: Crew, cli: Command
) -> None:
    per = "label:customer,concurrency=1,rate=50/s,burst=5"
    assert cli("queues", "set", "other", "--per", per, "--per", "group,rate=9/m").code == 0
    assert f"keys = {per}; group,rate=9/m" in cli("queues", "other").out
    (mine,) = client.queue_rules("other")
    assert mine.keys is not None and mine.keys[1] == {"by": "group", "rate": "9/m"}
    assert client.set_queue("other", keys=[{"by": "label:customer", "concurrency": 1}]).keys == (
        {"by": "label:customer", "concurrency": 1},
    )
    assert rules(served, "other", {"weight": 1})["effect"]["keys"] == [{"by": "label:customer", "concurrency": 1}]
    crew.gate.close()
    crew.ran.clear()
    acme = [
        client.schedule("step", [f"a{n}"], queue="other", keep_result="1m", labels={"customer": "acme"})
        for n in range(3)
    ]
    until(lambda: crew.ran)
    others = [
        client.schedule("step", [name], queue="other", keep_result="1m", labels={"customer": name} if name else {})
        for name in ("b", "c", "")
    ]
    until(lambda: len(crew.ran) == 4)
    whose = "queue 'other' with label:customer 'acme'"
    why = f"waits: 1 tasks of {whose} run, which is its concurrency; the next begins when one ends"
    until(lambda: served.call("GET", "/v1/queues/other")[2]["waits"] == why)
    assert why in cli("queues", "other").out
    reasons = {view.reason for one in acme if (view := client.get(one.id)).state is TaskState.READY}
    assert any("concurrency 1 for each label:customer" in reason for reason in reasons)
    assert served.call("GET", "/v1/queues/other")[2]["ready"] == 2 and len(crew.ran) == 4
    crew.gate.open()
    assert [one.result(timeout=PATIENCE_S) for one in (*acme, *others)] == ["a0", "a1", "a2", "b", "c", ""]
    client.unset_queue("other")


def test_the_configuration_sets_rules_at_the_first_start(served: Node, client: Client) -> None:
    (first,) = client.queue_rules("first")
    assert (first.concurrency, first.rate, first.burst, first.resume_rate) == (8, "9/m", 2, "5/s")
    assert first.keys == ({"by": "label:customer", "concurrency": 2},)
    assert first.paused and first.retry is not None and first.retry.attempts == 2
    client.set_queue("first", paused=None)
    (first,) = client.queue_rules("first")
    assert first.paused is None and first.waits == "" and first.retry is not None


def test_how_long_keys_outlive_their_tasks_is_set_in_each_way(served: Node, client: Client, cli: Command) -> None:
    assert cli("queues", "set", "k", "--key-keep", "2m").code == 0
    assert served.call("GET", "/v1/queues/k")[2]["rules"] == {"key_keep": 120_000}
    assert "key_keep = 2 m" in cli("queues", "show", "k").out
    assert client.set_queue("k", key_keep=timedelta(hours=1)).key_keep == timedelta(hours=1)
    assert rules(served, "k", {"key_keep": None})["rules"] == {}
    with pytest.raises(InvalidTask, match="give at least 1m"):
        client.set_queue("k", key_keep="1s")


def test_put_replaces_and_patch_changes(served: Node, client: Client, cli: Command) -> None:
    rules(served, "p", {"paused": True, "timeout": "5s"}, "PUT")
    answer = rules(served, "p", {"paused": None})
    assert answer["rules"] == {"timeout": 5_000} == served.call("GET", "/v1/queues/p")[2]["rules"]
    assert rules(served, "p", {"keep_result": 0}, "PUT")["rules"] == {"keep_result": 0}
    assert [one["queue"] for one in served.call("GET", "/v1/queue-rules")[2]["queues"]] == ["first", "p"]
    assert {one.queue for one in client.queue_rules()} == {"first", "p"}
    shown = cli("queues", "show", "p", "--json").json()
    assert shown["effect"]["keep_result"] == 0
    assert "keep_result = 0" in cli("queues", "show", "--rules").out
    rules(served, "p", None, "DELETE")
    assert served.call("GET", "/v1/queues/p")[2]["rules"] == {}


def test_weight_and_slack_are_set_in_each_way(served: Node, client: Client, cli: Command) -> None:
    assert rules(served, "w", {"weight": 3, "slack": {"high": "500ms"}})["rules"] == {
        "weight": 3.0,
        "slack": {"high": 500},
    }
    shown = client.set_queue("w", weight=2, slack={"low": "10m"})
    assert (shown.weight, shown.slack) == (2.0, {"low": timedelta(minutes=10)})
    assert cli("queues", "set", "w", "--weight", "0.5", "--slack", "low=5m", "--slack", "high=100").code == 0
    assert served.call("GET", "/v1/queues/w")[2]["rules"] == {"weight": 0.5, "slack": {"high": 100, "low": 300_000}}
    assert "weight = 0.5" in (out := cli("queues", "show", "w").out) and "slack = high 100 ms, low 5 m" in out
    assert client.set_queue("w", weight=None, slack=None).weight is None
    for wrong in ({"weight": 0}, {"slack": {"high": "2d"}}):
        with pytest.raises(InvalidTask, match=r"0\.01 to 100|at most 24h"):
            client.set_queue("w", **wrong)
    client.unset_queue("w")


def test_fairness_keys_are_given_in_each_way(served: Node, client: Client, cli: Command) -> None:
    body = {"type": "worker", "name": "step", "delay": "1h", "fairness_key": "c-17", "fairness_weight": 2.5}
    by_rest = served.call("POST", "/v1/tasks", body)[2]["id"]
    by_python = client.schedule("step", ["x"], queue="other", delay="1h", fairness_key="c-17", fairness_weight=2.5).id
    by_cli = cli(
        *("schedule", "--type", "worker", "--name", "step", "--delay", "1h", "--json"),
        *("--fairness-key", "c-17", "--fairness-weight", "2.5"),
    ).json()["id"]
    parameter = {"delay": "3600000", "fairnessKey": "c-17", "fairnessWeight": "2.5"}
    by_original = served.call("POST", "/task", {"taskType": "PUB_SUB", "parameter": parameter})[2]["taskUuid"]
    for task_id in (by_rest, by_python, by_cli, by_original):
        shown = served.call("GET", f"/v1/tasks/{task_id}")[2]
        assert (shown["fairness_key"], shown["fairness_weight"]) == ("c-17", 2.5)
        task = client.get(task_id)
        assert (task.fairness_key, task.fairness_weight) == ("c-17", 2.5)
    assert "fairness key" in cli("get", by_rest).out


def test_needs_are_given_in_each_way(served: Node, client: Client, cli: Command) -> None:
    body = {
        "type": "worker",
        "name": "far",
        "delay": "1h",
        "cost": 4,
        "requires": ["gpu", "a=b"],
        "prefers": ["zone=b"],
    }
    status, _, answer = served.call("POST", "/v1/tasks", body)
    assert (status, answer["requires"], answer["cost"]) == (201, ["a=b", "gpu"], 4), answer
    needs: dict[str, Any] = {"cost": 4, "requires": ["gpu", "a=b"], "prefers": ["zone=b"]}
    by_python = client.schedule("far", ["x"], queue="other", delay="1h", **needs).id
    by_cli = cli(
        *("schedule", "--type", "worker", "--name", "far", "--delay", "1h", "--json", "--cost", "4"),
        *("--require", "gpu", "--require", "a=b", "--prefer", "zone=b"),
    ).json()["id"]
    for task_id in (answer["id"], by_python, by_cli):
        shown = served.call("GET", f"/v1/tasks/{task_id}")[2]
        assert (shown["name"], shown["cost"], shown["requires"]) == ("far", 4, ["a=b", "gpu"])
        task = client.get(task_id)
        assert (task.name, task.cost, task.requires, task.prefers) == ("far", 4, ("a=b", "gpu"), ("zone=b",))
    shown = cli("get", by_cli).out
    assert "4 places" in shown and "a=b, gpu" in shown
    with pytest.raises(InvalidTask, match="cost 0 is out of range"):
        client.schedule("far", cost=0)
    with pytest.raises(InvalidTask, match="requires 'gpu' is text, not a list"):
        client.schedule("far", requires="gpu")
    with pytest.raises(InvalidTask, match="is of the type dict, not a list"):
        client.schedule("far", requires={"gpu": "1"})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("part", "field", "words"),
    [
        ({"requires": ["gpu"]}, "requires", "says nothing to a pub_sub task"),
        ({"type": "worker", "name": "f", "cost": 1_001}, "cost", "give 1 to 1000 places"),
        ({"type": "worker", "name": "f", "prefers": ["a!"]}, "prefers", "is no label of workers"),
        ({"fairness_key": ""}, "fairness_key", "1 to 64 bytes"),
        ({"fairness_key": "a" * 65}, "fairness_key", "1 to 64 bytes"),
        ({"fairness_key": "a\u0000"}, "fairness_key", "without control characters"),
        ({"fairness_key": "a", "fairness_weight": 0}, "fairness_weight", "fairness_weight 0 is out of range"),
        ({"fairness_weight": 2}, "fairness_weight", "give fairness_key as well"),
    ],
)
def test_wrong_fairness_is_refused(served: Node, part: dict[str, Any], field: str, words: str) -> None:
    status, _, answer = served.call("POST", "/v1/tasks", {"payload": "x", **part})
    assert (status, answer["field"]) == (400, field) and words in answer["detail"], answer


@pytest.mark.parametrize(
    ("queue", "body", "field", "words"),
    [
        ("p", {"paussed": True}, "paussed", "is not a rule of a queue; did you mean paused?"),
        ("p", {"concurency": 2}, "concurency", "did you mean concurrency?"),
        ("p", {"concurrency": 0}, "concurrency", "concurrency 0 would hold every task back; to do that set paused"),
        ("p", {"concurrency": 10_001}, "concurrency", "10001 is not from 1 to 10,000"),
        ("p", {"concurrency": "many"}, "concurrency", "must be"),
        ("p", {"burst": -1}, "burst", "-1 is not from 1"),
        ("p", {"rate": "fast"}, "rate", "'fast' is no rate; give a number of tasks, a slash and an interval"),
        ("p", {"rate": "0/s"}, "rate", "set paused"),
        ("p", {"rate": 5}, "rate", "must be"),
        ("p", {"resume_rate": "slow"}, "resume_rate", "'slow' is no rate; give a number of tasks, a slash"),
        ("p", {"resume_rate": "0/s"}, "resume_rate", "set paused"),
        ("p", {"ramp": {}}, "ramp", "is not a rule of a queue"),
        ("p", {"paused": "yes"}, "paused", "must be true or false"),
        ("p", {"timeout": 0}, "timeout", "set paused"),
        ("p", {"timeout": "soon"}, "timeout", "soon"),
        ("p", {"retry": {"max_attempts": 0}}, "retry.max_attempts", "1 (no retry) to"),
        ("P!", {"paused": True}, "queue", "is not a queue name"),
        ("p", {"weight": 0}, "weight", "weight 0 is out of range; give 0.01 to 100"),
        ("p", {"weight": 1000}, "weight", "weight 1000 is out of range"),
        ("p", {"weight": "heavy"}, "weight", "must be a number"),
        ("p", {"slack": {}}, "slack", "names no priority"),
        ("p", {"slack": {"critical": "1s"}}, "slack.critical", "critical"),
        ("p", {"slack": {"low": "3d"}}, "slack.low", "at most 24h"),
        ("p", {"keys": []}, "keys", "in a PATCH: null"),
        ("p", {"key_keep": "5s"}, "key_keep", "give at least 1m"),
        ("p", {"key_keep": "9999d"}, "key_keep", "is over ten years"),
        ("p", {"keys": [{"by": "customer", "rate": "5/s"}]}, "keys[0].by", "there are fairness_key, group, label:NAME"),
        ("p", {"keys": [{"by": "label:a b", "rate": "5/s"}]}, "keys[0].by", "names no label"),
        ("p", {"keys": [{"by": "group"}]}, "keys[0]", "limits nothing; give it a concurrency"),
        ("p", {"keys": [{"by": "group", "concurrency": 0}]}, "keys[0].concurrency", "to do that set paused"),
        ("p", {"keys": [{"by": "group", "rate": "soon"}]}, "keys[0].rate", "is no rate"),
        ("p", {"keys": [{"by": "group", "concurrency": 1, "burst": 2}]}, "keys[0].burst", "has no rate"),
        ("p", {"keys": [{"by": "group", "rate": "5/s"}] * 2}, "keys[1].by", "is there twice"),
        ("p", {"keys": [{"by": f"label:{n}", "rate": "5/s"} for n in range(5)]}, "keys", "give at most 4"),
    ],
)
def test_wrong_rules_are_refused_with_field_and_mend(
    served: Node, queue: str, body: dict[str, Any], field: str, words: str
) -> None:
    status, _, answer = served.call("PATCH", f"/v1/queues/{queue}", body)
    assert (status, answer["field"]) == (400, field) and words in answer["detail"], answer


def test_wrong_rules_are_refused_in_python_and_on_the_command_line(client: Client, cli: Command) -> None:
    with pytest.raises(InvalidTask, match="is not a rule of a queue"):
        client.set_queue("p", colour=1)  # type: ignore[call-arg]
    with pytest.raises(InvalidTask, match="set paused"):
        client.set_queue("p", timeout=0)
    with pytest.raises(InvalidTask, match="is no rate; give a number of tasks"):
        client.set_queue("p", rate="soon")
    with pytest.raises(InvalidTask, match="is not text such as"):
        client.set_queue("p", rate=5)  # type: ignore[arg-type]
    with pytest.raises(InvalidTask, match="to do that set paused"):
        client.set_queue("p", concurrency=0)
    for wrong in ({"by": "group"}, {"by": "group", "rate": 5}, {"by": "group", "most": 5}, {"by": "x", "rate": "5/s"}):
        with pytest.raises(InvalidTask, match=r"limits nothing|is not text|is not part of|is not what a limit goes by"):
            client.set_queue("p", keys=[wrong])  # type: ignore[list-item]
    assert "write for example label:customer" in cli("queues", "set", "p", "--per", "label:customer,5").err
    with pytest.raises(InvalidTask, match="is not a whole number"):
        client.set_queue("p", burst="x")  # type: ignore[arg-type]
    assert "is no rate" in cli("queues", "set", "p", "--rate", "100").err
    assert "give one of them" in cli("queues", "set", "p", "--pause", "--resume").err
    assert "no rule is given" in cli("queues", "set", "p").err
