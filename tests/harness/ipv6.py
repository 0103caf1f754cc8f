"""Whether this machine has IPv6."""

from __future__ import annotations

import socket

import pytest


def has_ipv6() -> bool:
    """Whether an address of the loopback can be bound."""
    try:
        with socket.socket(socket.AF_INET6) as one:
            one.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 loopback")
