"""`delaybox webhook hosts`: the hosts in a node's metrics."""

from __future__ import annotations

from delaybox.cli import webhook_hosts
from delaybox.wire.webhook_hosts import WebhookHost, hosts_of

TEXT = """# HELP delaybox_webhook_requests_total Requests of HTTP tasks.
delaybox_webhook_requests_total{answer="2xx",host="https://a.example"} 8.0
delaybox_webhook_requests_total{answer="5xx",host="https://a.example"} 2.0
delaybox_webhook_requests_total{answer="no_answer",host="http://b.example:8080"} 5.0
delaybox_webhook_host_seconds_count{host="https://a.example"} 10.0
delaybox_webhook_host_seconds_sum{host="https://a.example"} 0.5
delaybox_webhook_host_lateness_seconds_count{host="https://a.example"} 10.0
delaybox_webhook_host_lateness_seconds_sum{host="https://a.example"} 0.0123
delaybox_webhook_host_closed{host="http://b.example:8080"} 1.0
delaybox_webhook_hosts_closed 1.0
delaybox_webhook_host_waiting_tasks{host="http://b.example:8080"} 1234.0
delaybox_webhook_seconds_count 10.0
delaybox_fired_tasks_total{mode="leased",type="HTTP"} 8.0
"""


def test_hosts_are_read_from_a_nodes_metrics():
    a, b = hosts_of(TEXT)
    assert a == WebhookHost("https://a.example", {"2xx": 8, "5xx": 2}, 50.0, 1.2, left_alone=False)
    assert b == WebhookHost("http://b.example:8080", {"no_answer": 5}, None, None, left_alone=True, waiting=1_234)
    header, first, second = webhook_hosts.table([a, b]).splitlines()
    assert header.split() == ["host", "2xx", "3xx", "4xx", "5xx", "no", "answer", "refused", "took", "late"]
    assert first.split() == ["https://a.example", "8", "0", "0", "2", "0", "0", "50.0", "ms", "1.2", "ms"]
    assert second.endswith("left alone: it does not answer, 1,234 tasks wait")


def test_a_node_that_has_sent_none():
    assert hosts_of("delaybox_webhook_hosts_closed 0.0\n") == []
