"""Which network interface the processes of several machines meet over."""

import os
import socket
import struct
import sys
from collections.abc import Sequence


def choose_interface(addresses: Sequence[str]) -> str:
    """Tell gloo the interface that leads to the other machines, where it would take the loopback by
    itself: it listens at what the machine's own name means, which on Debian is 127.0.1.1.

    addresses: other machines' names or IPv4 addresses, of which those of the loopback count for
    nothing. Returns the interface's name; "" where there is nothing to choose.
    """
    if "GLOO_SOCKET_IFNAME" in os.environ or not _is_loopback(socket.gethostname()):
        return ""
    for address in addresses:
        if interface := interface_of(own_address(address)):
            os.environ["GLOO_SOCKET_IFNAME"] = interface
            return interface
    return ""


def own_address(other: str) -> str:
    """The IPv4 address from which this machine speaks to another, "" if there is no way to it."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((other, 9))  # of UDP: nothing is sent
            return str(probe.getsockname()[0])
    except OSError:
        return ""


def interface_of(address: str) -> str:
    """Name of the interface that has this IPv4 address; "" for the loopback's and for none."""
    if sys.platform != "linux" or not address or address.startswith("127."):
        return ""
    import fcntl

    get_address = 0x8915  # SIOCGIFADDR of linux/sockios.h
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            request = struct.pack("256s", os.fsencode(name)[:15])
            try:
                answer = fcntl.ioctl(probe.fileno(), get_address, request)
            except OSError:  # it has none
                continue
            if socket.inet_ntoa(answer[20:24]) == address:
                return name
    return ""


def _is_loopback(name: str) -> bool:
    try:
        return socket.gethostbyname(name).startswith("127.")
    except OSError:
        return True  # then gloo takes it as well
