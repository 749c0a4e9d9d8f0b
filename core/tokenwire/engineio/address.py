"""Whom a request counts for: the client's address, also behind proxies.

Rules of this file: the address is the socket's peer. Only if that is a proxy that the operator
trusts are its header fields read, from the right: what stands left of the first address that is no
trusted proxy's was written by who knows whom. IPv6 counts by its /64, which is what one customer
gets (RFC 6177), IPv4 in IPv6's clothes as IPv4. An address is never shown or logged.
"""

import ipaddress
import re
from collections.abc import Iterator

from tokenwire.types import Request

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_MAPPED_BITS = 96  # of ::ffff:0:0/96
_IPV6_BYTES = 8  # of a /64
# RFC 7239 6, and as X-Forwarded-For has it: IPv6 without brackets too, or with a port behind them.
_NODE = re.compile(
    r"\[([0-9A-Fa-f:.]+)\](?::[0-9]{1,5})?|([0-9.]+)(?::[0-9]{1,5})?|([0-9A-Fa-f:.]+)"
)
_PAIR = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+)=([!#$%&'*+.^_`|~0-9A-Za-z-]+|\"[^\"\\]*\")")


def parse_network(text: str) -> _Network:
    """Return an address or a network (`10.0.0.0/8`) as a network.

    Raises:
        ValueError: it is neither.
    """
    network = ipaddress.ip_network(text)
    if isinstance(network, ipaddress.IPv6Network) and network.prefixlen >= _MAPPED_BITS:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return ipaddress.IPv4Network((mapped, network.prefixlen - _MAPPED_BITS))
    return network


class Addresses:
    """Finds the addresses of clients."""

    __slots__ = ("_trusted",)

    def __init__(self, trusted_proxies: tuple[str, ...]) -> None:
        """
        Args:
            trusted_proxies: addresses and networks.

        Raises:
            ValueError: one of them is neither.
        """
        self._trusted = tuple(map(parse_network, trusted_proxies))

    def of(self, request: Request) -> bytes | None:
        """Return what a request is counted by; None: this machine itself, which nobody counts."""
        peer = _address(request.peer.host or "")
        if peer is None:  # a Unix socket
            return None
        if not self._trusts(peer):
            return _counted(peer)
        client = peer
        for hop in _hops(request):
            address = _address(hop)
            if address is None:  # not from this machine, whoever it was
                return _key(peer)
            client = address
            if not self._trusts(address):
                break
        return _counted(client)

    def _trusts(self, address: _Address) -> bool:
        return any(address in network for network in self._trusted)


def _counted(address: _Address) -> bytes | None:
    return None if address.is_loopback else _key(address)


def _key(address: _Address) -> bytes:
    return address.packed[:_IPV6_BYTES]  # IPv4 has 4


def _address(text: str) -> _Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _hops(request: Request) -> Iterator[str]:
    """Yield who sent the request to whom, the nearest first; empty: it is no address.

    X-Forwarded-For goes before Forwarded (RFC 7239): a proxy that writes the one lets the client's
    own of the other pass, and few write the other.
    """
    for name, read in (("x-forwarded-for", _node), ("forwarded", _forwarded_for)):
        lines = [value for key, value in request.headers if key == name]
        if lines:
            # A comma inside a quoted string cuts it, too: into pieces that cannot be read.
            yield from map(read, reversed(",".join(lines).split(",")))
            return


def _node(text: str) -> str:
    match = _NODE.fullmatch(text.strip())
    return "" if match is None else match[1] or match[2] or match[3]


def _forwarded_for(element: str) -> str:
    """Return the address of one element of Forwarded."""
    found: list[str] = []
    for text in element.split(";"):
        match = _PAIR.fullmatch(text.strip())
        if match is None:
            return ""
        if match[1].lower() == "for":
            found.append(_node(match[2].strip('"')))
    return found[0] if len(found) == 1 else ""
