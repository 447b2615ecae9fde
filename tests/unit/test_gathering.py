"""What a task begins with that fetches nothing, and what of it is published: on a real disk."""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from fetchd.clock import Failpoints, SystemClock
from fetchd.disk import RootSpec, SystemOs, build, staging
from fetchd.errors import AttemptError
from fetchd.model import (
    Failure,
    Finish,
    Finished,
    History,
    IfExists,
    Intent,
    Job,
    Publish,
    Published,
    Rules,
    Run,
    Staged,
    StepSpec,
    Task,
    TaskGroup,
    TaskSpec,
    UpToDate,
    Validator,
    Verify,
)
from fetchd.ports import GivenFile
from fetchd.steps import STEPS, Finisher, Kind
from fetchd.urls import HERE
from harness import ONE_CORE
from workshop import steps_of

RUN = Run(id=1, job="j", revision="r", scheduled_for_s=0.0)


class NoLinks(SystemOs):
    """A file system, or a border between two, that hard links cannot cross."""

    error = 0

    def link(self, src, dst, *, src_dir_fd, dst_dir_fd):
        if self.error:
            raise OSError(self.error, os.strerror(self.error))
        super().link(src, dst, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)


class Bench:
    """Gives files below two roots to the steps of a task, and publishes what they make."""

    def __init__(self, folder: Path, steps=STEPS) -> None:
        self.root, self.other = folder / "root", folder / "other"
        self.system = NoLinks()
        roots = {"default": self.root, "other": self.other}
        self.disk = build({n: RootSpec(path=str(p)) for n, p in roots.items()}, self.system)
        self.given: list[GivenFile] = []
        self.looked = {"a": "b"}
        self.finisher = Finisher(
            steps,
            self.disk,
            lambda attempt, progress: True,
            lambda event: None,
            SystemClock(),
            Failpoints(),
            lambda attempt: self.looked.__getitem__,
            lambda attempt: self.given,
            ONE_CORE,
        )

    def put(self, path: str, data: bytes = b"x", *, root: str = "default", above: str = "") -> Path:
        """Make a file as if a task had published it, and give it."""
        file = (self.root if root == "default" else self.other) / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        self.given.append(GivenFile(root=root, path=path, above=above, made=False))
        return file

    def attempt(
        self, path: str, *entries: object, if_exists=IfExists.UPDATE, recovered=False, name="g"
    ) -> Finish:
        group = TaskGroup(
            name=name,
            items=(),
            rules=Rules(if_exists=if_exists),
            steps=steps_of(*entries),
            gathers=True,
        )
        spec = TaskSpec(key=path, path=path, sources=(HERE,))
        return Finish(
            fence=1,
            job=Job(name="j", revision="r", groups=(group,)),
            run=RUN,
            group=group,
            task=Task(id=1, group=1, spec=spec, history=History()),
            intent=Intent(
                root="default",
                path=path,
                part="",
                device=0,
                inode=0,
                size_bytes=0,
                verified=Verify.NONE,
                digests=(),
                clobber=if_exists is not IfExists.FAIL,
                url=HERE,
                final_url=HERE,
                validator=Validator(),
                mtime_s=1_700_000_000.0,
                resumed_from_bytes=0,
                received_bytes=0,
                elapsed_s=0.0,
                begun=True,
            ),
            recovered=recovered,
        )

    def make(self, path: str, *entries: object, **more):
        attempt = self.attempt(path, *entries, **more)
        outcome = self.finisher(attempt)
        if not isinstance(outcome, Finished):
            return outcome
        return self.publish(attempt, outcome.staged)

    def publish(self, attempt: Finish, staged: Staged, *, recovered: bool = False):
        publication = Publish(
            fence=2,
            job=attempt.job,
            run=RUN,
            group=attempt.group,
            task=attempt.task,
            intent=replace(attempt.intent, staged=staged),
            recovered=recovered,
        )
        ((_, outcome),) = self.disk.publish([publication])
        return outcome

    def seen(self) -> set[str]:
        return {
            str(path.relative_to(self.root))
            for path in self.root.rglob("*")
            if not path.is_dir() and ".fetchd" not in path.parts
        }

    def left(self) -> list[Path]:
        inner = self.root / ".fetchd/staging"
        return [path for path in inner.rglob("*") if path.is_file()]


