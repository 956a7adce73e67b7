"""Opening an arbitrary file or object: its video stream, ready to decode, or a `VideoError` with the reason.

Local files are read by FFmpeg itself; objects of a store through a stream of ranges (`curate.video.remote`), whose
transient errors are raised as StoreError.
"""

from __future__ import annotations

import os
from typing import Any

import av
from av.stream import Discard, Disposition

from curate.base.store import StoreError, shown
from curate.base.store.ranges import Ranges
from curate.video.remote import entry_of, is_remote, reader

__all__ = ["MAX_PIXELS", "VideoError", "open_video", "printable"]

MAX_PIXELS = 8192 * 4320
REJECTED_FORMATS = {
    "hls",
    "concat",
    "dash",
    "tty",
    "image2",
    "lavfi",
    "sdp",
    "rtsp",
    "imf",
}  # these open other files, or are texts


class VideoError(Exception):
    """A file that cannot be used. The message names the file, the reason, and the fix where there is one."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{printable(path)}: {reason}")
        self.path, self.reason = path, reason

    def __reduce__(self) -> tuple:
        return VideoError, (self.path, self.reason)


def printable(path: str) -> str:
    """The path on one line, whatever its bytes; of a URL what `shown` leaves."""
    return os.fsencode(shown(path)).decode("utf-8", "backslashreplace").replace("\n", "\\n").replace("\r", "\\r")


def open_video(
    path: str,
    *,
    threads: int = 1,
    max_pixels: int = MAX_PIXELS,
    container_options: dict[str, str] | None = None,
    through: bool = False,
    keep: bool = False,
    source: Ranges | None = None,
) -> tuple[Any, Any]:
    """(container, its video stream), ready to decode; the caller closes the container.

    path: or URL. through, keep: of a URL, see `curate.video.remote.reader`. source: a stream of it to read from. Raises
    VideoError, and StoreError.
    """
    check_file(path)
    if source is None and is_remote(path):
        source = reader(path, through=through, keep=keep)
    try:
        container = av.open(
            source or "file:" + path,
            options={"max_pixels": str(max_pixels)},
            container_options={"protocol_whitelist": "none" if source else "file", **(container_options or {})},
            metadata_errors="replace",
        )
    except (av.FFmpegError, ValueError, UnicodeError) as error:
        raise VideoError(path, unreadable_reason(path, error)) from None
    try:
        return container, video_stream(path, container, threads, max_pixels)
    except BaseException:
        container.close()
        raise


def check_file(path: str) -> None:
    """Raise VideoError for problems that the file system, or the store, reports."""
    if is_remote(path):
        return check_object(path)
    if os.path.islink(path) and not os.path.exists(path):
        raise VideoError(path, f"is a link to {printable(os.readlink(path))}, which does not exist")
    if not os.path.exists(path):
        raise VideoError(path, "there is no such file")
    if os.path.isdir(path):
        raise VideoError(path, "is a folder, not a video file")
    if not os.path.isfile(path):
        raise VideoError(path, "is not a regular file")
    if not os.access(path, os.R_OK):
        raise VideoError(path, "may not be read (permission denied); give this user the right to read it")
    if os.path.getsize(path) == 0:
        raise VideoError(path, "is empty (0 bytes); copy or download it again")


def check_object(url: str) -> None:
    try:
        size = entry_of(url).bytes
    except FileNotFoundError:
        raise VideoError(url, "there is no such object") from None
    except StoreError as error:
        if error.transient:
            raise
        raise VideoError(url, str(error).removeprefix(f"{url}: ")) from None
    if size == 0:
        raise VideoError(url, "is empty (0 bytes); copy or upload it again")


def unreadable_reason(path: str, error: Exception) -> str:
    """Why FFmpeg could not open a file, from its first bytes."""
    with reader(path) if is_remote(path) else open(path, "rb") as stream:
        head = stream.read(4096)
    if head[4:8] in (b"ftyp", b"mdat", b"free", b"wide") and isinstance(error, av.InvalidDataError):
        return "is cut short: an MP4/MOV without its index (moov), which nothing can be read without; get it again"
    if isinstance(error, av.EOFError):
        return "ends before its header does: it was cut short; get it again"
    if not any(byte < 9 or 13 < byte < 32 for byte in head):
        return "is a text, not a video"
    if isinstance(error, av.InvalidDataError):
        return "is not a video that FFmpeg knows, or its header is damaged"
    return f"FFmpeg cannot open it ({getattr(error, 'strerror', None) or error})"


def video_stream(path: str, container: Any, threads: int, max_pixels: int) -> Any:
    """The video stream to decode, chosen as by players: the default one, else the first; never a cover picture."""
    form = container.format.name
    if REJECTED_FORMATS & set(form.split(",")):
        raise VideoError(path, f"is not a video but a list or text of kind {form}; name the video files themselves")
    streams = list(container.streams.video)
    real = [s for s in streams if not s.disposition & Disposition.attached_pic]
    if not real:
        have = sorted({s.type for s in container.streams})
        what = "only a cover picture" if streams else "no video stream" + (f" (only {', '.join(have)})" if have else "")
        raise VideoError(path, f"has {what}")
    stream = max(real, key=lambda s: (bool(s.disposition & Disposition.default), -s.index))
    context = stream.codec_context
    if context is None:
        raise VideoError(path, "has a video codec that this FFmpeg cannot decode; convert it, for example to H.264")
    if area(stream) > max_pixels:
        raise VideoError(
            path,
            f"promises pictures of {context.width} x {context.height}, more than decode.max_pixels = {max_pixels}; "
            "raise it if the file can be trusted",
        )
    if area(stream) <= 0:
        raise VideoError(
            path,
            f"has pictures of no size, or of more than decode.max_pixels = {max_pixels} px: damaged, or no video",
        )
    context.thread_count = threads
    context.thread_type = "SLICE" if threads == 1 else "AUTO"
    context.options = {"max_pixels": str(max_pixels)}
    for other in container.streams:
        if other.index != stream.index:
            other.discard = Discard.all
    return stream


def area(stream: Any) -> int:
    context = stream.codec_context
    return context.width * context.height if context is not None else 0
