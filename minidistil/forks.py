"""A lock that neither a fork nor a signal handler can leave locked."""

from __future__ import annotations

import os
import threading
from contextlib import AbstractContextManager


def fork_safe_lock() -> AbstractContextManager[bool]:
    """Return a lock, for a module, that its thread may take again and that is free in a forked child.

    A fork waits for the thread that holds the lock: that thread does not exist in the child, which would wait for
    it for ever. A signal handler may run while its own thread holds the lock.
    """
    lock = threading.RLock()
    if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
        os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)
    return lock
