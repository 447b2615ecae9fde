"""Files held against what their publisher says of them, with a real daemon process."""

from __future__ import annotations

import hashlib
import signal
import time

import pytest

from faults.server import Handler, Server, content, file, flapping, html, raw, status
from process import DaemonProcess, visible_files, wait_until

ONE = content("one", 100_000)
TWO = content("two", 70_000)


def hexed(body: bytes, algorithm: str = "sha256") -> str:
    return hashlib.new(algorithm, body).hexdigest()


def text(body: str) -> Handler:
    return file(body.encode(), type="text/plain")


@pytest.fixture
def daemon(tmp_path):
    with DaemonProcess(tmp_path) as made:
        yield made


def failed(daemon: DaemonProcess, job: str) -> dict[str, tuple[str, str]]:
    report = daemon.report(job)
    assert report is not None
    return {one["path"]: (one["code"], one["reason"]) for one in report["failures"]}


GNU = f"# release\n{hexed(ONE)}  one.bin\n{hexed(TWO)} *./sub/two.bin\n"
BSD = f"MD5 (one.bin) = {hexed(ONE, 'md5')}\nSHA256 (one.bin) = {hexed(ONE)}\n"
OPENSSL = f"SHA2-512(one.bin)= {hexed(ONE, 'sha512')}\n"
SIGNED = (
    "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n"
    f"{hexed(ONE)}  one.bin\n-----BEGIN PGP SIGNATURE-----\n\nAAAA\n-----END PGP SIGNATURE-----\n"
)


@pytest.mark.parametrize(
    ("sums", "path", "body", "algorithms"),
    [
        ("SHA256SUMS", "/d/SHA256SUMS", GNU, ["sha256"]),
        ("CHECKSUM", "/d/CHECKSUM", BSD, ["md5", "sha256"]),
        ("sums.txt", "/d/sums.txt", OPENSSL, ["sha512"]),
        ("SHA256SUMS.asc", "/d/SHA256SUMS.asc", SIGNED, ["sha256"]),
        ("${url}.sha256", "/d/one.bin.sha256", f"{hexed(ONE)}\n", ["sha256"]),
        ("../B2SUMS", "/B2SUMS", f"{hexed(ONE, 'blake2b')}  d/one.bin\n", ["blake2b"]),
    ],
)
def test_a_file_is_held_against_sums_of_every_form(daemon, sums, path, body, algorithms):
    with Server({"/d/one.bin": file(ONE), path: text(body)}) as server:
        url = server.url("/d/one.bin")
        daemon.drop("s.yaml", f"url: {url}\nsums: {sums}\nverify: digest\n")

        code = daemon.run_once()

    assert code == 0
    assert [str(p.relative_to(daemon.downloads)) for p in visible_files(daemon.downloads)] == [
        "one.bin"
    ]
    (line,) = daemon.files("s")
    assert line["verified"] == "digest"
    assert [digest.partition(":")[0] for digest in line["digests"]] == algorithms


