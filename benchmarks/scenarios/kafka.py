"""Kafka: due tasks out, records in, how late a message is for a consumer; a stock client's rates are the ceiling."""

from __future__ import annotations

from statistics import median

from benchmarks import ours, workload
from benchmarks.harness import kafka
from benchmarks.harness.bench import Bench, Scenario
from benchmarks.harness.figures import Spread, middle, spread
from benchmarks.harness.report import OURS, Bound, Row, at_least, at_most
from benchmarks.ours.kafka import kafka_arguments, kafka_herd, kafka_intake
from delaybox.core.delivery import Delivery
from delaybox.core.task import NewTask
from delaybox.targets.kafka_message import Message, composer
from delaybox.wire import body
from delaybox.wire.topics import TopicRules
from scripts.kafka_broker import Broker

UNIT = "messages/s"
STOCK = "bare confluent-kafka"
OUT = (at_least(40_000), at_least(0.35, of=STOCK))
IN = (at_least(50_000),)
LATE = {
    1_000: (at_most(15.0), Bound(limit=1.5, at_least=False, of=STOCK), at_most(0, part="early")),
    10_000: (at_most(0, part="early"),),
}
LEAD_MS = 4_000


def run(bench: Bench) -> None:
    n = bench.size(200_000, 20_000)
    try:
        with kafka.broker() as broker:
            # The first messages pay for the compilers of the Java machine, whoever sends them.
            kafka.produce(broker, kafka.topic(broker), n, messages=_messages(bench, n // 10))
            _out(bench, broker, bench.size(100_000, n))
            _in(bench, broker, n)
            for rate in (1_000, 10_000):
                _late(bench, broker, rate, bench.size(6, 2))
    except kafka.BrokerMissing as error:
        bench.add(Row(what="Kafka", subject=OURS, value=None, unit=UNIT, note=str(error), bounds=OUT))


def _messages(bench: Bench, count: int) -> list[Message]:
    """What ours sends for tasks of a bench's payload."""
    rng = bench.random()
    compose = composer(TopicRules("out"), value="task", source="/delaybox/delaybox")
    stored, now = body.encode(NewTask(payload=workload.payload(rng))), workload.now_ms()
    return [
        compose(Delivery(workload.raw_id(rng, now), 0, b"", 1, 0, 0, now, b"p", False, stored)) for _ in range(count)
    ]


def _out(bench: Bench, broker: Broker, n: int) -> None:
    what, rounds = f"out, herd, {n:,}", bench.size(3, 1)

    def delaybox() -> Row:
        rates, early = [], 0
        for _ in range(rounds):
            with bench.server() as server:
                found = ours.run(kafka_herd(server, broker.bootstrap, kafka.topic(broker), n))
            rates.append(n / found.seconds)
            early += found.early
        note = (
            f"from the due instant until all are confirmed (acks=all) and acked; median of {rounds} "
            f"({min(rates):,.0f} to {max(rates):,.0f}); early {early}"
        )
        return Row(what=what, subject=OURS, value=median(rates), unit=UNIT, note=note, bounds=OUT)

    def stock() -> Row:
        messages = _messages(bench, min(n, 50_000))
        rates = [n / kafka.produce(broker, kafka.topic(broker), n, messages=messages) for _ in range(rounds)]
        note = (
            f"the same messages and settings, one process; median of {rounds} "
            f"({min(rates):,.0f} to {max(rates):,.0f}); {kafka.label()}, {kafka.PARTITIONS} partitions"
        )
        return Row(what=what, subject=STOCK, value=median(rates), unit=UNIT, note=note)

    bench.attempt(what, OURS, UNIT, delaybox, bounds=OUT)
    bench.attempt(what, STOCK, UNIT, stock)


def _in(bench: Bench, broker: Broker, n: int) -> None:
    what = f"in, records that wait on the topic, {n:,}"
    topic = kafka.topic(broker)
    record = ("", workload.payload(bench.random()), b"", [("delay", b"%d" % workload.HOUR_MS)])

    def delaybox() -> Row:
        kafka.produce(broker, topic, n, messages=[record])
        with bench.server() as server:
            seconds = ours.run(kafka_intake(server, broker.bootstrap, topic, n))
        note = "`delaybox serve`; from the first task stored until the last"
        return Row(what=what, subject=OURS, value=n / seconds, unit=UNIT, note=note, bounds=IN)

    def stock() -> Row:
        with kafka.reader(broker, topic, count=n, seconds=120, each=False) as reader:
            reader.read()
            found = reader.read()
        if found["n"] < n:
            raise RuntimeError(f"{found['n']} of {n} records were read")
        return Row(
            what=what, subject=STOCK, value=n / found["seconds"], unit=UNIT, note="consume by 1,000, nothing kept"
        )

    bench.attempt(what, OURS, UNIT, delaybox, bounds=IN)
    bench.attempt(what, STOCK, UNIT, stock)


def _late(bench: Bench, broker: Broker, rate: int, seconds: int) -> None:
    """By turns, because the machine changes by the minute: of each subject the run in the middle counts."""
    what, count = f"p99 from due to a consumer at {rate:,}/s", rate * seconds

    def delaybox() -> Spread:
        topic = kafka.used_topic(broker)
        with (
            bench.server() as server,
            ours.serve(server, *kafka_arguments(broker.bootstrap, topic)),
            kafka.reader(broker, topic, count=count, seconds=seconds + 60, each=True) as reader,
        ):
            reader.read()
            start_ms = workload.now_ms() + LEAD_MS + count // 20
            due = workload.every(rate, start_ms)
            ours.run(ours.schedule(server, count, due, payload=workload.payload(bench.random())))
            if workload.now_ms() >= start_ms:
                raise RuntimeError(f"scheduling {count} tasks took until after the first was due")
            late = [float(value) for value in reader.read()["lateness_ms"]]
        if len(late) < count:
            raise RuntimeError(f"only {len(late)} of {count} tasks reached the consumer")
        return spread(late)

    def by_the_clock() -> Spread:
        topic = kafka.used_topic(broker)
        with kafka.reader(broker, topic, count=count, seconds=seconds + 60, each=True) as reader:
            reader.read()
            kafka.produce_at(broker, topic, count, rate, start_ms=workload.now_ms() + 500)
            return spread([float(value) for value in reader.read()["lateness_ms"]])

    def measure() -> list[Row]:
        runs: dict[str, list[Spread]] = {OURS: [], STOCK: []}
        for _ in range(bench.size(3, 1)):
            runs[OURS].append(delaybox())
            runs[STOCK].append(by_the_clock())
        return [_middle(what, subject, found, LATE[rate]) for subject, found in runs.items()]

    # Once for nothing: Java compiles what small requests need while they come, for tens of ms at a time.
    by_the_clock()
    bench.attempt(what, OURS, "ms", measure, bounds=LATE[rate])


def _middle(what: str, subject: str, runs: list[Spread], bounds: tuple[Bound, ...]) -> Row:
    chosen = middle(runs, lambda one: one.p99)
    how = "`delaybox serve`, stock consumer" if subject == OURS else "produced by the clock with the same settings"
    early = sum(one.early for one in runs)
    return Row(
        what=what,
        subject=subject,
        value=chosen.p99,
        unit="ms",
        note=f"{chosen.note()}; {how}; p99 of each turn {', '.join(f'{one.p99:.1f}' for one in runs)}",
        bounds=bounds if subject == OURS else (),
        extra={"p50": chosen.p50, "p99": chosen.p99, "max": chosen.max, "early": float(early), "n": float(chosen.n)},
    )


SCENARIO = Scenario("kafka", "Kafka in and out, beside a stock client on the same broker", run)