@pytest.fixture
def bench(tmp_path):
    made = Bench(tmp_path)
    yield made
    made.disk.close()


def paths_seen(found: list[str]) -> Kind:
    def work(bench, options):
        found.extend(file.path for file in bench.files())

    return Kind(work=work)


@pytest.mark.parametrize(
    ("own", "path", "root", "above", "appears"),
    [
        ("./list", "a", "default", "", "a"),
        ("./list", "d/a", "default", "d", "d/a"),
        ("./d/list", "d/a", "default", "", "a"),
        ("./d/list", "d/e/a", "default", "d/e", "e/a"),
        ("./d/list", "x/e/a", "default", "x", "e/a"),
        ("./d/list", "d/e/a", "other", "d/e", "a"),
        ("./d/list", "dd/a", "default", "", "dd/a"),
        ("d/all.bin", "d/a", "default", "", "a"),
    ],
)
def test_a_file_appears_below_the_folder_of_the_task_or_below_that_of_its_own(
    tmp_path, own, path, root, above, appears
):
    found: list[str] = []
    made = Bench(tmp_path, {**STEPS, "mode": paths_seen(found)})
    made.put(path, root=root, above=above)
    outcome = made.make(own, {"mode": "0644"})
    made.disk.close()

    assert isinstance(outcome, Published)
    assert found == [appears]


@pytest.mark.parametrize("error", [0, errno.EXDEV, errno.EPERM, errno.EMLINK])
def test_files_that_are_only_carried_are_neither_published_nor_changed(bench, error):
    bench.put("a/1", b"one", above="a")
    bench.put("2", b"two", root="other")
    before = {path: path.stat() for path in (bench.root / "a/1", bench.other / "2")}
    bench.system.error = error

    assert isinstance(bench.make("./c/list", "checksum_file"), Published)
    assert bench.seen() == {"a/1", "c/SHA256SUMS"}
    assert bench.left() == []
    for path, found in before.items():
        now = path.stat()
        assert (now.st_ino, now.st_mtime_ns, now.st_nlink) == (
            found.st_ino,
            found.st_mtime_ns,
            1,
        )


def test_folders_of_what_is_only_carried_do_not_appear(bench):
    bench.put("a/deep/er/1", above="a")
    bench.put("a/2", above="a")

    assert isinstance(bench.make("./c/list", "checksum_file"), Published)
    assert list((bench.root / "c").iterdir()) == [bench.root / "c/SHA256SUMS"]


def test_a_mode_makes_copies_and_leaves_the_files_alone(bench):
    file = bench.put("a/1", b"one", above="a")
    file.chmod(0o644)

    assert isinstance(bench.make("./c/list", {"mode": "0600"}), Published)
    assert stat.S_IMODE(file.stat().st_mode) == 0o644
    copy = bench.root / "c/1"
    assert (copy.read_bytes(), stat.S_IMODE(copy.stat().st_mode)) == (b"one", 0o600)
    assert copy.stat().st_ino != file.stat().st_ino


def test_a_file_that_has_the_mode_already_is_not_copied(bench):
    bench.put("a/1", above="a").chmod(0o600)

    assert isinstance(bench.make("./c/list", {"mode": "0600"}), Published)
    assert bench.seen() == {"a/1"}


def writing_in_place(bench, options):
    bench.carry()
    with bench.lend() as folder:
        fd = os.open(folder, os.O_RDONLY)
        for name, data in (("1", b"new"), ("same", b"old")):
            target = os.open(name, os.O_WRONLY, dir_fd=fd)
            before = os.fstat(target)
            os.pwrite(target, data, 0)
            os.utime(target, ns=(before.st_atime_ns, before.st_mtime_ns))
            os.close(target)
        os.close(fd)


