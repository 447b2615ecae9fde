"""file: the bytes of a file below a download root, as if an origin had sent them."""

from __future__ import annotations

from collections.abc import Callable
from email.utils import formatdate

from fetchd.errors import AttemptError, ValueProblem
from fetchd.model import Validator
from fetchd.ports import LocalFile, LocalFiles, RangeRefused, Request
from fetchd.transports.deadlines import Deadlines, Watch
from fetchd.urls import check_url, local_path


class FileStream:
    """The bytes of one version of a file (``ports.Stream``); owns ``file`` and ``watch``."""

    held_s = 0.0  # whoever holds it back wraps it

    def __init__(self, file: LocalFile, watch: Watch, request: Request) -> None:
        self.total: int | None = file.size_bytes
        self.framed = True
        self.content_type: str | None = None
        self.final_url = request.url
        self.wish: tuple[str, float] | None = None
        self.file_name: str | None = None
        etag = f'"{file.version}"'
        self.validator = Validator(
            etag=etag, last_modified=formatdate(file.modified_at_s, usegmt=True)
        )
        self.not_modified = request.unless is not None and request.unless.etag == etag
        self.start = request.start if request.if_range in {None, etag} else 0
        if self.start and self.start >= file.size_bytes:
            raise RangeRefused(file.size_bytes)
        self._file: LocalFile | None = file  # None: closed
        self._watch = watch
        self._stall_s = request.stall_s
        self._offset = self.start
        self._size_bytes = min(file.size_bytes, request.stop or file.size_bytes)

    def readinto(self, buffer: memoryview) -> int:
        if self._file is None or self.not_modified:
            return 0
        left = self._size_bytes - self._offset
        self._watch.begin(self._stall_s, "stalled", f"no data for {self._stall_s:g} s from a file")
        count = self._file.readinto(buffer[:left], self._offset) if left else 0
        self._watch.end()
        if count == 0 and self._file.changed():
            raise AttemptError("bad_response", "the file was changed while it was read")
        if count == 0 and left:
            raise AttemptError(
                "short_body", f"the file ended at byte {self._offset} of {self._size_bytes}"
            )
        self._offset += count
        return count

    def close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()
            self._watch.close()


class FileTransport:
    """``ports.Transport`` for file. Any thread.

    There are no redirects: nothing that a server says leads here.
    """

    def __init__(self, *, files: LocalFiles | None, deadlines: Deadlines, **_: object) -> None:
        """``files`` None: there are none."""
        self._files = files
        self._deadlines = deadlines

    def open(self, request: Request, wanted: Callable[[], bool]) -> FileStream:
        try:
            path = local_path(check_url(request.url))
        except ValueProblem as exc:
            raise AttemptError("bad_item", str(exc)) from None
        if self._files is None or path is None:
            raise AttemptError("scheme_denied", "no local files are read here")
        watch = self._deadlines.watch(wanted, request.deadline_s)
        try:
            watch.begin(request.stall_s, "stalled", "the file took too long to open")
            file = self._files.open_file(path)
            try:
                watch.end()
                return FileStream(file, watch, request)
            except BaseException:
                file.close()
                raise
        except BaseException:
            watch.close()
            raise

    def close(self) -> None:
        """Nothing is kept open between attempts."""
