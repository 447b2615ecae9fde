"""Four ways of a large body from a socket into a file, side by side.

    make bench-bytes           (python tests/bench/byte_path.py --folder /dev/shm --mib 1024)

receive: recv_into of 1 MiB and pwrite; reserve: the same behind fallocate that leaves the length
alone, as transfers do; allocate: the same with posix_fallocate; splice: from socket to pipe to file
within the kernel. A process on loopback sends the bytes.
Prints the medians of wall and CPU time over the rounds, and their ratio to the first way, paired
by round.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import random
import socket
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

MIB = 1024 * 1024


def receive(sock: socket.socket, fd: int, size_bytes: int) -> None:
    buffer = memoryview(bytearray(MIB))
    offset = 0
    while offset < size_bytes:
        got = sock.recv_into(buffer)
        os.pwrite(fd, buffer[:got], offset)
        offset += got


def allocate(sock: socket.socket, fd: int, size_bytes: int) -> None:
    os.posix_fallocate(fd, 0, size_bytes)
    receive(sock, fd, size_bytes)


def reserve(sock: socket.socket, fd: int, size_bytes: int) -> None:
    """As ``allocate``, but the file grows only by what is written (FALLOC_FL_KEEP_SIZE)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.fallocate(fd, 1, ctypes.c_longlong(0), ctypes.c_longlong(size_bytes)):
        raise OSError(ctypes.get_errno(), "fallocate")
    receive(sock, fd, size_bytes)


def splice(sock: socket.socket, fd: int, size_bytes: int) -> None:
    source, sink = os.pipe()
    try:
        offset = 0
        while offset < size_bytes:
            left = os.splice(sock.fileno(), sink, MIB)
            while left:
                moved = os.splice(source, fd, left, offset_dst=offset)
                offset += moved
                left -= moved
    finally:
        os.close(source)
        os.close(sink)


WAYS: dict[str, Callable[[socket.socket, int, int], None]] = {
    "receive": receive,
    "allocate": allocate,
    "reserve": reserve,
    "splice": splice,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", help="where the file is written (a temporary folder)")
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    took: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for number in range(options.rounds + 1):
            for way in random.sample(list(WAYS), len(WAYS)):
                found = timed(way, Path(folder) / way, options.mib * MIB)
                if number:  # the first round warms the memory up
                    took[way].append(found)
    for way, found_s in took.items():
        ratios = [one[0] / first[0] for one, first in zip(found_s, took["receive"], strict=True)]
        wall_s, cpu_s = (statistics.median(column) for column in zip(*found_s, strict=True))
        ratio = statistics.median(ratios)
        print(f"{way:9} wall {wall_s:.3f} s  cpu {cpu_s:.3f} s  ratio {ratio:.2f}")


def timed(way: str, path: Path, size_bytes: int) -> tuple[float, float]:
    """Return wall and CPU seconds of one body by one way."""
    listener = socket.create_server(("127.0.0.1", 0))
    child = os.fork()
    if not child:
        connection, _ = listener.accept()
        piece = os.urandom(MIB)
        for _ in range(size_bytes // MIB):
            connection.sendall(piece)
        os._exit(0)
    with closing(listener), socket.create_connection(listener.getsockname()) as sock:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        began_s, began_cpu_s = time.perf_counter(), time.process_time()
        WAYS[way](sock, fd, size_bytes)
        found = time.perf_counter() - began_s, time.process_time() - began_cpu_s
        written_bytes = os.fstat(fd).st_size
        os.close(fd)
    os.waitpid(child, 0)
    path.unlink()
    if written_bytes != size_bytes:
        raise SystemExit(f"{way}: {written_bytes} bytes of {size_bytes} were written")
    return found


if __name__ == "__main__":
    main()