@pytest.mark.parametrize("error", [0, errno.EPERM])
def test_a_program_that_writes_in_place_and_hides_it_changes_copies_alone(tmp_path, error):
    made = Bench(tmp_path, {**STEPS, "run": Kind(work=writing_in_place), "mode": STEPS["mode"]})
    first = made.put("a/1", b"old", above="a")
    made.put("a/same", b"old", above="a")
    made.system.error = error
    attempt = made.attempt("./c/list", {"mode": "0644"})
    attempt = replace(attempt, group=replace(attempt.group, steps=(StepSpec(name="run"),)))
    outcome = made.finisher(attempt)
    assert isinstance(outcome, Finished), outcome
    made.publish(attempt, outcome.staged)
    made.disk.close()

    assert first.read_bytes() == b"old"
    if not error:  # where there are no links nothing tells it but size and date, which are the same
        assert made.seen() == {"a/1", "a/same", "c/1"}
        assert (made.root / "c/1").read_bytes() == b"new"


def test_two_files_at_one_path_are_named_both(bench):
    bench.put("a/x/1", above="a/x")
    bench.put("b/1", above="b")
    failure = bench.make("./c/list", "checksum_file")

    assert (failure.code, failure.transient) == ("step_failed", False)
    assert "'1' would be both default:a/x/1 and default:b/1" in failure.reason
    assert bench.left() == []


def test_a_file_where_another_has_a_folder_is_named_too(bench):
    bench.put("a/1/2", above="a")
    bench.put("b/1", above="b")
    failure = bench.make("./c/list", "checksum_file")

    assert failure.code == "step_failed"
    assert "default:a/1/2 and default:b/1" in failure.reason


def test_a_file_that_two_tasks_have_published_in_turn_is_one(bench):
    bench.put("a/1", b"one", above="a")
    bench.put("a/1", b"two", above="a")

    assert isinstance(bench.make("./c/list", "checksum_file"), Published)
    assert (bench.root / "c/1.sha256").exists()


@pytest.mark.parametrize("how", ["gone", "folder", "link", "root"])
def test_a_file_that_is_no_more_as_it_was_published_is_named(bench, how):
    file = bench.put("a/1", above="a")
    if how == "root":
        bench.given[0] = replace(bench.given[0], root="none")
    else:
        file.unlink()
        if how == "folder":
            file.mkdir()
        if how == "link":
            file.symlink_to("/etc/passwd")
    failure = bench.make("./c/list", "checksum_file")

    assert isinstance(failure, Failure)
    assert "a/1" in failure.reason or "'none'" in failure.reason
    assert not failure.transient


def test_what_steps_made_is_given_in_place_of_their_file_but_for_what_is_not_on_record(bench):
    bench.put("a/1", b"one", above="a")
    assert isinstance(bench.make("./a/first", {"checksum_file": {"name": "S"}}), Published)
    bench.given[:] = [GivenFile(root="default", path="./a/first", above="a", made=True)]
    assert isinstance(bench.make("./c/second", "checksum_file"), Published)
    bench.given.append(GivenFile(root="default", path="./a/other", above="a", made=True))
    failure = bench.make("./c/third", "checksum_file")

    assert (bench.root / "c/S.sha256").exists()
    assert "not on record any more" in failure.reason


def test_nothing_is_made_again_while_nothing_has_changed(bench):
    first = bench.put("a/1", b"one", above="a")
    steps = [{"checksum_file": {"name": "${a}"}}]

    def again(**more):
        return isinstance(bench.make("./c/list", *steps, **more), UpToDate)

    kinds = [again(), again()]
    first.write_bytes(b"two")
    kinds += [again(), again()]
    bench.put("a/2", above="a")
    kinds += [again(), again()]
    bench.looked["a"] = "c"
    kinds += [again(), again()]
    (bench.root / "c/c").write_bytes(b"touched")
    kinds += [again(), again()]
    steps[0] = {"checksum_file": {"name": "${a}", "algorithm": "md5"}}
    kinds += [again(), again(), again(if_exists=IfExists.OVERWRITE)]

    assert kinds == [False, True] * 6 + [False]


