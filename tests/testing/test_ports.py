"""A port is kept until its server comes."""

from __future__ import annotations

import socket

import pytest

from airflow_provider_personalize_segments.testing import LocalPersonalize
from airflow_provider_personalize_segments.testing.ports import hold_port


def listens(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_refuses_connections_until_a_server_comes_and_again_when_it_is_gone():
    with hold_port() as port:
        assert not listens(port)
        for _ in range(2):
            with LocalPersonalize(port=port):
                assert listens(port)
            assert not listens(port)


def test_nobody_gets_it_who_does_not_ask_for_it_by_name():
    # What gives a port to those who ask for any, the kernel, takes none that this would be refused.
    with hold_port() as port, socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", port))


def test_the_preferred_one_unless_somebody_has_it():
    with hold_port() as port:
        with hold_port(port) as other:
            assert other not in (0, port)
        with LocalPersonalize(port=port), hold_port(port) as other:
            assert other not in (0, port)
    with hold_port(port) as same:
        assert same == port
