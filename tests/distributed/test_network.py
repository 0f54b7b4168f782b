"""The interface over which the processes of several machines meet."""

import os
import socket

import psutil
import pytest

from maskrestore.distributed.network import choose_interface, interface_of, own_address

ADDRESSES = {
    name: address.address
    for name, addresses in psutil.net_if_addrs().items()
    for address in addresses
    if address.family == socket.AF_INET and not address.address.startswith("127.")
}
ON_A_NETWORK = pytest.mark.skipif(not ADDRESSES, reason="this machine is on no network")


@pytest.fixture(autouse=True)
def _not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "to be deleted")  # so that it is put back
    monkeypatch.delenv("GLOO_SOCKET_IFNAME")


def named(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    """This machine's own name means that address, as /etc/hosts can say."""
    meant = socket.gethostbyname
    own = socket.gethostname()
    monkeypatch.setattr(
        socket, "gethostbyname", lambda name: address if name == own else meant(name)
    )


@ON_A_NETWORK
def test_every_address_has_its_interface() -> None:
    assert {address: interface_of(address) for address in ADDRESSES.values()} == {
        address: name for name, address in ADDRESSES.items()
    }


@ON_A_NETWORK
def test_where_the_own_name_is_the_loopback_the_way_to_others_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    named(monkeypatch, "127.0.1.1")
    name, address = next(iter(ADDRESSES.items()))
    assert own_address(address) == address
    assert choose_interface(["127.0.1.1", "no-such-host.invalid", address]) == name
    assert os.environ["GLOO_SOCKET_IFNAME"] == name


@ON_A_NETWORK
@pytest.mark.parametrize("told", ["", "eth7"])
def test_what_is_right_or_told_stays(told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    address = next(iter(ADDRESSES.values()))
    named(monkeypatch, "127.0.1.1" if told else address)
    if told:
        monkeypatch.setenv("GLOO_SOCKET_IFNAME", told)
    assert choose_interface([address]) == ""
    assert os.environ.get("GLOO_SOCKET_IFNAME", "") == told


def test_no_way_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    named(monkeypatch, "127.0.1.1")
    assert interface_of("") == interface_of("127.0.0.1") == ""
    assert choose_interface(["no-such-host.invalid", "127.0.0.1"]) == ""
    assert "GLOO_SOCKET_IFNAME" not in os.environ
