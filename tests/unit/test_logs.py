from __future__ import annotations

import io
import json
import logging
import os
import threading
import time
import warnings
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fetchd import logs
from fetchd.errors import ConfigError
from fetchd.logs.redactor import redact, redact_text
from fetchd.logs.render import Console, stamp
from fetchd.logs.writer import File, LogWriter, Stream

AT_S = 1_700_000_000.1239


@contextmanager
def configured(level="info", form="json"):
    """Yield a function that ends logging and returns the lines as dicts, or the text."""
    stream = io.StringIO()
    setup = logs.configure(level, form, stream=stream, wall=lambda: AT_S)

    def read():
        assert setup.close(5.0)
        text = stream.getvalue()
        return text if form == "console" else [json.loads(row) for row in text.splitlines()]

    try:
        yield read
    finally:
        setup.close(5.0)


def test_a_line_has_a_stamp_in_utc_its_level_its_name_its_fields_and_its_thread():
    with configured() as read:
        logs.get_logger().info("task.done", size_bytes=3, elapsed_s=0.5, final=None)

        lines = read()

    assert lines == [
        {
            "timestamp": "2023-11-14T22:13:20.123Z",
            "level": "info",
            "event": "task.done",
            "size_bytes": 3,
            "elapsed_s": 0.5,
            "final": None,
            "thread": threading.current_thread().name,
        }
    ]


def test_levels_below_the_configured_one_are_left_out():
    with configured("warning") as read:
        log = logs.get_logger()
        log.info("a.told")
        log.warning("b.told")

        lines = read()

    assert [line["event"] for line in lines] == ["b.told"]


def test_bound_fields_are_in_the_lines_of_this_thread_only_and_end_with_the_context():
    with configured() as read:
        log = logs.get_logger()
        with logs.bound(job="j", task=7):
            log.info("in.told")
            other = threading.Thread(target=log.info, args=("other.told",), name="other")
            other.start()
            other.join()
        log.info("after.told")

        lines = read()

    assert [(line["event"], line.get("job"), line.get("task")) for line in lines] == [
        ("in.told", "j", 7),
        ("other.told", None, None),
        ("after.told", None, None),
    ]


def test_a_fields_own_value_wins_over_the_bound_one():
    with configured() as read, logs.bound(job="bound"):
        logs.get_logger().info("run.ended", job="own")

        assert read()[0]["job"] == "own"


@pytest.mark.parametrize(
    ("given_text", "shown"),
    [
        ("https://user:pw@h.example/x?token=abc#frag", "https://h.example/x?..."),
        ("get http://a/?k=v then http://b/y#z", "get http://a/?... then http://b/y"),
        ("(Caused by url: /p?key=abc&n=2)", "(Caused by url: /p?key=...&n=..."),
        ("Authorization: Bearer abcdefghijkl", "Authorization: (hidden)"),
        ("sent Bearer abcdefghijkl to it", "sent Bearer (hidden) to it"),
        ("{'Cookie': 'a=b'}", "{'Cookie': (hidden)"),
        ("https://h.example/plain/path", "https://h.example/plain/path"),
        ("a\nb\r\x1b[31mc\x9b \u202e", "a\\nb\\r\\x1b[31mc\\x9b \\u202e"),
        ("name \udcff.bin", "name \\udcff.bin"),
        ("größe ✓", "größe ✓"),
    ],
)
def test_secrets_in_texts_are_hidden_and_controls_are_escaped(given_text, shown):
    assert redact_text(given_text) == shown


@pytest.mark.parametrize(
    "key",
    ["authorization", "Proxy-Authorization", "access_token", "password", "client_secret",
     "Set-Cookie", "api_key", "X-API-Key", "credentials"],
)  # fmt: skip
def test_values_under_keys_that_look_secret_are_hidden_at_any_depth(key):
    line = redact(None, "", {key: "s3cret", "deep": {"er": [{key: "s3cret"}]}, "n": 1})

    assert "s3cret" not in repr(line)
    assert line["n"] == 1


