"""Subfolders with defaults: a drop folder, an engine and a clock by hand."""

from __future__ import annotations

import pytest

from dropfolder import Crash
from fetchd.disk import SystemOs
from fetchd.events import FileIgnored, JobAccepted, JobRejected, WatchMissed
from fetchd.folder.inbox import GONE_S
from fetchd.folder.places import Place, Places
from fetchd.model import RunState
from unit.test_kept_jobs import NIGHTLY, Yard

JOB = "url: http://one.example/f\n"
METALINK = (
    '<metalink xmlns="urn:ietf:params:xml:ns:metalink"><file name="x">'
    "<url>http://one.example/x</url></file></metalink>"
)


class Street(Yard):
    def __init__(self, base, **settings):
        super().__init__(base, **settings)
        (self.jobs / "isos").mkdir()
        self.defaults("dest: images\nretry: { attempts: 3 }\n")

    def defaults(self, text: str) -> None:
        self.drop("isos/_defaults.yaml", text)

    def places(self) -> dict[str, list[str]]:
        found = {}
        for place in ("", "active", "done", "failed", "reports"):
            folder = self.jobs / place / "isos"
            if folder.is_dir():
                found[place] = sorted(path.name for path in folder.iterdir())
        return found

    def work_all(self):
        self.turns()
        while self.hand.expand_once():
            pass
        paths = self.work()
        self.turns()
        return paths


@pytest.fixture
def street(tmp_path):
    made = Street(tmp_path)
    yield made
    made.hand.close()


def test_what_the_defaults_say_holds_for_the_files_beside_them_and_their_own_keys_go_first(street):
    street.drop("isos/a.yaml", JOB)
    street.drop("isos/b.yaml", "url: http://one.example/g\ndest: mine\nretry: { delay: 9s }\n")
    street.drop("c.yaml", "url: http://one.example/h\n")
    street.turns()
    (b,) = [run for run in street.hand.store.open_runs() if run.job.name == "b"]

    assert sorted(street.work()) == ["h", "images/f", "mine/g"]
    retry = b.groups[0].group.rules.retry
    assert (retry.attempts, retry.delay_s) == (3, 9.0)


def test_a_file_goes_its_way_in_folders_of_its_category_and_reports_are_by_the_jobs_name(street):
    street.drop("isos/a.yaml", JOB)
    street.turns()
    on = street.places()
    street.work()
    street.turns()

    assert on == {"": ["_defaults.yaml"], "active": ["a.yaml"]}
    assert street.places() == {"": ["_defaults.yaml"], "active": [], "done": ["a.yaml"]}
    assert street.report("a")["state"] == "succeeded"
    assert street.report("a")["file"] == "isos/a.yaml"


def test_a_list_has_the_defaults_too(street):
    street.drop("isos/l.urls", "http://one.example/x\nhttp://one.example/y\n")

    assert street.work_all() == ["images/x", "images/y"]
    assert street.places()["done"] == ["l.urls"]


def test_an_input_list_of_aria2c_has_the_defaults_of_its_category(street):
    street.drop("isos/l.aria2", "http://one.example/x\n  dir=deep\nhttp://one.example/y\n")
    street.turns()
    (run,) = street.hand.store.open_runs()

    assert run.groups[0].group.rules.retry.attempts == 3
    assert sorted(street.work()) == ["images/deep/x", "images/y"]


SUMS = f"{'ab' * 32}  a.iso\n{'cd' * 32} *sub/b.iso\n"


@pytest.mark.parametrize(
    ("file", "job"),
    [
        ("isos/SHA256SUMS", "isos-SHA256SUMS"),
        ("isos/sha256sums.txt", "isos-sha256sums"),
        ("isos/my tools.sha256", "my-tools"),
        ("isos/tool_1.7_SHA256SUMS", "tool_1.7_SHA256SUMS"),
    ],
)
def test_a_file_of_checksums_is_a_list_below_the_base_of_its_category(street, file, job):
    street.defaults("dest: images\nbase: [ http://one.example/d/, http://two.example/ ]\n")
    street.drop(file, SUMS)
    street.turns()
    ((name, _),) = street.runs()

    assert (name, street.work_all()) == (job, ["images/a.iso", "images/sub/b.iso"])
    assert street.places()["done"] == [file.partition("/")[2]]


