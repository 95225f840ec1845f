"""Text files that know their own checksum, so that an altered one is noticed.

``experiment.yaml`` begins with a comment that holds the format of the run directory and the SHA-256
of what follows; ``run.json`` has a key ``sha256`` of the other keys; a line of the log ends with
its CRC-32. A file that an editor changed is refused like one that the disk changed.
"""

import hashlib
import json
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, cast

from dukd.core.text import strict
from dukd.runs.checkpoint import CheckpointError

FORMAT = 2
"""Version of run directories; those of other versions are refused."""

_HEADER = re.compile(r"# dukd run, format (\d+), sha256 of the lines below: ([0-9a-f]{64})\n")
_CRC = re.compile(rb', "crc": "([0-9a-f]{8})"\}$')


class Signed(NamedTuple):
    """A text as it was written."""

    text: str
    sha256: str


def with_header(text: str) -> str:
    """The text below a line that holds the format and the text's SHA-256."""
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f"# dukd run, format {FORMAT}, sha256 of the lines below: {digest}\n{text}"


def read_with_header(path: Path) -> Signed:
    """Read what ``with_header`` gave, without the header.

    Raises:
        CheckpointError: If it was altered, or is of another format.
        OSError: If it cannot be read.
    """
    content = path.read_bytes().decode(errors="replace")
    header = _HEADER.match(content)
    run = path.parent
    if header is None or int(header[1]) < FORMAT:
        raise CheckpointError(
            f"{run} is a run of an older version of dukd, or {path.name} lost its first line: read "
            "it with that version, or train it again"
        )
    if int(header[1]) > FORMAT:
        raise CheckpointError(
            f"{run} is a run of a later version of dukd (format {header[1]}): update dukd"
        )
    text = content[header.end() :]
    if hashlib.sha256(text.encode()).hexdigest() != header[2]:
        raise CheckpointError(
            f"{path} was altered since the run began, as its checksum shows: bring the old file "
            "back, or copy it to another place and begin another run with it"
        )
    return Signed(text, header[2])


def with_digest(record: Mapping[str, object]) -> str:
    """A JSON object with the SHA-256 of its other keys under ``sha256``."""
    plain = cast("dict[str, object]", strict(record))
    return _json(plain | {"sha256": _digest(plain)})


def read_with_digest(path: Path) -> dict[str, object]:
    """Read what ``with_digest`` gave, without the digest.

    Raises:
        CheckpointError: If it was altered.
        OSError: If it cannot be read.
    """
    try:
        record = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged ({error}): {_REMEDY}") from error
    if not isinstance(record, dict):
        raise CheckpointError(f"{path} holds no JSON object: {_REMEDY}")
    plain = cast("dict[str, object]", record)
    if plain.pop("sha256", None) != _digest(plain):
        raise CheckpointError(f"{path} was altered, as its checksum shows: {_REMEDY}")
    return plain


_REMEDY = "`dukd train RUN --resume` writes it again"


def _digest(plain: Mapping[str, object]) -> str:
    return hashlib.sha256(_json(plain).encode()).hexdigest()


def _json(plain: Mapping[str, object]) -> str:
    return json.dumps(plain, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def with_crc(record: Mapping[str, object]) -> bytes:
    """A JSON object as one line that ends with its CRC-32."""
    plain = strict(record)
    line = json.dumps(plain, ensure_ascii=False, allow_nan=False, separators=(", ", ": ")).encode()
    return line[:-1] + f', "crc": "{zlib.crc32(line):08x}"}}\n'.encode()


def read_with_crc(line: bytes) -> dict[str, object]:
    """Read a line of ``with_crc``, without the CRC.

    Raises:
        ValueError: If it was altered; the message says how it shows.
    """
    found = _CRC.search(line)
    if found is None:
        raise ValueError("its checksum is missing")
    plain = line[: found.start()] + b"}"
    if zlib.crc32(plain) != int(found[1], 16):
        raise ValueError("its checksum is another one")
    return cast("dict[str, object]", json.loads(plain))
