"""A device of this host for tests of its own directory of lock files, which other runs use, too."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from ai_otel.gpu.sharing.lock_files import hash_of, lock_directory


@contextmanager
def unique_device() -> Iterator[str]:
    """The UUID of a device that no other process of this host has; its lock files are removed at the end."""
    made = f"GPU-{uuid.uuid4()}"
    try:
        yield made
    finally:
        for path in lock_directory().glob(f"ai-otel-*-{hash_of(made)}.lock"):
            path.unlink()