def test_files_of_checksums_of_two_categories_are_two_jobs(street):
    (street.jobs / "tools").mkdir()
    for category in ("isos", "tools"):
        street.drop(f"{category}/_defaults.yaml", f"base: http://one.example/{category}/\n")
        street.drop(f"{category}/SHA256SUMS", SUMS)
    street.turns()

    assert {job for job, _ in street.runs()} == {"isos-SHA256SUMS", "tools-SHA256SUMS"}


@pytest.mark.parametrize(
    ("file", "how"),
    [
        ("isos/SHA256SUMS", "write base: https://... into isos/_defaults.yaml"),
        (
            "x.sha256",
            (
                "put x.sha256 into a subfolder of the jobs folder with a _defaults.yaml that says "
                "base: https://..."
            ),
        ),
    ],
)
def test_checksums_of_files_that_are_nowhere_are_rejected_with_what_to_write_and_where(
    street, file, how
):
    street.drop(file, SUMS)
    street.turns()

    assert street.runs() == []
    assert street.error(file) == (
        f"{file}: a file of checksums does not say where its files are; {how}\n"
    )
    assert (street.jobs / "failed" / file).exists()


def test_what_is_called_like_a_file_of_checksums_and_is_none_is_rejected(street):
    street.defaults("base: http://one.example/\n")
    street.drop("isos/SHA256SUMS", "<html>\n")
    street.turns()

    assert street.runs() == []
    assert "has no line that is a checksum and a name" in street.error("isos/SHA256SUMS")


@pytest.mark.parametrize(
    ("file", "data"),
    [
        ("isos/l.urls", "http://one.example/x\n"),
        ("isos/l.sha256", SUMS),
        ("isos/l.aria2", "http://one.example/x\n"),
        ("isos/l.meta4", METALINK),
    ],
)
@pytest.mark.parametrize(
    "said", ["matrix: { arch: [ a, b ] }", "from: { file: x.txt, format: lines }"]
)
def test_defaults_that_say_what_is_to_be_fetched_cannot_hold_for_a_list(street, file, data, said):
    street.defaults(f"{said}\n")
    street.drop(file, data)
    street.turns()

    key = said.partition(":")[0]
    assert street.places()["failed"] == [file.partition("/")[2]]
    assert street.error(file).startswith(f"isos/_defaults.yaml: {key}: cannot hold for a list")
    assert street.runs() == []


def test_steps_in_defaults_that_ask_for_what_a_list_does_not_have_are_told_at_once(street):
    street.defaults("steps: [ { symlink: 'is-${vars.kind}' } ]\n")
    street.drop("isos/l.urls", "http://one.example/x\n")
    street.drop("isos/a.yaml", f"{JOB}vars: {{ kind: new }}\n")
    street.turns()

    assert street.places()["failed"] == ["l.urls"]
    assert "steps[0].symlink.name: unknown variable ${vars.kind}" in street.error("isos/l.urls")
    assert [job for job, _ in street.runs()] == ["a"]


def test_a_bad_file_of_a_category_is_put_aside_in_it(street):
    street.drop("isos/bad.yaml", "ulr: x\n")
    street.turns()

    assert street.places() == {
        "": ["_defaults.yaml"],
        "failed": ["bad.yaml"],
        "reports": ["bad.yaml.error.txt"],
    }
    assert street.error("isos/bad.yaml").startswith("isos/bad.yaml:1:1: ulr: unknown key")


def test_wrong_defaults_are_told_with_their_place_and_the_files_wait_until_they_are_mended(street):
    street.defaults("dest: images\nretyr: { attempts: 3 }\n")
    street.drop("isos/a.yaml", JOB)
    street.turns(10)
    told = street.error("isos/_defaults.yaml"), len(street.told(JobRejected)), street.runs()
    street.folder._hinted.clear()
    idle = street.folder.idle()
    street.defaults("dest: images\n")
    street.turns()

    assert told[0].startswith("isos/_defaults.yaml:2:1: retyr: unknown key (did you mean 'retry'?)")
    assert told[1:] == (1, [])
    assert idle  # nobody has to wait for it
    assert street.work() == ["images/f"]
    assert not (street.jobs / "reports" / "isos" / "_defaults.yaml.error.txt").exists()


def test_an_edit_of_the_defaults_is_an_edit_of_the_files_that_stay(street):
    street.drop("isos/tools.yaml", "keep: true\n" + JOB)
    street.turns()
    first = street.work()
    street.defaults("dest: elsewhere\n")
    street.turns()
    second = street.work()
    street.defaults("dset: wrong\n")
    street.turns(5)
    street.live()
    street.turns()
    wrong = street.work(), street.kept()

    assert (first, second) == (["images/f"], ["elsewhere/f"])
    assert wrong == ([], {"isos/tools.yaml": "tools"})


