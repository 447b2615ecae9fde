"""Metalink files in the drop folder of a real daemon process."""

from __future__ import annotations

import hashlib
import signal
from xml.sax.saxutils import escape

import pytest

from faults.server import Handler, Server, content, file, unused_port
from process import DaemonProcess, visible_files, wait_until

BODY, LIE = content("right", 300_000), content("lie", 300_000)


@pytest.fixture
def daemon(tmp_path):
    with DaemonProcess(tmp_path) as made:
        yield made


def metalink(*files: str) -> str:
    inside = "\n".join(files)
    return f'<metalink xmlns="urn:ietf:params:xml:ns:metalink">\n{inside}\n</metalink>\n'


def listed(name: str, *urls: str, size: object = None, body: bytes | None = None) -> str:
    """Return a <file> whose URLs have descending priority in the order that is given."""
    said = "" if size is None else f"<size>{size}</size>"
    if body is not None:
        said += f'<hash type="sha-256">{hashlib.sha256(body).hexdigest()}</hash>'
    ranked = [f'<url priority="{n}">{escape(url)}</url>' for n, url in enumerate(urls, 1)]
    return f'<file name="{name}">{said}{"".join(reversed(ranked))}</file>'


def test_of_three_mirrors_one_lies_one_is_dead_and_the_file_is_verified_by_its_digest(daemon):
    dead = f"http://127.0.0.1:{unused_port()}/f"
    with Server({"/f": file(LIE)}) as liar, Server({"/f": file(BODY)}) as good:
        urls = ("ftp://127.0.0.1/f", liar.url("/f"), dead, good.url("/f"))
        daemon.drop("x.meta4", metalink(listed("isos/a.iso", *urls, size=len(BODY), body=BODY)))

        code = daemon.run_once()

    assert code == 0
    assert [
        str(path.relative_to(daemon.downloads)) for path in visible_files(daemon.downloads)
    ] == ["isos/a.iso"]
    assert (daemon.downloads / "isos/a.iso").read_bytes() == BODY
    (line,) = daemon.files("x")
    assert (line["state"], line["verified"]) == ("succeeded", "digest")
    assert line["digests"] == [f"sha256:{hashlib.sha256(BODY).hexdigest()}"]
    assert line["url"] == good.url("/f")
    assert [(cause["source"], cause["code"]) for cause in line["causes"]] == [
        (1, "checksum_mismatch"),
        (2, "connect_failed"),
    ]
    assert (daemon.jobs / "done/x.meta4").exists()


def test_a_mirror_with_a_file_of_another_size_is_left_for_the_next_one(daemon):
    with Server({"/f": file(BODY[:-1])}) as short, Server({"/f": file(BODY)}) as good:
        files = [
            listed("a", short.url("/f"), good.url("/f"), size=len(BODY)),
            listed("b", short.url("/f?b"), size=len(BODY)),
        ]
        daemon.drop("x.meta4", metalink(*files))

        code = daemon.run_once()

        sent = {request.target: request.sent for request in short.requests}

    assert code == 1
    a, b = sorted(daemon.files("x"), key=lambda line: line["path"])
    assert (a["state"], a["verified"], a["url"]) == ("succeeded", "length", good.url("/f"))
    assert [cause["code"] for cause in a["causes"]] == ["bad_size"]
    assert (b["state"], b["detail"]) == ("failed", "bad_size")
    assert b["reason"] == "the file has 299999 bytes, `size` allows 300000"
    assert sorted(sent) == ["/f", "/f?b"]


def test_every_file_of_a_metalink_that_cannot_be_fetched_is_one_failed_task(daemon):
    with Server({"/f": file(BODY)}) as server:
        url = server.url("/f")
        files = [
            listed("good", url),
            listed("../out", url),
            listed("/etc/passwd", url),
            listed("torrent", "magnet:?xt=urn:btih:1"),
            listed("local", "file:///etc/passwd"),
            listed("sized", url, size="big"),
            listed("good", url),
        ]
        daemon.drop("x.meta4", metalink(*files))

        code = daemon.run_once()

        asked = len(server.requests)

    assert code == 1
    assert [path.name for path in visible_files(daemon.downloads)] == ["good"]
    assert asked == 1
    failures = daemon.report("x")["failures"]
    assert [(failure["path"], failure["code"]) for failure in failures] == [
        *((f"./x.meta4:{line}", "bad_item") for line in (3, 4, 5, 6, 7)),
        ("good", "dest_conflict"),
    ]
    assert failures[0]["reason"] == "x.meta4:3: '../out' has the component '..'"


