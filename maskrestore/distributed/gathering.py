"""How the processes of a run come together, and whom one waits for."""

import json
import os
import re
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import torch.distributed
from torch.distributed import (  # type: ignore[attr-defined]
    PrefixStore,
    Store,
    TCPStore,
    rendezvous,
)

from maskrestore.distributed.network import choose_interface, own_address
from maskrestore.distributed.places import ALONE, Place
from maskrestore.utils.errors import ConfigError

GONE = re.compile("Connection (closed|reset) by peer|remote process exited", re.IGNORECASE)
"""How gloo and NCCL say that the other end of a connection is no more."""
TOLD_AFTER, TOLD_AGAIN = 10.0, 60.0
"""Seconds of waiting after which it is said for whom, and said again."""


def gather_processes(place: Place, backend: str, device: str, patience: timedelta) -> None:
    """Wait until all processes of the run are there, and make them torch's process group.

    Python waits, so that signals do what they always do, and says for whom. device: what no other
    process may have as well, "" if they can share. Ends the process with status 1 if patience runs
    out: another start may find what was missing. Raises ConfigError for a device that is shared.
    """
    waiting = _Waiting(place, patience)
    store = _open_store(place, patience, waiting)
    try:
        told = [device, own_address(place.host), socket.gethostname()]
        store.set(f"here/{place.rank}", json.dumps(told))
        _wait_for_all(store, "here", place, waiting)
        ranks = range(place.num_processes)
        devices, addresses, hosts = zip(
            *(json.loads(store.get(f"here/{rank}")) for rank in ranks), strict=True
        )
        store.set(f"read/{place.rank}", "")
        if place.rank == 0:  # whose store all have to read before it may end
            _wait_for_all(store, "read", place, waiting)
    except RuntimeError as error:  # the process that keeps the store has ended
        raise waiting.in_vain(f"process 0 has gone ({str(error).splitlines()[0]})") from None
    if device:
        _check_apart(devices)
    away = [address for address, host in zip(addresses, hosts, strict=True) if host != told[2]]
    if away:
        choose_interface([*filter(None, away), place.host])
    torch.distributed.init_process_group(
        backend,
        store=PrefixStore("group", store),
        rank=place.rank,
        world_size=place.num_processes,
        timeout=patience,
    )


def _wait_for_all(store: Store, key: str, place: Place, waiting: "_Waiting") -> None:
    """Until every process has set `key`."""
    others = [rank for rank in range(place.num_processes) if rank != place.rank]
    while others := [rank for rank in others if not store.check([f"{key}/{rank}"])]:
        num_here = place.num_processes - len(others)
        shown = ", ".join(map(str, others[:8])) + (", ..." if len(others) > 8 else "")
        waiting.pause(
            f"{num_here} of {place.num_processes} processes are there, number {shown} not yet",
            is_told=place.rank == 0,
        )


def _check_apart(devices: Sequence[str]) -> None:
    """devices: of each process, as devices.device_identity says. ConfigError if two share one."""
    for rank, device in enumerate(devices):
        owner = devices.index(device)
        if owner == rank:
            continue
        host = device.partition(" ")[0]
        here = [other for other in devices if other.partition(" ")[0] == host]
        raise ConfigError(
            f"{host} has {len(here)} processes of this run, and they see {len(set(here))} GPUs: "
            f"{owner} and {rank} have the same one ({device}). Start one process per GPU that "
            "CUDA_VISIBLE_DEVICES names, or let it name more (accelerate launch --gpu_ids; "
            "slurm.gpus_per_node)"
        )


@contextmanager
def ended_with_others() -> Iterator[None]:
    """Within it, a process that hears by its connections that another one has ended (of whatever:
    that one says it, if it can) does so as well, with status 1 and one line."""
    try:
        yield
    except RuntimeError as error:
        gone = GONE.search(str(error))
        if gone is None:
            raise
        print(
            f"process {os.environ.get('RANK', '0')}: another process of this run has ended; if it "
            f"could, it says why ({gone[0]})",
            file=sys.stderr,
        )
        raise SystemExit(1) from error


def _open_store(place: Place, patience: timedelta, waiting: "_Waiting") -> Store:
    """The store that process 0 keeps, or under torchrun the launcher."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        store: Store = next(rendezvous("env://", timeout=patience))[0]
        return PrefixStore("places", store)
    if place.rank == 0:
        try:
            # Its own address, whatever others call this machine.
            return TCPStore(
                "127.0.0.1", place.port, place.num_processes, True, patience, wait_for_workers=False
            )
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise waiting.in_vain(f"process 0 cannot listen there: {reason}") from None
    while True:
        try:
            socket.create_connection((place.host, place.port), timeout=5).close()
            return TCPStore(
                place.host, place.port, place.num_processes, False, patience, wait_for_workers=False
            )
        except (OSError, RuntimeError) as error:
            waiting.pause(f"process 0 does not answer ({str(error).splitlines()[0]})")


class _Waiting:
    """Says what one waits for, and ends it when patience runs out."""

    def __init__(self, place: Place, patience: timedelta) -> None:
        self._who = f"process {place.rank} of {place.num_processes}"
        self._where = f"{place.host}:{place.port}"
        self._patience, self._began = patience.total_seconds(), time.monotonic()
        self._next = self._began + TOLD_AFTER

    def pause(self, what: str, is_told: bool = True) -> None:
        """A moment; from time to time, it is told."""
        now = time.monotonic()
        if now - self._began > self._patience:
            raise self.in_vain(what)
        if is_told and now > self._next:
            self._next = now + TOLD_AGAIN
            self._say(f"waiting since {now - self._began:.0f} seconds", what)
        time.sleep(0.1)

    def in_vain(self, what: str) -> SystemExit:
        """What to raise when it makes no sense to wait."""
        self._say("gave up", what)
        return SystemExit(1)

    def _say(self, how: str, what: str) -> None:
        is_slurm = "TORCHELASTIC_RUN_ID" not in os.environ and "SLURM_STEP_NUM_TASKS" in os.environ
        origin = "the step of SLURM" if is_slurm else "WORLD_SIZE"
        alone = ALONE + (" SLURM_STEP_NUM_TASKS" if is_slurm else "")
        print(
            f"{self._who} at {self._where}, {how}: {what}. {origin} says how many there are; "
            f"{alone}",
            file=sys.stderr,
            flush=True,
        )
