"""What comes again: kept in memory while there is room, so that it is made once."""

from collections.abc import Callable, Hashable
from threading import Lock
from typing import Generic, TypeVar, final

_Value = TypeVar("_Value")


@final
class Kept(Generic[_Value]):
    """Values by key, kept until a limit is reached; what comes later is made every time.

    Nothing is put out to make room: where everything comes again in turn, what is oldest is what
    is wanted next. Several threads may share one.

    Args:
        size: Bytes that a value takes.
        limit: Bytes that all of them may take.

    Example:
        >>> kept = Kept(len, limit=3)
        >>> [len(kept.get(n, lambda: bytes(n))) for n in (1, 2, 3, 1)], kept.bytes
        ([1, 2, 3, 1], 3)
    """

    def __init__(self, size: Callable[[_Value], int], limit: int) -> None:
        self._size, self._limit, self._lock = size, limit, Lock()
        self._values: dict[Hashable, _Value] = {}
        self.bytes = 0
        """What all values take."""

    def get(self, key: Hashable, make: Callable[[], _Value]) -> _Value:
        """The value of a key; it is shared, so leave it as it is."""
        with self._lock:
            if key in self._values:
                return self._values[key]
        value = make()
        size = self._size(value)
        with self._lock:
            if key not in self._values and self.bytes + size <= self._limit:
                self._values[key] = value
                self.bytes += size
        return value
