"""Logging in at a real Kafka broker, and TLS; each is refused once, with words that say what to do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from scripts.kafka_broker import Broker
from tests.kafka import Kafka, need_broker
from tests.nodes import Node, node
from tests.tls import Certificates
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.kafka

USER, PASSWORD = "delaybox", "s3cret-word"


class Secured:
    """A broker with every kind of listener, and who may come in."""

    def __init__(self, folder: Path) -> None:
        self.certificates = Certificates(folder)
        chain, key = (Path(file).read_bytes() for file in self.certificates.server)
        # Java reads keys in this form only.
        plain = serialization.load_pem_private_key(key, None).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        both = folder / "broker.pem"
        both.write_bytes(plain + chain)
        self.broker = Broker(
            folder / "broker",
            listeners=("SASL_PLAINTEXT", "SASL_SSL", "SSL"),
            users={USER: PASSWORD},
            tls=(both, Path(self.certificates.ca)),
            # Who comes by certificate alone must show one.
            settings={"listener.name.ssl.ssl.client.auth": "required"},
        )
        self.broker.start()
        self.kafka = Kafka(self.broker.bootstrap)


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    need_broker()
    made = Secured(tmp_path_factory.mktemp("secured"))
    yield made
    made.broker.close()


def arguments(secured: Secured, listener: str, topic: str, **settings: str) -> list[str]:
    given = {"enabled": "true", "brokers": secured.broker.address(listener), "taskExecutionTopic": topic} | settings
    given |= {"schedulerTopic": f"{topic}-in", "value": "payload"}
    words = [word for name, value in given.items() for word in ("--set", f"kafka.{name}={value}")]
    return ["--http-port", "0", "--set", "grpcServer.enabled=false", "--data-dir", "data", *words]


def sasl(mechanism: str, password: str = PASSWORD) -> dict[str, str]:
    return {"saslEnabled": "true", "saslMechanism": mechanism, "saslUser": USER, "saslPassword": password}


def tls(ca: str, client: tuple[str, str] | None = None) -> dict[str, str]:
    found = {"tlsEnable": "true", "caFile": ca}
    return found if client is None else found | {"certFile": client[0], "keyFile": client[1]}


@pytest.mark.parametrize("way", ["plain", "scram-256", "scram-512-tls", "client-certificate", "oauthbearer"])
def test_a_node_comes_in(tmp_path: Path, secured: Secured, way: str):
    certificates = secured.certificates
    unsigned = '{"enable.sasl.oauthbearer.unsecure.jwt":"true","sasl.oauthbearer.config":"principal=delaybox"}'
    listener, settings = {
        "plain": ("SASL_PLAINTEXT", sasl("PLAIN")),
        "scram-256": ("SASL_PLAINTEXT", sasl("SCRAM-SHA-256")),
        "scram-512-tls": ("SASL_SSL", sasl("SCRAM-SHA-512") | tls(certificates.ca)),
        "client-certificate": ("SSL", tls(certificates.ca, certificates.client)),
        "oauthbearer": (
            "SASL_PLAINTEXT",
            {"saslEnabled": "true", "saslMechanism": "OAUTHBEARER", "properties": unsigned},
        ),
    }[way]
    topic = secured.kafka.topic()
    with node(*arguments(secured, listener, topic, **settings), folder=tmp_path) as ours:
        status, _, _ = ours.call("POST", "/v1/tasks", {"type": "pub_sub", "payload": way})
        assert status == 201
        assert secured.kafka.read(topic, 1)[0].value() == way.encode()


@pytest.mark.parametrize(
    ("way", "wanted"),
    [
        ("plain", r"refused this node: .*uthentication.*; check kafka.saslUser, kafka.saslPassword and"),
        ("scram-512-tls", r"refused this node: .*uthentication.*; check kafka.saslUser, kafka.saslPassword and"),
        ("stranger", r"refused this node: .*; set kafka.caFile to the authority that signed the brokers' certificates"),
        ("no-certificate", r"refused this node: .*; set kafka.certFile and kafka.keyFile to a certificate that"),
    ],
)
def test_a_node_that_is_refused_ends_and_says_what_to_do(tmp_path: Path, secured: Secured, way: str, wanted: str):
    certificates = secured.certificates
    listener, settings = {
        "plain": ("SASL_PLAINTEXT", sasl("PLAIN", "wrong-word")),
        "scram-512-tls": ("SASL_SSL", sasl("SCRAM-SHA-512", "wrong-word") | tls(certificates.ca)),
        "stranger": ("SASL_SSL", sasl("SCRAM-SHA-512") | tls(certificates.wrong_ca)),
        "no-certificate": ("SSL", tls(certificates.ca)),
    }[way]
    refused = Node(*arguments(secured, listener, "any", **settings), folder=tmp_path)
    try:
        code = refused.process.wait(PATIENCE_S)
    finally:
        refused.stop()
    assert code == 2, refused.output()
    assert re.search(wanted, refused.output()), refused.output()
    assert PASSWORD not in refused.output() and "wrong-word" not in refused.output()
