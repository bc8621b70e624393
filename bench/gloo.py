"""Starts several processes of one run on this machine, as torchrun does, forked from one that has imported everything."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any

from torch.multiprocessing.spawn import start_processes


def together(size: int, work: Callable[..., None], *arguments: object) -> None:
    """Do `work(*arguments)` in `size` processes, which Lightning finds to be ranks of one run; the first failure is raised here.

    A single process is forked too, so that no run sees what another has left.
    """
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    start_processes(_rank, (size, port, work, arguments), nprocs=size, start_method="fork")


def _rank(rank: int, size: int, port: int, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    if size > 1:
        ranks = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "together"}
        os.environ.update({name: str(value) for name, value in (ranks | place).items()})
    work(*arguments)