def test_with_skip_nothing_is_made_again_while_all_names_are_there(bench):
    file = bench.put("a/1", b"one", above="a")

    def again():
        return isinstance(
            bench.make("./c/list", "checksum_file", if_exists=IfExists.SKIP), UpToDate
        )

    kinds = [again()]
    file.write_bytes(b"other")
    kinds.append(again())
    (bench.root / "c/1.sha256").unlink()
    kinds.append(again())

    assert kinds == [False, True, False]


@pytest.mark.parametrize("if_exists", [IfExists.UPDATE, IfExists.FAIL])
def test_another_file_of_a_name_that_another_task_has_published_is_refused(bench, if_exists):
    bench.put("c/1", b"one")
    failure = bench.make("./c/list", {"mode": "0600"}, if_exists=if_exists)

    assert failure.code == "dest_conflict"
    assert stat.S_IMODE((bench.root / "c/1").stat().st_mode) != 0o600
    assert bench.left() == []


def test_a_name_of_somebody_elses_is_as_if_exists_says(bench):
    bench.put("a/1", b"one", above="a")
    (bench.root / "c").mkdir()
    (bench.root / "c/1.sha256").write_text("mine")
    failure = bench.make("./c/list", "checksum_file", if_exists=IfExists.FAIL)
    kept = (bench.root / "c/1.sha256").read_text()
    published = bench.make("./c/list", "checksum_file")

    assert (failure.code, kept) == ("exists", "mine")
    assert isinstance(published, Published)
    assert (bench.root / "c/1.sha256").read_text() != "mine"


def test_links_are_given_as_links(bench):
    bench.put("x/1", b"one", above="x")
    made = bench.make("./a/first", {"mode": "0640"}, {"symlink": {"name": "latest", "to": "1"}})
    assert isinstance(made, Published)
    bench.given[:] = [GivenFile(root="default", path="./a/first", above="a", made=True)]
    for error in (0, errno.EXDEV):
        bench.system.error = error
        outcome = bench.make(f"./c{error}/list", "checksum_file")
        assert isinstance(outcome, Published), outcome
        assert (bench.root / f"c{error}/1.sha256").exists()
        assert not (bench.root / f"c{error}/latest").exists()


def test_what_was_sealed_before_a_crash_is_published_as_it_is(bench):
    bench.put("a/1", b"one", above="a")
    attempt = bench.attempt("./c/list", "checksum_file")
    staged = bench.finisher(attempt).staged
    bench.disk.close()  # and with it all locks
    bench.__init__(bench.root.parent)
    recovered = replace(attempt, recovered=True, intent=replace(attempt.intent, staged=staged))
    outcome = bench.finisher(recovered)

    assert outcome == Finished(staged=staged)
    assert isinstance(bench.publish(attempt, staged, recovered=True), Published)
    assert bench.finisher(recovered) == Finished(staged=staged)  # a crash before that was recorded
    assert isinstance(bench.publish(attempt, staged, recovered=True), Published)
    assert bench.seen() == {"a/1", "c/1.sha256"}


def test_a08_a_crash_while_what_is_left_was_removed_leaves_nothing(bench):
    bench.put("a/1", b"one", above="a")
    attempt = bench.attempt("./c/list", "checksum_file")
    staged = bench.finisher(attempt).staged
    assert isinstance(bench.publish(attempt, staged), Published)
    (name,) = [path.name for path in (bench.root / ".fetchd/made").iterdir()]
    half = bench.root / ".fetchd/staging" / name
    half.mkdir()
    (half / "what").touch()

    assert isinstance(bench.publish(attempt, staged, recovered=True), Published)
    assert bench.left() == []


