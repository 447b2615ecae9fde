"""``checksum_file``: beside the files one that says their checksums, as ``sha256sum`` writes it."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain, islice
from typing import Any

from fetchd.digests import Hashes
from fetchd.errors import AttemptError
from fetchd.ports import Bench
from fetchd.steps import kind
from fetchd.steps.unpack import PIECE_BYTES

#: Those that a tool of coreutils checks.
_ALGORITHMS = ("sha256", "sha512", "sha1", "sha384", "sha224", "md5")


def work(bench: Bench, options: Mapping[str, Any]) -> None:
    algorithm = options["algorithm"]
    files = (file.path for file in bench.files() if not file.link)
    first = list(islice(files, 2))
    if not first:
        raise AttemptError("step_failed", "there is no file")
    name, folder = options["name"], ""
    if len(first) == 1:
        above, _, last = first[0].rpartition("/")
        folder = f"{above}/" if above else ""
        name = name or f"{last}.{algorithm}"
    name = folder + (name or f"{algorithm.upper()}SUMS")
    try:
        if folder:  # which is there only then
            digest = _digest(bench, first[0], algorithm)
            bench.carry()
            with bench.make(name) as output:
                output.write(_line(first[0].removeprefix(folder), digest))
        else:
            with bench.make(name) as output:
                for path in chain(first, files):
                    output.write(_line(path, _digest(bench, path, algorithm)))
            bench.carry()
    except FileExistsError:
        raise AttemptError(
            "step_failed", f"a file of the name {name!r} is there already; give another: `name`"
        ) from None


def _digest(bench: Bench, path: str, algorithm: str) -> str:
    hashes = Hashes([algorithm])
    buffer = memoryview(bytearray(PIECE_BYTES))
    offset = 0
    with bench.open(path) as given:
        while got := given.readinto(buffer, offset):
            hashes.update(buffer[:got])
            offset += got
    (digest,) = hashes.digests()
    return digest.hex


def _line(path: str, digest: str) -> bytes:
    """Return the line of a file; names with a backslash are escaped, which its first byte tells."""
    escaped = path.replace("\\", "\\\\").replace("\n", "\\n")
    mark = "\\" if escaped != path else ""
    return f"{mark}{digest}  {escaped}\n".encode("utf-8", "surrogateescape")


KIND = kind.Kind(
    work=work,
    options={
        "algorithm": kind.Option(
            read=kind.one_of(*_ALGORITHMS),
            schema={"enum": list(_ALGORITHMS)},
            meaning="of the checksums",
            default="sha256",
        ),
        "name": kind.Option(
            read=kind.file_name,
            schema=kind.TEXT,
            meaning="of the file; by default NAME.sha256 for a single file, SHA256SUMS for several",
            varies=True,
        ),
    },
    makes=kind.same,
)
