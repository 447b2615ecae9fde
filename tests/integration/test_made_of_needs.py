"""Tasks that fetch nothing, in a real daemon: steps over the files of other tasks."""

from __future__ import annotations

import hashlib
import io
import signal
import stat
import tarfile

import pytest

from faults.server import Server, content, file
from process import DaemonProcess, visible_files

ISO, PACKAGE = content("iso", 30_000), content("package", 2_000)

FAILPOINTS = [
    "finish.step_begun",
    "finish.step_taken",
    "finish.sealed",
    "publish.intended:2",
    "publish.synced:2",
    "publish.renamed:2",
    "publish.folder_synced:2",
    "publish.visible:2",
]


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def packed(files: dict[str, bytes]) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return made.getvalue()


@pytest.fixture
def server():
    routes = {
        "/u.iso": file(ISO),
        "/index.json": file(b'{"packages": [{"url": "p.tgz"}]}'),
        "/p.tgz": file(packed({"p-1/bin/tool": PACKAGE, "p-1/readme": b"read"})),
    }
    with Server(routes) as made:
        yield made


def job(server: Server, steps: str = "[ checksum_file ]", more: str = "") -> str:
    return f"""
base: {server.url("/")}
dest: ubuntu
tasks:
  iso:
    url: u.iso
  index:
    url: index.json
    dest: lists
  packages:
    from: {{ file: "${{needs.index.path}}", format: json, items: "packages[*]" }}
    if: ${{needs.index.changed}}
    url: ${{item.url}}
    may_fail: true
    steps:
      - extract: {{ strip_components: 1 }}
  list:
    needs: [iso, packages]
    steps: {steps}
{more}"""


def seen(daemon: DaemonProcess) -> dict[str, bytes]:
    return {
        str(path.relative_to(daemon.downloads)): path.read_bytes()
        for path in visible_files(daemon.downloads)
    }


SUMS = f"{sha256(PACKAGE)}  bin/tool\n{sha256(b'read')}  readme\n{sha256(ISO)}  u.iso\n".encode()
FILES = {
    "ubuntu/u.iso": ISO,
    "lists/index.json": b'{"packages": [{"url": "p.tgz"}]}',
    "ubuntu/bin/tool": PACKAGE,
    "ubuntu/readme": b"read",
}


def left(daemon: DaemonProcess) -> list[str]:
    inner = daemon.downloads / ".fetchd"
    found = [path.relative_to(inner) for path in inner.rglob("*") if path.is_file()]
    return sorted(str(path) for path in found if path.parts[0] != "made")


def details(daemon: DaemonProcess) -> dict[str, str]:
    return {line["group"]: line["detail"] for line in daemon.files("job")}


@pytest.mark.parametrize("failpoint", FAILPOINTS)
def test_a08_a_crash_leaves_nothing_half_visible_of_what_is_made(tmp_path, server, failpoint):
    with DaemonProcess(tmp_path, "retry.poison=0") as daemon:
        tasks = f"iso: {{ url: '{server.url('/u.iso')}' }}"
        tasks += ", list: { needs: iso, steps: [checksum_file] }"
        daemon.drop("job.yaml", f"tasks: {{ {tasks} }}")
        assert daemon.start("--once", failpoint=failpoint).wait() == -signal.SIGKILL
        half = seen(daemon)
        assert daemon.run_once() == 0

        sums = f"{sha256(ISO)}  u.iso\n".encode()
        assert half.items() <= {"u.iso": ISO, "u.iso.sha256": sums}.items()
        assert seen(daemon) == {"u.iso": ISO, "u.iso.sha256": sums}
        assert left(daemon) == []
        assert all(path.stat().st_nlink == 1 for path in visible_files(daemon.downloads))


def test_a_list_of_checksums_is_made_of_the_files_of_its_needs(tmp_path, server):
    with DaemonProcess(tmp_path) as daemon:
        daemon.drop("job.yaml", job(server))
        assert daemon.run_once() == 0

        assert seen(daemon) == {**FILES, "ubuntu/SHA256SUMS": SUMS}
        assert left(daemon) == []
        assert details(daemon)["list"] == "made"
        assert all(path.stat().st_nlink == 1 for path in visible_files(daemon.downloads))
        (line,) = [line for line in daemon.files("job") if line["group"] == "list"]

    assert (line["path"], line["url"], line["size_bytes"]) == ("./ubuntu/list", "", None)
    assert line["staged"] == {"files": 1, "bytes": len(SUMS)}


def test_it_is_made_again_when_what_it_is_made_of_has_changed(tmp_path, server):
    steps = "[ { checksum_file: { name: SUMS } } ]"
    with DaemonProcess(tmp_path) as daemon:
        made = []
        for change in ("", "nothing", "nothing", "iso", "sums", "steps"):
            if change == "iso":
                server.routes["/u.iso"] = file(b"another")
            if change == "sums":
                (daemon.downloads / "ubuntu/SUMS").unlink()
            if change == "steps":
                steps = "[ { checksum_file: { name: SUMS, algorithm: md5 } } ]"
            daemon.drop("job.yaml", job(server, steps))
            assert daemon.run_once() == 0
            made.append(details(daemon)["list"])
        sums = (daemon.downloads / "ubuntu/SUMS").read_text()

    # The packages, passed over from the second run on, are given as they were made by the first.
    assert made == ["made", "up_to_date", "up_to_date", "made", "made", "made"]
    assert f"{hashlib.md5(b'another').hexdigest()}  u.iso\n" in sums
    assert f"{hashlib.md5(PACKAGE).hexdigest()}  bin/tool\n" in sums
    assert "packages" not in details(daemon)


