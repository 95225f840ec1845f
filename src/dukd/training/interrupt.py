"""SIGINT and SIGTERM: the first stops training after the step, the second ends the process."""

import os
import signal
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType

from dukd.core.distributed import World

_ECHO = 2.0
"""Seconds within which a second signal to a rank is the launcher's."""


@contextmanager
def stopping(world: World) -> Generator[threading.Event, None, None]:
    """Turn the first SIGINT or SIGTERM into a wish to stop; the second ends the process.

    A launcher of several ranks passes on what the terminal has sent to each: that repeats a wish,
    and does not count as the second one.
    """
    stop = threading.Event()
    wished = 0.0
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def wish(number: int, frame: FrameType | None) -> None:
        nonlocal wished
        del frame
        now = time.monotonic()
        if stop.is_set() and (world.size == 1 or now - wished > _ECHO):
            os._exit(128 + number)
        wished = now
        stop.set()

    before = {number: signal.signal(number, wish) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
