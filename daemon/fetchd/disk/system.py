"""The file calls of the machine itself."""

from __future__ import annotations

import ctypes
import errno
import os
from typing import NoReturn

from fetchd.ports import Os
from fetchd.threads import DISK

_RENAME_NOREPLACE = 1
_KEEP_SIZE = 1  # FALLOC_FL_KEEP_SIZE
_LIBC = ctypes.CDLL(None, use_errno=True)


class SystemOs:
    """``ports.Os`` by the system calls of the same names, each a legal wait of its thread."""

    def open(self, path: str, flags: int, mode: int = 0o666, *, dir_fd: int | None = None) -> int:
        with DISK:
            return os.open(path, flags, mode, dir_fd=dir_fd)

    def read(self, fd: int, buffer: memoryview, offset: int, /) -> int:
        with DISK:
            return os.preadv(fd, [buffer], offset)

    def write(self, fd: int, data: memoryview, offset: int, /) -> int:
        with DISK:
            return os.pwrite(fd, data, offset)

    def allocate(self, fd: int, offset: int, size_bytes: int) -> None:
        # Not os.posix_fallocate: that lengthens the file, and writes zeros where it must.
        with DISK:
            while _LIBC.fallocate(
                ctypes.c_int(fd),
                ctypes.c_int(_KEEP_SIZE),
                ctypes.c_int64(offset),
                ctypes.c_int64(size_bytes),
            ):
                if ctypes.get_errno() != errno.EINTR:
                    _raise_errno()

    def truncate(self, fd: int, size_bytes: int) -> None:
        with DISK:
            os.ftruncate(fd, size_bytes)

    def fsync(self, fd: int) -> None:
        with DISK:
            os.fsync(fd)

    def mkdir(self, path: str, mode: int, *, dir_fd: int) -> None:
        with DISK:
            os.mkdir(path, mode, dir_fd=dir_fd)

    def rename(self, src: str, dst: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        with DISK:
            os.rename(src, dst, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

    def rename_new(self, src: str, dst: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        try:
            renameat2 = _LIBC.renameat2
        except AttributeError:  # a C library without it
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS)) from None
        with DISK:
            failed = renameat2(
                ctypes.c_int(src_dir_fd),
                ctypes.c_char_p(os.fsencode(src)),
                ctypes.c_int(dst_dir_fd),
                ctypes.c_char_p(os.fsencode(dst)),
                ctypes.c_uint(_RENAME_NOREPLACE),
            )
        if failed:
            _raise_errno()

    def link(self, src: str, dst: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        with DISK:
            os.link(src, dst, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd, follow_symlinks=False)

    def unlink(self, path: str, *, dir_fd: int) -> None:
        with DISK:
            os.unlink(path, dir_fd=dir_fd)

    def device(self, fd: int) -> int:
        return os.fstat(fd).st_dev

    def may_write(self, fd: int) -> bool:
        return os.access(".", os.W_OK | os.X_OK, dir_fd=fd, effective_ids=True)

    def free_bytes(self, fd: int) -> int:
        space = os.fstatvfs(fd)
        return space.f_bavail * space.f_frsize

    def capacity_bytes(self, fd: int) -> int:
        space = os.fstatvfs(fd)
        return space.f_blocks * space.f_frsize


def write_all(system: Os, fd: int, data: memoryview, offset: int) -> None:
    """Write until nothing is left, as one call may not; raises OSError."""
    while data:
        try:
            written = system.write(fd, data, offset)
        except InterruptedError:
            continue
        if written == len(data):
            return
        if written == 0:
            raise OSError(errno.EIO, "the disk takes no bytes")
        data = data[written:]
        offset += written


def _raise_errno() -> NoReturn:
    number = ctypes.get_errno()
    raise OSError(number, os.strerror(number))