def test_a_step_that_works_on_the_files_changes_none_that_others_have_published(tmp_path, server):
    script = "echo more >> u.iso; cp readme copy; mv bin/tool tool; chmod 600 readme"
    command = f"commands.it.argv=[/bin/sh, -c, '{script}']"
    with DaemonProcess(tmp_path, command) as daemon:
        text = job(server, "[ { run: it }, { mode: 0640 } ]").replace(
            "needs: [iso, packages]", "needs: [iso, packages]\n    dest: copies"
        )
        daemon.drop("job.yaml", text)
        assert daemon.run_once() == 0
        modes = {
            str(path.relative_to(daemon.downloads)): stat.S_IMODE(path.stat().st_mode)
            for path in visible_files(daemon.downloads)
        }
        found = seen(daemon)

    assert {name: data for name, data in found.items() if not name.startswith("copies")} == FILES
    assert {name: data for name, data in found.items() if name.startswith("copies")} == {
        "copies/u.iso": ISO + b"more\n",
        "copies/copy": b"read",
        "copies/tool": PACKAGE,
        "copies/readme": b"read",
    }
    assert modes["ubuntu/u.iso"] != 0o640
    assert {mode for name, mode in modes.items() if name.startswith("copies")} == {0o640}


def test_a_program_that_adds_a_file_has_only_that_published(tmp_path, server):
    command = "commands.it.argv=[/bin/sh, -c, 'ls > index.txt']"
    with DaemonProcess(tmp_path, command) as daemon:
        text = job(server, "[ { run: it } ]").replace(
            "needs: [iso, packages]", "needs: [iso, packages]\n    dest: copies"
        )
        daemon.drop("job.yaml", text)
        assert daemon.run_once() == 0

        assert seen(daemon) == {**FILES, "copies/index.txt": b"bin\nindex.txt\nreadme\nu.iso\n"}


def test_what_would_replace_a_file_of_another_task_fails(tmp_path, server):
    with DaemonProcess(tmp_path) as daemon:
        daemon.drop("job.yaml", job(server, "[ { mode: 0600 } ]"))
        assert daemon.run_once() == 1
        (failure,) = daemon.report("job")["failures"]

        assert (failure["path"], failure["code"]) == ("./ubuntu/list", "dest_conflict")
        assert seen(daemon) == FILES
        assert left(daemon) == []


def test_two_files_at_one_path_are_named(tmp_path, server):
    text = f"""
base: {server.url("/")}
tasks:
  a: {{ url: u.iso, dest: a }}
  b: {{ url: index.json, filename: u.iso, dest: b }}
  list: {{ needs: [a, b], dest: c, steps: [ checksum_file ] }}
"""
    with DaemonProcess(tmp_path) as daemon:
        daemon.drop("job.yaml", text)
        assert daemon.run_once() == 1
        (failure,) = daemon.report("job")["failures"]

    assert failure["code"] == "step_failed"
    assert "'u.iso' would be both default:a/u.iso and default:b/u.iso" in failure["reason"].replace(
        "b/u.iso and default:a/u.iso", "a/u.iso and default:b/u.iso"
    )


def test_one_file_of_several_is_known_to_those_that_need_it(tmp_path, server):
    text = f"""
base: {server.url("/")}
tasks:
  parts: {{ urls: [ u.iso 1, index.json 2 ], dest: parts }}
  all: {{ needs: parts, steps: [ {{ concat: all.bin }} ] }}
  copy: {{ url: "file://{tmp_path}/downloads/${{needs.all.path}}", filename: copy.bin }}
  sum: {{ needs: [all], dest: sums, steps: [ checksum_file ] }}
"""
    with DaemonProcess(tmp_path) as daemon:
        daemon.drop("job.yaml", text)
        assert daemon.run_once() == 0
        found = seen(daemon)

    whole = ISO + FILES["lists/index.json"]
    assert found == {
        "parts/1": ISO,
        "parts/2": FILES["lists/index.json"],
        "all.bin": whole,
        "copy.bin": whole,
        "sums/all.bin.sha256": f"{sha256(whole)}  all.bin\n".encode(),
    }


def test_links_that_steps_have_made_are_given_as_links(tmp_path, server):
    text = f"""
base: {server.url("/")}
tasks:
  iso: {{ url: u.iso, dest: d, steps: [ {{ symlink: latest }} ] }}
  list: {{ needs: [iso], steps: [ checksum_file ] }}
"""
    with DaemonProcess(tmp_path) as daemon:
        daemon.drop("job.yaml", text)
        assert daemon.run_once() == 0

        assert str((daemon.downloads / "d/latest").readlink()) == "u.iso"
        assert seen(daemon)["d/u.iso.sha256"] == f"{sha256(ISO)}  u.iso\n".encode()


def test_of_a_task_that_was_passed_over_the_files_are_given_that_it_had_made_before(
    tmp_path, server
):
    newer = content("newer", 30_000)
    tool = {"bin/tool": PACKAGE, "readme": b"read"}
    with DaemonProcess(tmp_path) as daemon:
        daemon.drop("j.yaml", job(server))
        assert daemon.run_once() == 0
        # What has its index is as before: it is not looked at.
        server.routes = {**server.routes, "/u.iso": file(newer), "/p.tgz": file(b"not asked for")}
        daemon.drop("j.yaml", job(server))
        assert daemon.run_once() == 0

        wanted = {"u.iso": newer, **tool}
        lines = (f"{sha256(data)}  {name}\n" for name, data in sorted(wanted.items()))
        assert (daemon.downloads / "ubuntu" / "SHA256SUMS").read_text() == "".join(lines)
        assert len(server.asked("/p.tgz")) == 1
