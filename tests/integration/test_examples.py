"""The examples run word for word: their hosts are names that are found on this machine."""

from __future__ import annotations

import datetime as dt
import hashlib
import io
import json
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path

from faults.hosts import Hosts
from faults.server import Handler, content, file
from process import visible_files

EXAMPLES = Path(__file__).parents[2] / "config" / "examples"


def sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def sums(prefix: str, files: dict[str, bytes]) -> dict[str, Handler]:
    """Return routes for files and the SHA256SUMS beside them."""
    lines = "".join(f"{sha256(body)}  {name}\n" for name, body in files.items())
    routes = {f"{prefix}{name}": file(body) for name, body in files.items()}
    return {**routes, f"{prefix}SHA256SUMS": file(lines.encode())}


def get(
    tmp_path: Path, example: str, routes: Mapping[str, Mapping[str, Handler]]
) -> dict[str, bytes]:
    """Run an example by ``fetchd get``, schedules left aside; returns what is visible then."""
    downloads = tmp_path / "downloads"
    with Hosts(tmp_path, routes) as hosts:
        words = ["get", str(EXAMPLES / example), "--dest", str(downloads), "--json"]
        for setting in ("network.allow=[loopback]", "retry.delay=100ms", *hosts.settings):
            words += ["--set", setting]
        done = subprocess.run(
            [sys.executable, "-m", "fetchd", *words], capture_output=True, timeout=60, check=False
        )
    assert done.returncode == 0, (done.stdout + done.stderr).decode()
    (report,) = json.loads(done.stdout)
    assert report["state"] == "succeeded"
    return {
        str(path.relative_to(downloads)): path.read_bytes() for path in visible_files(downloads)
    }


def test_the_nightly_mirror_is_held_against_its_sums_file(tmp_path):
    files = {f"{arch}/rescue.iso": content(arch, 50_000) for arch in ("amd64", "arm64")}
    routes = {"rel.example.org": {}, "mirror.example.net": sums("/24.04/", files)}

    found = get(tmp_path, "nightly-mirror.yaml", routes)

    assert found == {
        f"mirror/{arch}.iso": files[f"{arch}/rescue.iso"] for arch in ("amd64", "arm64")
    }


def test_the_pages_of_an_index_become_one_and_what_it_names_is_fetched(tmp_path):
    files = {f"f{number}.bin": content(f"f{number}", 1000) for number in range(10)}
    items = [json.dumps({"name": name, "sha256": sha256(body)}) for name, body in files.items()]
    pages = [f"{items[n]}\n{items[n + 1]}\n".encode() for n in range(0, 10, 2)]

    def page(exchange):
        file(pages[int(exchange.request.target.rpartition("=")[2]) - 1])(exchange)

    routes = {f"/items/{name}": file(body) for name, body in files.items()}
    found = get(
        tmp_path, "paged-index.yaml", {"data.example.org": {**routes, "/items/index": page}}
    )

    assert found == {
        **{f"catalogue/pages/{n}.jsonl": body for n, body in enumerate(pages, 1)},
        "catalogue/index.jsonl": b"".join(pages),
        **{f"catalogue/files/{name}": body for name, body in files.items()},
    }


def test_a_day_of_the_data_set_is_unpacked_in_a_folder_of_its_own(tmp_path):
    table = b"station,degrees\na,7\n"
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, body in (("a.csv", table), ("notes.txt", b"no table")):
            member = tarfile.TarInfo(name)
            member.size = len(body)
            archive.addfile(member, io.BytesIO(body))
    today = dt.datetime.now(dt.UTC).date()
    routes = {}
    for day in (today - dt.timedelta(days=1), today):  # should midnight come in between
        path = f"/{day:%Y/%m}/stations-{day:%Y%m%d}.tar.gz"
        routes[path] = file(packed.getvalue())

    found = get(tmp_path, "data-set.yaml", {"data.example.org": routes})

    ((folder, first), (other, second)) = (path.rsplit("/", 1) for path in sorted(found))
    assert folder == other
    assert folder.startswith("stations/20")
    assert (first, second) == ("a.csv", "a.csv.sha256")
    assert found[f"{folder}/a.csv"] == table


def test_the_shards_of_a_model_are_those_of_its_manifest(tmp_path):
    shards = {f"shard-{number}.safetensors": content(f"{number}", 30_000) for number in range(4)}
    table = "file,sha256\n" + "".join(f"{name},{sha256(b)}\n" for name, b in shards.items())
    prefix = "/models/base-7b/"
    there = {f"{prefix}{name}": file(body) for name, body in shards.items()}
    there[f"{prefix}shards.csv"] = file(table.encode())

    found = get(
        tmp_path, "model-shards.yaml", {"models.example.org": {}, "mirror.example.net": there}
    )

    wanted = {**shards, "shards.csv": table.encode()}
    assert found == {f"models/base-7b/{name}": body for name, body in wanted.items()}


def test_the_assets_of_a_release_appear_together(tmp_path):
    names = [f"tool-{os}-{arch}.tar.gz" for os in ("linux", "macos") for arch in ("amd64", "arm64")]
    files = {name: content(name, 20_000) for name in names}

    found = get(tmp_path, "release-assets.yaml", {"rel.example.org": sums("/tool/v2.4.1/", files)})

    current = tmp_path / "downloads" / "tool" / "current"
    assert {path.name: path.read_bytes() for path in current.iterdir()} == files
    assert len(found) == len(files)


def test_links_for_a_server_at_home_come_from_wherever_they_lead(tmp_path):
    talk, manual, image = (content(name, 10_000) for name in ("talk", "manual", "image"))
    routes = {
        "downloads.example.org": {"/images/rescue-1.4.iso": file(image)},
        "rel.example.org": {"/tool/manual.pdf": file(manual)},
        "mirror.example.net": {"/talks/keynote.webm": file(talk)},
    }

    found = get(tmp_path, "home.yaml", routes)

    assert found == {
        "incoming/rescue-1.4.iso": image,
        "incoming/tool-manual.pdf": manual,
        "incoming/talks/keynote.webm": talk,
    }
