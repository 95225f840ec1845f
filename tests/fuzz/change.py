"""What can be done to a list of parts, and to the bytes in one."""

import random
import struct
from collections.abc import Callable

EXTREMES = (0, 1, 2, 3, 7, 8, 127, 128, 255, 256, 4095, 32767, 32768, 65535, 65536, 2**24)
EXTREMES += (2**31 - 1, 2**31, 2**32 - 1)

Part = tuple[bytes, bytes]
"""A name and its content."""


def number(rng: random.Random, size: int = 4) -> int:
    """An extreme number of so many bytes, or any."""
    top = 256**size - 1
    return min(top, rng.choice(EXTREMES)) if rng.random() < 0.8 else rng.randint(0, top)


def content(rng: random.Random, data: bytes) -> bytes:
    """The bytes of a part, changed in one to four places."""
    found = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(found) + 1)
        match rng.randrange(7):
            case 0:
                found[at : at + 1] = bytes([rng.randrange(256)])
            case 1 if at < len(found):
                found[at] ^= 1 << rng.randrange(8)
            case 2:
                del found[at : at + rng.choice((1, 2, 4, 16))]
            case 3:
                found[at:at] = found[: rng.randint(1, 8)]
            case 4:
                form = rng.choice((">I", "<I", ">H", "<H"))
                found[at : at + struct.calcsize(form)] = struct.pack(
                    form, number(rng, struct.calcsize(form))
                )
            case 5:
                del found[at:]
            case _:
                found += bytes(rng.choice((1, 8, 300)))
    return bytes(found)


def parts(rng: random.Random, sound: list[Part], others: list[Part]) -> list[Part]:
    """A list of parts, changed one to three times; ``others`` may be put among them."""
    found = list(sound)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(found)) if found else 0
        match rng.randrange(8):
            case 0 if found:
                del found[at]
            case 1 if found:
                found.insert(rng.randint(0, len(found)), found[at])
            case 2 if found:
                other = rng.randrange(len(found))
                found[at], found[other] = found[other], found[at]
            case 3 if found:
                found[at] = (rng.choice(sound)[0], found[at][1])
            case 4 if others:
                found.insert(at, rng.choice(others))
            case 5 if found:
                found[at] = (found[at][0], b"")
            case _ if found:
                found[at] = (found[at][0], content(rng, found[at][1]))
    return found


def perhaps_raw(rng: random.Random, build: Callable[[], bytes]) -> bytes:
    """What was built, sometimes with its bytes changed as well."""
    data = build()
    return content(rng, data) if rng.random() < 0.15 else data