def test_a_scheduled_file_runs_with_the_defaults_that_held_when_it_was_accepted(street):
    street.drop("isos/nightly.yaml", NIGHTLY.replace("dest: ${run.date}\n", ""))
    street.turns()
    street.live()
    street.turns()
    street.defaults("dset: wrong\n")
    street.at("2026-11-28 03:15")

    assert street.work() == ["images/f"]


def test_a_file_of_a_category_that_is_taken_away_ends_its_job(street):
    path = street.drop("isos/tools.yaml", "keep: true\n" + JOB)
    street.turns()
    street.work()
    path.unlink()
    street.turn(0.1)
    street.turn(GONE_S)

    assert street.kept() == {}


def test_control_files_work_in_the_category_and_above_it(street):
    street.drop("isos/a.yaml", JOB)
    street.drop("isos/b.yaml", JOB.replace("/f", "/g"))
    street.turns()
    street.drop("isos/a.cancel", "")
    street.drop("b.cancel", "")
    street.turns()

    assert street.report("a")["state"] == street.report("b")["state"] == RunState.CANCELLED
    assert street.places()["failed"] == ["a.yaml", "b.yaml"]
    street.drop("isos/a.retry", "")
    street.turns()
    assert street.error("isos/a.retry")  # a cancelled run has nothing to try again


def test_a_retry_brings_the_file_back_into_its_category(street):
    from fetchd.model import Failure

    street.drop("isos/a.yaml", JOB)
    street.turns()
    street.hand.settle(street.hand.fetch(), Failure(code="not_found", reason="", transient=False))
    street.turns()
    street.drop("a.retry", "")
    street.turns()
    back = street.places()["active"]
    street.work()

    assert back == ["a.yaml"]
    assert street.places()["done"] == ["a.yaml"]


def test_two_files_of_one_name_in_two_categories_are_one_job_and_wait_for_one_another(street):
    street.drop("isos/a.yaml", JOB)
    street.drop("a.yaml", JOB)
    street.turns()

    assert [street.work_all(), street.work_all()] == [["images/f"], ["f"]]
    assert len(street.told(JobAccepted)) == 2


def test_a_folder_without_defaults_is_left_alone_and_told_of(street):
    (street.jobs / "notes").mkdir()
    street.drop("notes/a.yaml", JOB)
    street.turns()

    assert (street.jobs / "notes" / "a.yaml").is_file()
    assert [event.file for event in street.told(FileIgnored)] == ["notes"]
    assert street.runs() == []


def test_f09_a_link_to_a_folder_is_no_category(street, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "_defaults.yaml").write_text("dest: x\n")
    (outside / "secret.yaml").write_text(JOB)
    (street.jobs / "link").symlink_to(outside)
    street.turns()

    assert street.runs() == []
    assert (outside / "secret.yaml").is_file()


def test_f09_a_link_that_takes_a_categorys_place_after_a_look_is_not_followed(street, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "a.yaml").write_text(JOB)
    (street.jobs / "link").symlink_to(outside)
    places = Places(street.jobs, SystemOs())

    with pytest.raises(NotADirectoryError):
        places.open(Place.JOBS, "link/a.yaml")
    assert places.stat(Place.JOBS, "link/a.yaml") is None
    places.end_turn()


def test_files_of_categories_are_found_by_looking_and_are_not_missed_events(street):
    street.drop("isos/a.yaml", JOB)
    street.turns(20)

    assert street.folder.turn(lambda: None) <= 5.0
    assert street.told(WatchMissed) == []


@pytest.mark.parametrize(
    ("place", "file"),
    [
        ("folder.accepted", "isos/a.yaml"),
        ("folder.moved", "isos/a.yaml"),
        ("folder.claimed", "isos/a.urls"),
        ("folder.accepted", "isos/a.urls"),
    ],
)
def test_a_crash_on_the_way_in_neither_loses_nor_repeats_a_file_of_a_category(street, place, file):
    street.live(crash_at=place)
    street.drop(file, JOB if file.endswith(".yaml") else "http://one.example/f\n")
    with pytest.raises(Crash):
        street.turns()
    street.live()

    assert street.work_all() == ["images/f"]
    assert street.places()["done"] == [file.removeprefix("isos/")]
    assert len({event.run for event in street.told(JobAccepted)}) == 1