def test_without_room_for_copies_the_disk_is_full(tmp_path):
    class Full(NoLinks):
        error = errno.EXDEV

        def free_bytes(self, fd):
            return 0

    made = Bench(tmp_path)
    made.put("a/1", b"one", above="a")
    made.disk.close()
    made.system = Full()
    made.disk = build({"default": RootSpec(path=str(made.root))}, made.system)
    made.finisher._disk = made.disk
    failure = made.make("./c/list", "checksum_file")
    made.disk.close()

    assert (failure.code, failure.kept) == ("disk_full", True)
    assert made.left() == []


def test_a_run_that_nobody_wants_any_more_is_left_while_files_are_laid_out(bench):
    from fetchd.errors import NotWanted

    bench.put("a/1", above="a")

    def tick():
        raise NotWanted

    attempt = bench.attempt("./c/list", "checksum_file")
    with pytest.raises(NotWanted), bench.disk.gather(attempt, lambda: bench.given, "x", tick):
        pass
    assert bench.left() == []


# ---------------------------------------------------------------- at the end of a run


def test_at_the_end_of_a_run_programs_see_the_root_and_there_are_no_files(bench):
    attempt = bench.attempt("./j/on_success", "checksum_file")
    with bench.disk.stage_end(attempt) as working:
        with working.bench(lambda: None) as given:
            given.carry()
            with given.lend() as folder:
                assert Path(folder).samefile(bench.root)
            assert list(given.files()) == []
            for refused in (
                lambda: given.open("x"),
                lambda: given.make("x"),
                lambda: given.make_folder("x"),
                lambda: given.make_link("x", "y"),
                lambda: given.set_mode(0o600),
            ):
                with pytest.raises(AttemptError, match="there are no files"):
                    refused()
        assert working.seal(lambda: None) == Staged(files=0, bytes=0)
    assert bench.left() == []
    assert bench.seen() == set()


@pytest.mark.parametrize("begun", [True, False])
def test_at_the_end_of_a_run_a_crash_knows_what_had_begun(bench, monkeypatch, begun):
    attempt = bench.attempt("./j/on_success", "checksum_file")
    with bench.disk.stage_end(attempt) as working:
        with working.bench(lambda: None) as given:
            if begun:
                given.begin_unrepeatable()
        monkeypatch.setattr(staging, "remove_staging", lambda *_: None)  # nobody comes to that
    monkeypatch.undo()
    assert len(list(bench.root.glob(".fetchd/staging/*"))) == begun
    recovered = replace(attempt, recovered=True)

    if begun:
        with pytest.raises(AttemptError) as raised, bench.disk.stage_end(recovered):
            pass
        assert raised.value.code == "needs_attention"
    with bench.disk.stage_end(attempt if begun else recovered):
        pass
    assert bench.left() == []


def test_at_the_end_of_a_run_what_needs_no_disk_asks_for_none(bench):
    attempt = bench.attempt("./j/on_failure", "checksum_file")
    with bench.disk.stage_end(attempt) as working, working.bench(lambda: None) as given:
        given.carry()

    assert list(bench.root.iterdir()) == []


def test_what_had_begun_before_a_retry_is_forgotten_by_it(bench, monkeypatch):
    attempt = bench.attempt("./j/on_success", "checksum_file")
    with bench.disk.stage_end(attempt) as working, working.bench(lambda: None) as given:
        given.begin_unrepeatable()
        given.begin_unrepeatable()  # by another step
        monkeypatch.setattr(staging, "remove_staging", lambda *_: None)  # nobody comes to that
    monkeypatch.undo()
    with bench.disk.stage_end(attempt):  # may be taken twice by now
        pass
    with bench.disk.stage_end(replace(attempt, recovered=True)):
        pass

    assert bench.left() == []