def test_a_secret_in_a_query_is_hidden_inside_lists_mappings_bytes_and_exceptions():
    url = "https://h.example/x?sig=s3cret"

    line = redact(
        None,
        "",
        {
            "urls": (url,),
            "by": {"a": [url], url: 1},
            "raw": url.encode(),
            "exc": ValueError(f"no {url}"),
            "traceback": f"Traceback\n  {url}\n",
        },
    )

    assert "s3cret" not in repr(line)
    assert line["traceback"] == "Traceback\n  https://h.example/x?...\n"


def test_long_values_and_long_lists_are_cut():
    line = redact(None, "", {"text": "x" * 1_000_000, "many": list(range(10_000))})

    assert len(str(line["text"])) < 2_100
    assert str(line["text"]).endswith("(1000000 characters)")
    assert len(line["many"]) == 50


@settings(derandomize=True, max_examples=100)
@given(st.text(alphabet=st.characters(exclude_characters="\n"), max_size=300))
def test_whatever_is_logged_stays_one_line_without_controls(text):
    shown = redact_text(text)

    assert not any(ord(char) < 32 or 127 <= ord(char) < 160 for char in shown)


@settings(derandomize=True, max_examples=100)
@given(
    st.dictionaries(
        st.text(max_size=8),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.text(max_size=5), inner, max_size=3)
            ),
            max_leaves=10,
        ),
        max_size=4,
    )
)
def test_any_fields_become_valid_json(fields):
    line = redact(None, "", dict(fields))

    assert isinstance(json.loads(json.dumps(line, allow_nan=False)), dict)


def test_an_exception_is_shown_as_a_plain_traceback_without_locals():
    with configured() as read:
        hidden_local = "s3cret-local"
        try:
            raise ValueError("at https://h.example/?sig=s3cret")
        except ValueError:
            logs.get_logger().error("x.failed", exc_info=True)
        del hidden_local

        (line,) = read()

    assert "ValueError: at https://h.example/?..." in line["traceback"]
    assert "s3cret" not in line["traceback"]


def test_lines_of_libraries_take_the_same_way_and_the_talkative_are_quieted():
    with configured("debug") as read:
        logging.getLogger("urllib3.connectionpool").debug("GET /x?sig=s3cret")
        logging.getLogger("urllib3").warning("retry %s", "https://h.example/?sig=s3cret")
        logging.getLogger("some.library").log(25, "odd level")
        broken = logging.LogRecord("broken", logging.ERROR, "", 1, "%d", ("no number",), None)
        logging.root.handlers[-1].handle(broken)
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            logging.captureWarnings(capture=True)
            warnings.warn("old", DeprecationWarning, stacklevel=1)

        lines = read()

    assert [(row["event"], row["level"], row["logger"]) for row in lines] == [
        ("library.logged", "warning", "urllib3"),
        ("library.logged", "info", "some.library"),
        ("library.logged", "error", "broken"),
        ("library.logged", "warning", "py.warnings"),
    ]
    assert lines[0]["message"] == "retry https://h.example/?..."


def test_a_library_thread_that_dies_is_logged():
    def die():
        raise RuntimeError("observer is gone")

    with configured() as read:
        thread = threading.Thread(target=die, name="observer")
        thread.start()
        thread.join()

        (line,) = read()

    assert (line["event"], line["level"], line["died"]) == ("thread.died", "error", "observer")
    assert line["error"] == "RuntimeError: observer is gone"
    assert "Traceback" in line["traceback"]


def test_the_console_shows_columns_and_an_indented_traceback():
    show = Console(colours=False)

    text = show(
        {
            "timestamp": stamp(AT_S),
            "level": "error",
            "event": "x.failed",
            "n": 1.0,
            "name": "a b",
            "plain": "ab",
            "many": ["a"],
            "traceback": "Traceback\n  fake 2023 line\n",
        }
    )

    assert text == (
        '2023-11-14T22:13:20.123Z error   x.failed             n=1 name="a b" plain=ab many=["a"]\n'
        "    Traceback\n"
        "      fake 2023 line"
    )


def test_auto_is_json_where_no_terminal_is():
    with configured(form="auto") as read:
        logs.get_logger().info("a.told")

        assert read()[0]["event"] == "a.told"


