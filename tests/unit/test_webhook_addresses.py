"""Where webhooks may go: addresses, URLs, headers."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from delaybox.core.addresses import problem
from delaybox.core.errors import InvalidTask, TypeDisabled
from delaybox.core.webhook import Url, Webhook, WebhookRules, url_of

ON = WebhookRules(enabled=True)
ALLOWED = ("hooks.internal", "*.corp", "10.1.0.0/16", "127.0.0.1")


def _texts(table: str) -> list[str]:
    return table.split()


FORBIDDEN = _texts("""
0.0.0.0 0.1.2.3 10.0.0.1 10.255.255.255 100.64.0.1 100.127.255.254 127.0.0.1 127.1.2.3 169.254.0.1 169.254.169.254
172.16.0.1 172.31.255.255 192.0.0.1 192.0.0.8 192.0.0.9 192.0.0.10 192.0.0.170 192.0.0.192 192.0.2.1 192.88.99.1
192.168.0.1 192.168.255.255 198.18.0.1 198.19.255.255 198.51.100.1 203.0.113.1 224.0.0.1 239.255.255.255 240.0.0.1
255.255.255.255 :: ::1 ::2 ::127.0.0.1 ::10.0.0.1 ::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:169.254.169.254
::ffff:192.168.1.1 ::ffff:0.0.0.0 ::ffff:100.64.0.1 ::ffff:224.0.0.1 ::ffff:7f00:1 64:ff9b::127.0.0.1
64:ff9b::10.0.0.1 64:ff9b::a9fe:a9fe 64:ff9b::192.168.0.1 64:ff9b:1::1 64:ff9b:1::8.8.8.8 2002:7f00:1::
2002:a00:1:: 2002:a9fe:a9fe:: 2002:c0a8:101::1 2002:e000:1:: 2001:0:7f00:1:: 2001:0:4136:e378:8000:63bf:80ff:fffe
2001:0:808:808:0:0:f5ff:fffe 2001::1 fe80::1 fe80::5efe:10.0.0.1 febf::1 fec0::1 feff::1 fc00::1 fd00::1
fd12:3456:789a::1 fdff::ffff ff00::1 ff02::1 ff05::2 ff0e::1 100::1 2001:2::1 2001:10::1 2001:20::1 2001:db8::1
2001:db8:ffff::1 3fff::1 3fff:fff::1 5f00::1 4000::1 8000::1 c000::1 2606:4700::5efe:10.0.0.1
2606:4700::200:5efe:127.0.0.1 2606:4700:0:0:0:5efe:a9fe:a9fe
""")
PUBLIC = _texts("""
1.1.1.1 8.8.8.8 9.9.9.9 93.184.216.34 99.255.255.255 100.63.255.255 100.128.0.1 128.0.0.1 169.253.1.1 172.15.0.1
172.32.0.1 192.0.1.1 192.167.1.1 198.17.0.1 198.20.0.1 203.0.112.1 223.255.255.254 2606:4700:4700::1111
2001:4860:4860::8888 2a00:1450:4001:81b::200e ::ffff:8.8.8.8 64:ff9b::8.8.8.8 2002:808:808::1 2400:cb00::1
""")


def test_the_table_is_of_a_hundred():
    assert len(FORBIDDEN) + len(PUBLIC) >= 100 and len(set(FORBIDDEN + PUBLIC)) == len(FORBIDDEN) + len(PUBLIC)


def _accepted(text: str) -> bool:
    url = f"http://[{text}]/" if ":" in text else f"http://{text}/"
    try:
        ON.check(Webhook(url), {}, b"")
    except InvalidTask as error:
        assert error.field == "url" and "webhooks.allow" in str(error)
        return False
    return True


def test_what_is_not_public_is_refused():
    assert not [text for text in FORBIDDEN if not problem(ip_address(text))]
    assert not [text for text in FORBIDDEN if _accepted(text)]


def test_what_is_public_is_accepted():
    assert not {text: found for text in PUBLIC if (found := problem(ip_address(text)))}
    assert not [text for text in PUBLIC if not _accepted(text)]


def test_networks_that_are_allowed_are_accepted_however_the_address_is_written():
    allowed = [ip_network("10.1.0.0/16"), ip_network("fd00::/8")]
    for text in ("10.1.2.3", "::ffff:10.1.2.3", "64:ff9b::10.1.2.3", "fd12::1"):
        assert not problem(ip_address(text), allowed)
    for text in ("10.2.2.3", "::ffff:10.2.2.3", "fc00::1"):
        assert problem(ip_address(text), allowed)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("https://Example.com", Url("https", "example.com", 443, "/")),
        ("http://example.com.:80/a?b=c", Url("http", "example.com", 80, "/a?b=c")),
        ("https://example.com:8443?x", Url("https", "example.com", 8443, "/?x")),
        ("http://[2606:4700::1]:80/x", Url("http", "2606:4700::1", 80, "/x")),
        ("HTTPS://xn--bcher-kva.example/%20", Url("https", "xn--bcher-kva.example", 443, "/%20")),
    ],
)
def test_urls_are_read(text: str, found: Url):
    assert url_of(text) == found


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "missing"),
        ("example.com/x", "no scheme"),
        ("//example.com/", "no scheme"),
        ("http://", "no host"),
        ("http:///x", "no host"),
        ("http://:80/", "no host"),
        ("ftp://example.com/", "scheme 'ftp'"),
        ("file:///etc/passwd", "no host"),
        ("gopher://example.com:70/", "scheme 'gopher'"),
        ("http://user:secret@example.com/", "header authorization"),
        ("http://example.com@10.0.0.1/", "header authorization"),
        ("http://example.com\\@10.0.0.1/", "cannot be read"),
        ("http://example.com:0/", "port 0"),
        ("http://example.com:65536/", "port 65536"),
        ("http://example.com:8a/", "cannot be read"),
        ("http://exa mple.com/", "percent-encode"),
        ("http://example.com/\r\nx: y", "percent-encode"),
        ("http://bücher.example/", "xn--"),
        ("http://example.com/#top", "fragment"),
        ("http://[::1%25eth0]/", "cannot be read"),
        ("http://[1.2.3.4]/", "no IPv6 address"),
        ("http://2130706433/", "no address"),
        ("http://0x7f000001/", "no address"),
        ("http://0x7f.1/", "no address"),
        ("http://0177.0.0.1/", "no address"),
        ("http://127.1/", "no address"),
        ("http://1.2.3.4.5/", "no address"),
        ("http://-x.example/", "no host name"),
        ("http://a..b/", "no host name"),
        ("http://localhost/", "add localhost"),
        ("http://x.localhost:80/", "add x.localhost to webhooks"),
        ("http://localhost:8099/", "add localhost to webhooks"),
        ("http://127.0.0.1:8099/", "a loopback address"),
        ("http://example.com:6379/", r"webhooks\.ports"),
        ("http://" + "a" * 2_100, "2107 characters"),
    ],
)
def test_urls_that_cannot_be_called_are_refused_with_the_mend(text: str, words: str):
    with pytest.raises(InvalidTask, match=words) as caught:
        ON.check(Webhook(text), {}, b"")
    assert caught.value.field == "url" and "secret" not in str(caught.value)


def test_what_the_configuration_allows():
    rules = WebhookRules(
        enabled=True, allow=("hooks.internal", "*.corp", "10.1.0.0/16", "127.0.0.1"), schemes=("http",)
    )
    for url in ("http://hooks.internal:9000/", "http://a.corp/", "http://10.1.2.3:1234/", "http://127.0.0.1:8000/"):
        assert rules.check(Webhook(url), {}, b"").url == url
    for url in ("http://10.2.0.1/", "http://127.0.0.2/", "http://corp:9000/", "https://hooks.internal/"):
        with pytest.raises(InvalidTask):
            rules.check(Webhook(url), {}, b"")
    corp = url_of("http://x.corp/")
    assert not rules.address_problem(corp, ip_address("127.0.0.9"))
    assert "a loopback address" in rules.address_problem(url_of("http://x.example/"), ip_address("127.0.0.9"))


def test_off_until_it_is_enabled():
    with pytest.raises(TypeDisabled, match=r"webhooks\.enabled: true"):
        WebhookRules().check(Webhook("https://example.com/"), {}, b"")


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ({"Host": b"x"}, "written by the node"),
        ({"content-length": b"1"}, "written by the node"),
        ({"Transfer-Encoding": b"chunked"}, "written by the node"),
        ({"webhook-id": b"1"}, "written by the node"),
        ({"Webhook-Signature": b"1"}, "written by the node"),
        ({"delaybox-attempt": b"1"}, "written by the node"),
        ({"x": b"a\r\ny: b"}, "line end"),
        ({"x": b"a\nb"}, "line end"),
        ({"x": b"a\0"}, "line end"),
        ({"x y": b"1"}, "no name"),
        ({"x:": b"1"}, "no name"),
        ({"": b"1"}, "no name"),
        ({"x": b"1", "X": b"2"}, "twice"),
    ],
)
def test_headers_that_would_change_the_request_are_refused(header: dict[str, bytes], words: str):
    with pytest.raises(InvalidTask, match=words):
        ON.check(Webhook("https://example.com/"), header, b"")


@pytest.mark.parametrize(
    ("asked", "payload", "field"),
    [
        (Webhook("https://example.com/", "TRACE"), b"", "method"),
        (Webhook("https://example.com/", "post"), b"", "method"),
        (Webhook("https://example.com/", "GET"), b"x", "method"),
        (Webhook("https://example.com/", "POST", (500,)), b"", "retry_on"),
        (Webhook("https://example.com/", "POST", tuple(range(400, 440))), b"", "retry_on"),
    ],
)
def test_other_wrong_parts_are_refused(asked: Webhook, payload: bytes, field: str):
    with pytest.raises(InvalidTask) as caught:
        ON.check(asked, {}, payload)
    assert caught.value.field == field