@pytest.mark.parametrize(
    ("answer", "code", "said"),
    [
        (text(f"{hexed(TWO)}  one.bin\n"), "checksum_mismatch", f"expected sha256:{hexed(TWO)}"),
        (text(f"{hexed(ONE)}  two.bin\n"), "expectation_failed", "no line names 'one.bin'"),
        (
            text(f"{hexed(ONE)}  one.bin\n{hexed(TWO)}  one.bin\n"),
            "expectation_failed",
            "two different sha256 checksums for 'one.bin'",
        ),
        (text("not found\n"), "expectation_failed", "no line of it is a checksum"),
        (html(), "unexpected_html", "an HTML page came"),
        (status(404), "bad_status", "404"),
        (status(500), "bad_status", "500"),
        (file(GNU.encode(), cut_after=20), "short_body", "of"),
        (raw(b"HTTP/1.1 200 OK\r\n\r\n" + GNU.encode()), "length_unknown", "a cut would go unseen"),
        (
            raw(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n"),
            "too_large",
            "more than 4194304 bytes",
        ),
    ],
    ids=["wrong", "missing", "doubled", "none", "html", "404", "500", "cut", "endless", "large"],
)
def test_without_a_good_answer_of_the_sums_file_nothing_is_shown(daemon, answer, code, said):
    daemon.settings += ["retry.attempts=2", "retry.delay=10ms"]
    with Server({"/one.bin": file(ONE), "/SHA256SUMS": answer}) as server:
        daemon.drop("s.yaml", f"url: {server.url('/one.bin')}\nsums: SHA256SUMS?key=secret\n")

        exit_code = daemon.run_once()
        asked = len(server.asked("/SHA256SUMS")), len(server.asked("/one.bin"))

    assert exit_code == 1
    assert visible_files(daemon.downloads) == []
    ((found, reason),) = failed(daemon, "s").values()
    assert found == code
    assert said in reason
    if code == "checksum_mismatch":
        assert asked == (1, 2)
    else:
        assert asked[1] == 0
        assert f"the sums file {server.url('/SHA256SUMS')}?..." in reason
    assert "secret" not in reason


def test_all_sources_are_held_against_the_first_list_that_is_there(daemon):
    routes: dict[str, Handler] = {
        "/a/SHA256SUMS": status(404),
        "/a/one.bin": file(TWO),  # not what the list says
        "/b/SHA256SUMS": text(f"{hexed(ONE)}  one.bin\n"),
        "/b/one.bin": file(ONE),
    }
    with Server(routes) as server:
        daemon.drop(
            "m.yaml",
            f"base: ['{server.url('/a/')}', '{server.url('/b/')}']\n"
            "url: one.bin\nsums: SHA256SUMS\n",
        )

        code = daemon.run_once()
        asked = [len(server.asked(path)) for path in routes]

    assert code == 0
    assert (daemon.downloads / "one.bin").read_bytes() == ONE
    assert asked == [1, 1, 1, 1]


def test_checksum_and_sums_must_both_hold(daemon):
    routes: dict[str, Handler] = {
        "/one.bin": file(ONE),
        "/SHA256SUMS": text(f"{hexed(ONE)}  one.bin\n"),
    }
    with Server(routes) as server:
        job = f"url: {server.url('/one.bin')}\nsums: SHA256SUMS\nchecksum: "
        daemon.drop("good.yaml", f"{job}md5:{hexed(ONE, 'md5')}\n")
        daemon.drop("bad.yaml", f"{job}sha256:{hexed(TWO)}\nfilename: bad.bin\n")

        daemon.run_once()

    assert daemon.files("good")[0]["state"] == "succeeded"
    assert len(daemon.files("good")[0]["digests"]) == 2
    assert failed(daemon, "bad")["bad.bin"][0] == "expectation_failed"
    assert [path.name for path in visible_files(daemon.downloads)] == ["one.bin"]


@pytest.mark.parametrize("answer", ["good", "gone"])
def test_the_sums_file_is_fetched_once_a_run_by_many_tasks_and_workers(daemon, answer):
    bodies = {f"f{n:03}.bin": content(n, 500 + n) for n in range(200)}
    sums = "".join(f"{hexed(body)}  {name}\n" for name, body in bodies.items())
    slow = file(sums.encode(), rate=50_000)  # about a third of a second: the others come meanwhile
    routes: dict[str, Handler] = {f"/{name}": file(body) for name, body in bodies.items()}
    routes["/SHA256SUMS"] = slow if answer == "good" else status(404)
    with Server(routes) as server:
        items = "".join(f"  - {name}\n" for name in bodies)
        text_of_job = f"base: {server.url('/')}\nsums: SHA256SUMS\nurls:\n{items}"
        daemon.settings += ["workers=8", "limits.connections_per_origin=8"]
        daemon.drop("many.yaml", text_of_job)
        first = daemon.run_once()
        once = len(server.asked("/SHA256SUMS"))
        daemon.drop("many.yaml", text_of_job)
        second = daemon.run_once()
        twice = len(server.asked("/SHA256SUMS"))
        others = len(server.requests) - twice

    assert (once, twice) == (1, 2)
    if answer == "good":
        assert (first, second) == (0, 0)
        assert others == len(bodies)  # up to date, by the sums file alone
        assert {line["detail"] for line in daemon.files("many")} == {"up_to_date"}
    else:
        assert (first, second, others) == (1, 1, 0)
        assert {code for code, _ in failed(daemon, "many").values()} == {"bad_status"}


def test_a_run_that_is_retried_asks_for_the_sums_anew(daemon):
    mended = text(f"{hexed(ONE)}  one.bin\n")
    lacking = text(f"{hexed(ONE)}  two.bin\n")
    routes: dict[str, Handler] = {"/one.bin": file(ONE), "/SUMS": flapping(lacking, mended)}
    with Server(routes) as server:
        daemon.start()
        daemon.drop("s.yaml", f"url: {server.url('/one.bin')}\nsums: SUMS\n")
        wait_until(lambda: (daemon.report("s") or {}).get("state") == "failed", what="the failure")
        wait_until(lambda: (daemon.jobs / "failed" / "s.yaml").exists(), what="the file's move")

        (daemon.jobs / "s.retry").touch()
        wait_until(lambda: (daemon.report("s") or {}).get("state") == "succeeded", what="a retry")
        assert daemon.terminate() == 0

    assert (daemon.downloads / "one.bin").read_bytes() == ONE


def test_after_a_restart_a_part_is_resumed_by_what_the_sums_say(daemon):
    body = content("big", 4_000_000)
    slow = file(body, rate=1_000_000, etag=None, last_modified=None)
    whole = file(body, etag=None, last_modified=None)
    sums = text(f"{hexed(body)}  big.bin\n")
    with Server({"/big.bin": flapping(slow, whole), "/SUMS": sums}) as server:
        daemon.drop("big.yaml", f"url: {server.url('/big.bin')}\nsums: SUMS\n")
        daemon.start()
        parts = daemon.downloads / ".fetchd" / "parts"
        wait_until(
            lambda: any(path.stat().st_size > 500_000 for path in parts.glob("*")),
            what="half a megabyte",
        )

        code = daemon.terminate()
        again = daemon.run_once()
        ranges = [request.header("Range") for request in server.asked("/big.bin")]
        asked = len(server.asked("/SUMS"))

    assert (code, again, asked) == (0, 0, 2)
    assert (daemon.downloads / "big.bin").read_bytes() == body
    assert ranges[0] is None
    assert ranges[1] is not None
    assert daemon.files("big")[0]["detail"] == "resumed"


def test_a_crash_behind_the_verification_needs_no_sums_file_to_go_on(daemon):
    sums = flapping(text(f"{hexed(ONE)}  one.bin\n"), status(404))
    with Server({"/one.bin": file(ONE), "/SUMS": sums}) as server:
        daemon.drop("s.yaml", f"url: {server.url('/one.bin')}\nsums: SUMS\n")
        daemon.start("--once", failpoint="publish.intended")
        daemon.wait()

        code = daemon.run_once()
        asked = len(server.asked("/SUMS"))

    assert (code, asked) == (0, 1)
    assert (daemon.downloads / "one.bin").read_bytes() == ONE


def test_a_cancel_ends_the_wait_for_a_sums_file_that_never_comes(daemon):
    routes = {f"/{n}.bin": file(ONE) for n in range(4)}
    stuck = file(GNU.encode(), stall_after=10)
    with Server({**routes, "/SUMS": stuck}) as server:
        urls = "".join(f"  - {n}.bin\n" for n in range(4))
        daemon.start()
        daemon.drop("s.yaml", f"base: {server.url('/')}\nsums: SUMS\nurls:\n{urls}")
        wait_until(lambda: server.asked("/SUMS"), what="the request")
        began_s = time.monotonic()
        (daemon.jobs / "s.cancel").touch()
        wait_until(lambda: daemon.ended("s"), what="the end")

        assert time.monotonic() - began_s < 5
        assert (daemon.report("s") or {})["state"] == "cancelled"
        assert len(server.requests) == 1
        assert daemon.terminate() == 0


@pytest.mark.parametrize("name", ["p24-shared", "n05-drips"])
def test_a_sums_file_that_drips_holds_up_no_other_job(daemon, name):
    """However many tasks want it, and even where it comes just fast enough."""
    daemon.settings += ["workers=2", "timeout.stall=3s@1KiB/s"]
    drips = file(b"#" * 100_000, rate=2000 if name == "p24-shared" else 200)
    with Server({"/SUMS": drips}) as slow, Server({"/one.bin": file(ONE)}) as other:
        urls = "".join(f"  - {n}.bin\n" for n in range(20))
        daemon.start()
        daemon.drop("slow.yaml", f"base: {slow.url('/')}\nsums: SUMS\nurls:\n{urls}")
        wait_until(lambda: slow.asked("/SUMS"), what="the request for the sums file")
        began_s = time.monotonic()
        daemon.drop("other.yaml", f"url: {other.url('/one.bin')}\n")
        wait_until(lambda: other.asked("/one.bin"), what="the other job's request")

        assert time.monotonic() - began_s < 3
        if name == "n05-drips":
            wait_until(lambda: daemon.events("task.retry_scheduled"), what="the end of an attempt")
            assert daemon.events("task.retry_scheduled")[0]["code"] == "too_slow"
            assert time.monotonic() - began_s < 6
        assert len(slow.asked("/SUMS")) <= 2
        assert daemon.terminate() == 0
        assert {event["wait"] for event in daemon.events("task.deferred")} == {"sums"}


@pytest.mark.parametrize(
    "failpoint", ["folder.claimed", "expand.first_batch", "expand.second_batch"]
)
def test_a_dropped_file_of_checksums_fetches_its_files_over_a_crash(tmp_path, failpoint):
    """One file has another checksum than its line says, and one line is none."""
    count = 2_100
    bodies = {f"d/{number}.bin": b"%d" % number for number in range(count)}
    lines = [f"{hashlib.sha256(body).hexdigest()}  {name}" for name, body in bodies.items()]
    lines[7] = lines[8].partition(" ")[0] + "  d/7.bin"
    lines.insert(1_500, "no line of checksums")
    with (
        Server({f"/pool/{name}": file(body) for name, body in bodies.items()}) as server,
        DaemonProcess(tmp_path, "retry.poison=0") as daemon,
    ):
        folder = daemon.jobs / "isos"
        folder.mkdir(parents=True)
        (folder / "_defaults.yaml").write_text(f"base: {server.url('/pool/')}\ndest: images\n")
        (folder / "SHA256SUMS").write_text("\n".join(lines) + "\n")

        crashed = daemon.start("--once", failpoint=failpoint).wait()
        again = daemon.run_once()

        failed = [one for one in daemon.files("isos-SHA256SUMS") if one["state"] == "failed"]
        tasks = daemon.report("isos-SHA256SUMS")["tasks"]

    assert (crashed, again) == (-signal.SIGKILL, 1)
    assert {one["path"]: one["detail"] for one in failed} == {
        "images/d/7.bin": "checksum_mismatch",
        "./SHA256SUMS:1501": "bad_item",
    }
    assert (tasks["succeeded"], tasks["failed"]) == (count - 1, 2)
    made = {
        str(path.relative_to(daemon.downloads / "images")): path.read_bytes()
        for path in visible_files(daemon.downloads)
    }
    del bodies["d/7.bin"]
    assert made == bodies
    assert (daemon.jobs / "failed/isos/SHA256SUMS").exists()