def test_a_pipe_that_nobody_reads_stops_no_caller_and_the_loss_is_counted():
    reading, writing = os.pipe()
    end = os.fdopen(writing, "w")
    writer = LogWriter(Stream(end), json.dumps, most=50)
    big = "x" * 10_000

    began_s = time.monotonic()
    for number in range(500):
        writer.put({"event": "a.told", "number": number, "big": big})
    took_s = time.monotonic() - began_s
    stuck = writer.close(0.05)
    with os.fdopen(reading) as reader:
        rows: list[dict[str, Any]] = []
        thread = threading.Thread(target=lambda: rows.extend(json.loads(row) for row in reader))
        thread.start()
        closed = writer.close(5.0)
        end.close()
        thread.join(5.0)

    assert took_s < 2.0
    assert not stuck
    assert closed
    told = [row for row in rows if row["event"] == "a.told"]
    lost = sum(row["count"] for row in rows if row["event"] == "log.dropped")
    assert [row["number"] for row in told] == list(range(len(told)))
    assert lost > 0
    assert lost + len(told) == 500


class Fails(io.StringIO):
    """A stream that refuses to be written while ``broken``."""

    def __init__(self, error: type[Exception] = BrokenPipeError):
        super().__init__()
        self.error = error
        self.broken = True
        self.refused = threading.Event()
        self.text = ""

    def fileno(self):
        raise OSError

    def write(self, text):
        if self.broken:
            self.refused.set()
            raise self.error
        self.text += text


def test_lines_lost_to_a_failing_sink_are_counted_when_it_recovers():
    stream = Fails()
    writer = LogWriter(Stream(stream), json.dumps)
    writer.put({"event": "lost.told"})
    assert stream.refused.wait(5.0)
    deadline_s = time.monotonic() + 5.0
    while not writer._dropped and time.monotonic() < deadline_s:
        time.sleep(0.001)
    stream.broken = False

    writer.put({"event": "kept.told"})
    writer.close(5.0)

    dropped, kept = (json.loads(row) for row in stream.text.strip().split("\n"))
    assert (dropped["event"], dropped["level"], dropped["count"]) == ("log.dropped", "warning", 1)
    assert kept == {"event": "kept.told"}


def test_a_closed_stderr_and_a_missing_one_harm_nobody():
    closed = io.StringIO()
    closed.close()
    for stream in (closed, None):
        writer = LogWriter(Stream(stream), json.dumps)
        writer.put({"event": "a.told"})

        assert writer.close(5.0)


def test_a_line_that_cannot_be_rendered_does_not_end_the_writer():
    stream = io.StringIO()
    writer = LogWriter(Stream(stream), json.dumps)

    writer.put({"event": object()})
    writer.put({"event": "b.told"})
    writer.close(5.0)

    assert "b.told" in stream.getvalue()


def test_c07_a_writer_that_runs_short_of_memory_goes_on():
    stream = Fails(MemoryError)
    writer = LogWriter(Stream(stream), json.dumps)
    writer.put({"event": "lost.told"})
    assert stream.refused.wait(5.0)
    stream.broken = False

    writer.put({"event": "kept.told"})
    writer.close(5.0)

    assert "kept.told" in stream.text


def test_a_line_after_the_end_is_dropped_without_a_wait():
    stream = io.StringIO()
    writer = LogWriter(Stream(stream), json.dumps)
    writer.close(5.0)

    writer.put({"event": "late.told"})

    assert stream.getvalue() == ""


def test_a_log_file_is_followed_when_it_is_moved_away(tmp_path):
    path = tmp_path / "fetchd.log"
    setup = logs.configure("info", "auto", path)
    sink = setup._writer._sink
    assert isinstance(sink, File)
    logs.get_logger().info("first.told")
    deadline_s = time.monotonic() + 5.0
    while not path.read_text() and time.monotonic() < deadline_s:
        time.sleep(0.001)
    path.rename(tmp_path / "fetchd.log.1")
    sink._checked_s -= 10.0

    logs.get_logger().info("second.told")
    setup.close(5.0)

    assert json.loads((tmp_path / "fetchd.log.1").read_text())["event"] == "first.told"
    assert json.loads(path.read_text())["event"] == "second.told"


def test_a_log_file_that_cannot_be_opened_is_an_error_of_the_configuration(tmp_path):
    with pytest.raises(ConfigError, match=r"log\.file: cannot write .*No such file"):
        logs.configure("info", "auto", tmp_path / "no" / "fetchd.log")
