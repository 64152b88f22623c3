"""An upload, written to the disk as it comes in: no file in memory, no name of the sender's, stopped at the caps."""

from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from medssl.runtime.server.desk import RefusedError
from medssl.runtime.server.folders import LOOK_BYTES, suffix_of
from medssl.runtime.server.options import LimitOptions

if TYPE_CHECKING:
    from starlette.requests import Request

_LONGEST_FIELD = 4096
_MOST_FIELDS = 16
_FIELDS = ("model", "series", "channels")
"""Fields that mean something; others are read and forgotten."""


class Received(NamedTuple):
    """What came beside the content of the files: known fields, and the files' names, which must not get to the disk."""

    fields: dict[str, str]
    names: list[str]


class _Parts:
    """Callbacks of the parser: files go to numbered files, other fields to `fields`."""

    def __init__(self, folder: Path, limits: LimitOptions) -> None:
        self.received = Received({}, [])
        self._texts = 0
        self._folder, self._limits = folder, limits
        self._header, self._value, self._disposition = b"", b"", b""
        self._sink: IO[bytes] | None = None
        self._field, self._text = "", b""

    def begin(self) -> None:
        self._disposition = b""

    def header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header, self._value = b"", b""

    def headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._field, self._text = options.get(b"name", b"").decode("utf-8", "replace"), b""
        if b"filename" not in options:
            self._texts += 1
            if self._texts > _MOST_FIELDS:
                raise RefusedError(f"more than {_MOST_FIELDS} fields", reason="bad-upload", status=400)
            return
        name = options[b"filename"].decode("utf-8", "replace")
        self.received.names.append(name)
        number = len(self.received.names)
        if number > self._limits.files:
            raise RefusedError(
                f"an upload may hold {self._limits.files} files: send a zip file or fewer",
                reason="too-many-files",
                status=413,
            )
        self._sink = (self._folder / f"{number:06d}{suffix_of(name)}").open("wb")

    def data(self, data: bytes, start: int, end: int) -> None:
        if self._sink is not None:
            self._sink.write(data[start:end])
            return
        self._text += data[start:end]
        if len(self._text) > _LONGEST_FIELD:
            raise RefusedError(f"a field is longer than {_LONGEST_FIELD} bytes", reason="bad-upload", status=400)

    def part_end(self) -> None:
        if self._sink is None and self._field in _FIELDS:
            self.received.fields[self._field] = self._text.decode("utf-8", "replace")
        self.close()

    def close(self) -> None:
        if self._sink is not None:
            self._sink.close()
            self._sink = None


async def receive(request: "Request", folder: Path, limits: LimitOptions, check_disk: Callable[[], None]) -> Received:
    """Write the files of a multipart upload into a folder.

    Args:
        request: Its body is read as it comes in.
        folder: Where to write, as `000001.nii.gz` and so on.
        limits: Caps.
        check_disk: Raises where the disk gets full.

    Raises:
        RefusedError: No multipart form, no file, beyond the caps, or the disk gets full.
    """
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        raise RefusedError(
            "a multipart/form-data upload is due, with `files` and `model`", reason="bad-upload", status=400
        )
    most = int(limits.upload_mb * 2**20)
    too_large = RefusedError(f"an upload may have {limits.upload_mb:g} MiB", reason="too-large", status=413)
    length = request.headers.get("content-length", "0")
    if length.isdecimal() and int(length) > most:
        raise too_large
    parts = _Parts(folder, limits)
    callbacks = {
        "on_part_begin": parts.begin, "on_header_field": parts.header_field, "on_header_value": parts.header_value,
        "on_header_end": parts.header_end, "on_headers_finished": parts.headers_finished, "on_part_data": parts.data,
        "on_part_end": parts.part_end,
    }  # fmt: skip
    size, ended = 0, []
    try:
        parser = MultipartParser(options[b"boundary"], {**callbacks, "on_end": lambda: ended.append(True)})  # type: ignore[arg-type]
        async for block in request.stream():
            size += len(block)
            if size > most:
                raise too_large
            if size // LOOK_BYTES > (size - len(block)) // LOOK_BYTES:
                check_disk()
            parser.write(block)
    except FormParserError as error:
        raise RefusedError("the upload is no well-formed multipart form", reason="bad-upload", status=400) from error
    finally:
        parts.close()
    if not ended or not parts.received.names:
        what = "ended too early" if not ended else "holds no file"
        raise RefusedError(f"the upload {what}", reason="bad-upload", status=400)
    return parts.received
