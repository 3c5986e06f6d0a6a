"""Ports on loopback that are known before their server runs."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator


@contextlib.contextmanager
def hold_port(preferred: int = 0) -> Iterator[int]:
    """
    Keep a free port on 127.0.0.1 for a server to come, and yield it; until then connections are refused.

    A port that was merely found free may be somebody else's by the time the server has started. This one is
    bound, so that nobody is given it who asks for any port. It does not listen, so that a server gets it that
    asks for this very one with ``SO_REUSEADDR``, as Airflow's servers and Python's own do.

    :param preferred: the port to keep if it is free; otherwise, and with 0 (the default), any
    :raises OSError: when no port is free
    """
    is_free = False
    with contextlib.suppress(OSError), socket.socket() as probe:
        # Without SO_REUSEADDR, so that two processes do not hold the same port.
        probe.bind(("127.0.0.1", preferred))
        is_free = True
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", preferred if is_free else 0))
        yield int(held.getsockname()[1])
