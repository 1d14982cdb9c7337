"""Which network addresses a webhook may be sent to. Pure.

An address is judged by what a router makes of it: an IPv6 address that carries an IPv4 address (v4-mapped, NAT64, 6to4,
Teredo) is judged by the address that it carries.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# What Python's is_global lets pass, or what it has not known in every version.
_NOT_PUBLIC: Final = tuple(
    ip_network(text)
    for text in (
        "0.0.0.0/8",
        "100.64.0.0/10",
        "192.0.0.0/24",
        "192.88.99.0/24",
        "198.18.0.0/15",
        "240.0.0.0/4",
        "64:ff9b:1::/48",
        "100::/64",
        "2001:2::/48",
        "2001:10::/28",
        "2001:20::/28",
        "2001:db8::/32",
        "3fff::/20",
        "5f00::/16",
        "fec0::/10",
    )
)
_V6_UNICAST: Final = IPv6Network("2000::/3")
_NAT64: Final = IPv6Network("64:ff9b::/96")
_V4_COMPATIBLE: Final = IPv6Network("::/96")
_ISATAP: Final = (0x00005EFE, 0x02005EFE)


def problem(address: Address, allowed: Sequence[Network] = ()) -> str:
    """Why nothing may be sent to the address, such as "it is a private address"; '' when it may.

    ``allowed``: networks to which sending is permitted whatever they are.
    """
    if any(_within(address, network) for network in allowed):
        return ""
    carried = tuple(_carried(address))
    if not carried:
        return _own_problem(address)
    for inner in carried:
        if any(_within(inner, network) for network in allowed):
            continue
        if found := _own_problem(inner):
            return f"it leads to {inner}, and {found}"
    return ""


def _within(address: Address, network: Network) -> bool:
    return address.version == network.version and address in network


def _carried(address: Address) -> Iterator[IPv4Address]:
    """The IPv4 addresses in an IPv6 address that is only a way to them."""
    if isinstance(address, IPv4Address):
        return
    low = int(address) & 0xFFFFFFFF
    if address.ipv4_mapped is not None:
        yield address.ipv4_mapped
    elif address.sixtofour is not None:
        yield address.sixtofour
    elif address.teredo is not None:
        yield from address.teredo
    elif address in _NAT64 or (address in _V4_COMPATIBLE and low > 1) or int(address) >> 32 & 0xFFFFFFFF in _ISATAP:
        yield IPv4Address(low)


# Each webhook asks it of its host's address.
@lru_cache(maxsize=4096)
def _own_problem(address: Address) -> str:
    if address.is_loopback:
        return "it is a loopback address"
    if address.is_link_local:
        return "it is a link-local address"
    if address.is_multicast:
        return "it is a multicast address"
    if address.is_unspecified:
        return "it is the unspecified address"
    if address.is_private:
        return "it is a private address"
    public = address.is_global and not address.is_reserved and not any(_within(address, net) for net in _NOT_PUBLIC)
    if isinstance(address, IPv6Address):
        public = public and address in _V6_UNICAST and address.scope_id is None
    return "" if public else "it is not a public address"


@lru_cache(maxsize=4096)
def literal(host: str) -> Address | None:
    """The address that a URL's host spells, without brackets; None for a name."""
    try:
        return ip_address(host)
    except ValueError:
        return None