BOMB = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 20))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        pytest.param(
            f'<!DOCTYPE m [<!ENTITY e0 "aaaaaaaaaa">{BOMB}]>'
            + metalink(listed("&e19;", "http://a/")),
            "a document type (<!DOCTYPE) is not allowed in a Metalink; leave it out",
            id="entities",
        ),
        pytest.param(
            metalink(listed("a", "http://a/"), f"<!--{'x' * 5_000_000}-->"),
            "x.meta4:3:1: a tag or comment is longer than 256 KiB",
            id="oversized",
        ),
        pytest.param(
            metalink(*(listed(f"{n}", "http://a/") for n in range(3000)))[:-40],
            "the file is cut off: it ends before </metalink>",
            id="cut-off",
        ),
        pytest.param("https://a.example/b\n", "is not well-formed XML", id="list"),
    ],
)
def test_a_hostile_or_broken_metalink_is_rejected_as_a_whole_and_the_next_job_runs(
    daemon, text, why
):
    with Server({"/f": file(BODY)}) as server:
        daemon.start()
        daemon.drop("x.meta4", text)
        wait_until(lambda: daemon.events("job.rejected"), what="the refusal")
        daemon.drop("y.metalink", metalink(listed("y", server.url("/f"), body=BODY)))
        wait_until(lambda: daemon.ended("y"), what="the next job")
        code = daemon.terminate()

    assert code == 0
    error = (daemon.jobs / "reports/x.meta4.error.txt").read_text()
    assert error.startswith("x.meta4:")
    assert why in error
    assert error.count("\n") == 1
    assert (daemon.jobs / "failed/x.meta4").exists()
    assert daemon.report("x") is None
    assert (daemon.downloads / "y").read_bytes() == BODY


@pytest.mark.parametrize("failpoint", ["folder.claimed", "folder.accepted", "expand.second_batch"])
def test_a_crash_while_a_metalink_is_read_loses_no_file_and_doubles_none(tmp_path, failpoint):
    count = 2_500
    body = content("small", 10)
    routes: dict[str, Handler] = {f"/{n}": file(body) for n in range(count)}
    with (
        Server(routes) as server,
        DaemonProcess(tmp_path, "retry.poison=0") as daemon,
    ):
        files = [listed(f"d/{n}", server.url(f"/{n}"), size=10, body=body) for n in range(count)]
        daemon.drop("x.meta4", metalink(*files))

        crashed = daemon.start("--once", failpoint=failpoint).wait()
        again = daemon.run_once()

    assert (crashed, again) == (-signal.SIGKILL, 0)
    assert {path.name for path in visible_files(daemon.downloads)} == {str(n) for n in range(count)}
    report = daemon.report("x")
    assert (report["state"], report["tasks"]["succeeded"]) == ("succeeded", count)
    assert {line["verified"] for line in daemon.files("x")} == {"digest"}


FAN_OUT = """
tasks:
  index: {{ url: {url}, if_exists: overwrite }}
  isos:
    from: {{ file: "${{needs.index.path}}", format: metalink }}
    dest: isos
    steps: [ {{ checksum_file: {{ name: "${{item.name}}.${{item.size}}" }} }} ]
"""


@pytest.mark.parametrize("failpoint", ["", "expand.first_batch", "expand.second_batch"])
def test_a_fetched_metalink_fans_out_with_mirrors_sizes_and_hashes(tmp_path, failpoint):
    """Each file has a mirror that lies, and one that has the file."""
    count = 1_050
    bodies = {f"{number}.bin": b"%d" % number for number in range(count)}
    with (
        Server(
            {f"/{name}": file(b"lie" if name == "7.bin" else body) for name, body in bodies.items()}
        ) as first,
        Server({f"/{name}": file(body) for name, body in bodies.items()}) as second,
        DaemonProcess(tmp_path, "retry.poison=0") as daemon,
    ):
        files = [
            listed(name, first.url(f"/{name}"), second.url(f"/{name}"), size=len(body), body=body)
            for name, body in bodies.items()
        ]
        second.routes["/index.meta4"] = file(metalink(*files).encode())
        daemon.drop("x.yaml", FAN_OUT.format(url=second.url("/index.meta4")))
        if failpoint:
            assert daemon.start("--once", failpoint=failpoint).wait() == -signal.SIGKILL

        assert daemon.run_once() == 0

        made = {
            str(path.relative_to(daemon.downloads)): path.read_bytes()
            for path in visible_files(daemon.downloads)
        }
        lines = {line["path"]: line for line in daemon.files("x")}

    assert {f"isos/{name}": body for name, body in bodies.items()}.items() <= made.items()
    assert len(made) == 2 * count + 1
    assert "isos/7.bin.1" in made
    assert len(lines) == count + 1
    assert lines["isos/7.bin"]["verified"] == "digest"
    assert lines["isos/7.bin"]["url"].startswith(second.url("/"))


def test_a_metalink_that_is_none_is_one_failed_task(daemon):
    with Server({"/index.meta4": file(b"<rss></rss>")}) as server:
        daemon.drop("x.yaml", FAN_OUT.format(url=server.url("/index.meta4")))

        code = daemon.run_once()

        (bad,) = [line for line in daemon.files("x") if line["state"] == "failed"]

    assert code == 1
    assert bad["detail"] == "bad_manifest"
    assert "begins with <rss>; a Metalink begins with" in bad["reason"]
