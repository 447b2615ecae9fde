"""Tests in a network of their own: a namespace with nothing in it but what they put there.

Tests marked ``own_network`` are run together by one pytest in a new network and mount namespace;
in the session that collected them each passes or fails as it did there. Where no namespace can be
made they are skipped with the reason.
"""

from __future__ import annotations

import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Self
from xml.etree import ElementTree as ET

import pytest

MARK = "own_network"
_INSIDE = "FETCHD_TESTS_OWN_NETWORK"
_MOST_S = 120.0
_OUTCOMES = pytest.StashKey[dict[str, tuple[str, str]]]()


def inside() -> bool:
    return _INSIDE in os.environ


def run(item: pytest.Item) -> None:
    """Let the item's test end here as it ended in the namespace."""
    if (obstacle := _obstacle()) is not None:
        pytest.skip(obstacle)
    stash = item.session.stash
    if _OUTCOMES not in stash:
        marked = [other for other in item.session.items if other.get_closest_marker(MARK)]
        stash[_OUTCOMES] = _run_all(marked)
    outcome, text = stash[_OUTCOMES].get(item.name, ("failed", "it was not run at all"))
    if outcome == "skipped":
        pytest.skip(text)
    if outcome == "failed":
        pytest.fail(f"in the namespace:\n{text}", pytrace=False)


def _obstacle() -> str | None:
    for tool in ("unshare", "ip", "tc", "mount"):
        if shutil.which(tool) is None:
            return f"needs the program {tool}"
    made = subprocess.run(["unshare", "-n", "-m", "true"], capture_output=True, check=False)
    return None if made.returncode == 0 else "needs the right to make network namespaces (root)"


def _run_all(items: list[pytest.Item]) -> dict[str, tuple[str, str]]:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = ["unshare", "-n", "-m", sys.executable, "-m", "pytest", "-q", "--tb=short"]
        command += ["-p", "no:cacheprovider", f"--junitxml={report}"]
        try:
            said = subprocess.run(
                [*command, *(item.nodeid for item in items)],
                cwd=items[0].config.rootpath,
                env={**os.environ, _INSIDE: "1"},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=_MOST_S,
                check=False,
            ).stdout
        except subprocess.TimeoutExpired:
            said = f"the tests took more than {_MOST_S} s"
        if not report.exists():
            return dict.fromkeys((item.name for item in items), ("failed", said))
        return {case.attrib["name"]: _outcome(case) for case in ET.parse(report).iter("testcase")}


def _outcome(case: ET.Element) -> tuple[str, str]:
    for child in case:
        if child.tag in {"failure", "error"}:
            return "failed", child.text or ""
        if child.tag == "skipped":
            return "skipped", child.attrib.get("message", "")
    return "passed", ""


# ---------------------------------------------------------------- what is put there


def run_command(line: str, given: str = "") -> None:
    """Run a command, such as "ip link set lo up"; fails with what it said."""
    done = subprocess.run(line.split(), input=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{line}: {done.stderr}"


class Names:
    """A DNS server on 127.0.0.1. ``known``: name -> addresses, ``Alias``, or a failure.

    A failure is a code of RFC 1035 §4.1.1 (2 the server failed, 3 no such name), or None: silence.
    Names that are not known do not exist.
    """

    def __init__(self, known: Mapping[str, list[str] | Alias | int | None]) -> None:
        self.known = dict(known)
        self.asked: list[str] = []
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 53))
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc_info) -> None:
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(5)

    def _serve(self) -> None:
        while True:
            try:
                query, peer = self._socket.recvfrom(4096)
                if not query:  # the socket was shut down
                    return
                answer = self._answer(query)
                if answer is not None:
                    self._socket.sendto(answer, peer)
            except OSError:
                return

    def _answer(self, query: bytes) -> bytes | None:
        labels, at = [], 12
        while length := query[at]:
            labels.append(query[at + 1 : at + 1 + length].decode())
            at += 1 + length
        question = query[12 : at + 5]
        (kind,) = struct.unpack(">H", query[at + 1 : at + 3])
        name = ".".join(labels).lower()
        self.asked.append(name)
        found = self.known.get(name, 3)
        if found is None:
            return None
        code, records = 0, []
        if isinstance(found, int):
            code = found
        else:
            if isinstance(found, Alias):
                records.append(_record(b"\xc0\x0c", 5, _encoded(found.target)))
                owner, addresses = _encoded(found.target), found.addresses
            else:
                owner, addresses = b"\xc0\x0c", found
            records += [_record(owner, kind, packed) for packed in _packed(addresses, kind)]
        flags = 0x8180 | code
        return (
            query[:2]
            + struct.pack(">5H", flags, 1, len(records), 0, 0)
            + question
            + b"".join(records)
        )


class Alias:
    """A name that is another one (CNAME)."""

    def __init__(self, target: str, addresses: list[str]) -> None:
        self.target = target
        self.addresses = addresses


def _encoded(name: str) -> bytes:
    return b"".join(bytes([len(part)]) + part.encode() for part in name.split(".")) + b"\0"


def _record(owner: bytes, kind: int, data: bytes) -> bytes:
    return owner + struct.pack(">HHIH", kind, 1, 60, len(data)) + data


def _packed(addresses: list[str], kind: int) -> list[bytes]:
    family = {1: socket.AF_INET, 28: socket.AF_INET6}.get(kind)
    return [
        socket.inet_pton(family, address)
        for address in addresses
        if family is not None and (":" in address) == (kind == 28)
    ]
