"""How each peer is told to do a workload: as a careful user would, with its own best options."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from bench.peer_workloads import DataSet, Workload

HASHES_A_PROCESS = 40  # lines short enough that two processes never mix theirs in one pipe


@dataclass(frozen=True)
class Case:
    """A workload with its place: where it is served, and where a peer puts it."""

    workload: Workload
    data: DataSet
    folder_url: str
    target: Path
    lists: Path
    ca: Path

    @property
    def what(self) -> str:
        return self.workload.what(len(self.data.files), self.data.size_bytes)

    @property
    def single(self) -> bool:
        return len(self.data.files) == 1

    @property
    def at_once(self) -> int:
        return self.workload.shape.at_once

    @property
    def connections(self) -> int:
        return self.workload.shape.connections

    @property
    def first_url(self) -> str:
        return self.folder_url + self.data.files[0].name

    @property
    def first_path(self) -> Path:
        return self.target / self.data.files[0].name

    def list(self, name: str, form: str) -> str:
        """Write ``form`` once a file, with url, path, name and sha256; the list's path."""
        path = self.lists / name
        path.write_text(
            "".join(
                form.format(
                    url=self.folder_url + file.name,
                    path=self.target / file.name,
                    name=file.name,
                    sha256=file.sha256,
                )
                for file in self.data.files
            )
        )
        return quote(str(path))


class CannotDo(Exception):
    """A workload that a peer has no way to do, and why."""


def curl(case: Case) -> str:
    base = "curl -q -sS --fail" + f" --cacert {case.ca}" * case.workload.tls
    if not case.single:
        config = case.list("curl.cfg", 'url = "{url}"\noutput = "{path}"\n')
        return f"{base} --parallel --parallel-max {case.at_once} -K {config}"
    path, url = case.first_path, quote(case.first_url)
    if case.connections == 1:
        return f"{base} -o {path} {url}"
    share = -(-case.data.size_bytes // case.connections)
    parts = [
        f"-r {number * share}-{(number + 1) * share - 1} -o {path}.{number} {url}"
        for number in range(case.connections)
    ]
    names = " ".join(f"{path}.{number}" for number in range(case.connections))
    again = " --next" + base.removeprefix("curl -q") + " "
    return (
        f"{base} --parallel --parallel-max {case.connections} {again.join(parts)}"
        f" && cat {names} > {path} && rm {names}"
    )


def wget2(case: Case) -> str:
    urls = case.list("wget2.txt", "{url}\n")
    more = f" --ca-certificate={case.ca}" * case.workload.tls
    if case.connections > 1:
        more += f" --chunk-size={-(-case.data.size_bytes // case.connections)}"
    threads = max(case.at_once, case.connections)
    return (
        f"wget2 --no-config -q --no-robots --tries=1 --compression=none{more}"
        f" --max-threads={threads} -nd -P {case.target} -i {urls}"
    )


def aria2(case: Case) -> str:
    form = "{url}\n out={name}\n" + " checksum=sha-256={sha256}\n" * case.workload.verified
    more = f" --ca-certificate={case.ca}" * case.workload.tls
    return (
        f"aria2c --no-conf -q -j {case.at_once} -x {case.connections} -s {case.connections}"
        f" -k 1M --file-allocation=falloc --max-tries=1{more}"
        f" -d {case.target} -i {case.list('aria2.txt', form)}"
    )


def axel(case: Case) -> str:
    # it knows no name that is an address: the certificate is not looked at
    base = f"axel -q{' -k' * case.workload.tls}"
    if case.single:
        return f"{base} -n {case.connections} -o {case.first_path} {quote(case.first_url)}"
    if len(case.data.files) > 1000:
        raise CannotDo("would be a process for each of so many files")
    pairs = case.list("axel.txt", "{path} {url}\n")
    return f"xargs -P {case.at_once} -n 2 {base} -n 1 -o < {pairs}"


def rclone(case: Case) -> str:
    more = f" --ca-cert {case.ca}" * case.workload.tls
    if case.connections > 1:
        more += f" --multi-thread-streams {case.connections} --multi-thread-cutoff 1M"
    else:
        more += " --multi-thread-streams 0 --http-no-head"
    return (
        f"rclone copy -q --config /dev/null --retries 1 --ignore-times --no-traverse"
        f" --transfers {case.at_once} --checkers {case.at_once}{more}"
        f" --http-url {quote(case.folder_url)} :http: {case.target}"
    )


PEERS: dict[str, Callable[[Case], str]] = {
    "curl": curl,
    "wget2": wget2,
    "aria2": aria2,
    "axel": axel,
    "rclone": rclone,
}
PROGRAMS = {"aria2": "aria2c"}
VERIFY_THEMSELVES = {"aria2"}


def installed(peer: str) -> bool:
    return shutil.which(PROGRAMS.get(peer, peer)) is not None


def command(peer: str, case: Case) -> str:
    """What ``sh -e`` runs, verification included; CannotDo."""
    fetch = PEERS[peer](case)
    if not case.workload.verified or peer in VERIFY_THEMSELVES:
        return fetch
    names = case.list("names", "{name}\n")
    wanted = case.list("wanted", "{sha256} *{name}\n")
    a_process = min(HASHES_A_PROCESS, -(-len(case.data.files) // 2))
    return (
        f"{fetch}\ncd {case.target}\n"
        f"xargs -P 2 -n {a_process} openssl dgst -sha256 -r < {names}"
        f" | LC_ALL=C sort -k 2 | cmp - {wanted}"
    )
