"""Stretches of an enlarged video: files of some hundred frames that count once they are whole."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dukd.core import files
from dukd.deploy import frames
from dukd.images import Image

Codec = Literal["h264", "hevc", "ffv1"]

_ENCODERS = {"h264": "libx264", "hevc": "libx265", "ffv1": "ffv1"}
_DIGITS = 8


class VideoError(ValueError):
    """A video that cannot be read or written; the message says why."""


@dataclass(frozen=True, kw_only=True)
class VideoOptions:
    """How a video is written."""

    codec: Codec = "h264"
    """How frames are compressed; ffv1 loses nothing, and needs .mkv."""
    crf: int = 16
    """Quality of h264 and hevc, 0 to 51, lower is better and larger."""
    tile: int | None = None
    """Side of the pieces large frames are cut into, in pixels of the input."""

    def __post_init__(self) -> None:
        """Refuse what no encoder takes."""
        if not 0 <= self.crf <= 51:
            raise VideoError(f"--crf is 0 to 51, but got {self.crf}")


def in_order(folder: Path) -> list[Path]:
    """Finished stretches, in order, as far as they follow each other."""
    found: list[Path] = []
    next_one = 0
    for path in sorted(folder.glob("*-*.mkv")):
        if int(path.stem.split("-")[0]) == next_one:
            found.append(path)
            next_one += count(path)
    return found


def count(part: Path) -> int:
    """Frames of a finished stretch."""
    return int(part.stem.split("-")[1])


class Stretch:
    """A row of frames that is being written; it counts once it is closed."""

    def __init__(
        self,
        folder: Path,
        first: int,
        frame: Any,  # noqa: ANN401  of PyAV
        said: frames.Colors,
        options: VideoOptions,
    ) -> None:
        self.folder, self.first, self.count = folder, first, 0
        self.path = folder / f"{first:0{_DIGITS}}.unfinished"
        self.options, self.base = options, frame.time_base
        self.stream: Any
        self.container: Any = package().open(str(self.path), "w", format="matroska")
        self.said = said
        self.times: list[int] = []

    def add(self, image: Image, frame: Any, said: frames.Colors) -> None:  # noqa: ANN401
        """Encode an enlarged frame at the time of the original one."""
        if self.count == 0:
            self.stream = self._start(*image.pixels.shape[:2])
        made = frames.to_frame(image, said, self.stream.pix_fmt)
        made.pts, made.time_base = frame.pts, self.base
        if self.count == 0:
            made.pict_type = 1  # a key frame
        self.count += 1
        self.times.append(frame.pts)
        for packet in self.stream.encode(made):
            self.container.mux(packet)

    def _start(self, height: int, width: int) -> Any:  # noqa: ANN401  of PyAV
        said, options = self.said, self.options
        settings = {"crf": str(options.crf), "bf": "0"} if options.codec != "ffv1" else {}
        if options.codec == "hevc":
            settings["x265-params"] = "bframes=0:log-level=error"
        stream = self.container.add_stream(_ENCODERS[options.codec], options=settings)
        stream.width, stream.height = width, height
        whole = height % 2 or width % 2 or options.codec == "ffv1"
        stream.pix_fmt = f"yuv4{'44' if whole else '20'}p{'10le' if said.deep else ''}"
        stream.codec_context.time_base = stream.time_base = self.base
        stream.codec_context.colorspace = said.matrix
        stream.codec_context.color_range = 2 if said.full else 1
        context = stream.codec_context
        context.color_primaries, context.color_trc = said.primaries, said.transfer
        return stream

    def close(self) -> None:
        """Finish the file, and let it count."""
        for packet in self.stream.encode():
            self.container.mux(packet)
        self.container.close()
        files.sync(self.path)
        part = self.folder / f"{self.first:0{_DIGITS}}-{self.count:0{_DIGITS}}.mkv"
        times = {"base": self.base.as_integer_ratio(), "times": self.times}
        files.write_text(part.with_suffix(".json"), json.dumps(times))  # Matroska rounds them to ms
        self.path.rename(part)

    def drop(self) -> None:
        """Throw away what is unfinished."""
        self.container.close()
        self.path.unlink(missing_ok=True)


def times(part: Path) -> dict[str, Any]:
    """The exact times of a stretch's frames, and their unit in seconds."""
    found: dict[str, Any] = json.loads(part.with_suffix(".json").read_text(encoding="utf-8"))
    return found


def package() -> Any:  # noqa: ANN401  a module that may be missing
    """PyAV; a `VideoError` where it is missing."""
    try:
        import av  # noqa: PLC0415  an optional package
        import av.logging  # noqa: PLC0415  likewise
    except ImportError as error:
        raise VideoError(f"videos need {error.name}: pip install 'dukd[video]'") from None
    av.logging.set_level(None)
    return av
