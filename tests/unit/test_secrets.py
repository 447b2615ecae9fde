from __future__ import annotations

import os
from pathlib import Path

import pytest

from fetchd import logs, secrets
from fetchd.errors import ConfigError
from fetchd.secrets import Place, Secret, hide, hide_in_start, netrc_login, read, tells


def written(path, content, mode=0o600):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    path.chmod(mode)
    return path


def one(place, environ=None):
    return read({"ONE": place}, environ or {})["ONE"].reveal()


def refused(place, environ=None):
    with pytest.raises(ConfigError) as caught:
        one(place, environ)
    text = str(caught.value)
    assert text.startswith(f"secrets.ONE.{place.kind}: ")
    return text


# ---------------------------------------------------------------- where they are read


@pytest.mark.parametrize("content", ["value-1", "value-1\n", "value-1\r\n"])
def test_a_file_of_one_line_is_a_secret(tmp_path, content):
    assert one(Place("file", str(written(tmp_path / "s", content)))) == "value-1"


def test_spaces_belong_to_a_secret(tmp_path):
    assert one(Place("file", str(written(tmp_path / "s", " a b \n")))) == " a b "


def test_a_credential_is_read_where_systemd_has_put_it(tmp_path):
    written(tmp_path / "token", "value-2\n", 0o444)

    found = one(Place("credential", "token"), {"CREDENTIALS_DIRECTORY": str(tmp_path)})

    assert found == "value-2"


def test_without_credentials_it_says_what_the_unit_needs(tmp_path):
    text = refused(Place("credential", "token"))

    assert "LoadCredential=token:PATH" in text
    assert "cannot be read: no such file" in refused(
        Place("credential", "token"), {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    )


def test_a_variable_is_read_as_it_is():
    assert one(Place("env", "TOKEN"), {"TOKEN": "value-3"}) == "value-3"
    assert "no variable TOKEN" in refused(Place("env", "TOKEN"))


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o620, 0o602, 0o777, 0o660])
def test_a_file_that_others_could_read_or_change_is_refused(tmp_path, mode):
    text = refused(Place("file", str(written(tmp_path / "s", "value-4", mode))))

    assert f"has mode {mode:04o}" in text
    assert "make it 0600" in text


@pytest.mark.parametrize("mode", [0o400, 0o600, 0o640, 0o440])
def test_a_file_may_be_for_its_owner_and_the_group_to_read(tmp_path, mode):
    assert one(Place("file", str(written(tmp_path / "s", "value-5", mode)))) == "value-5"


def test_a_file_of_another_user_is_refused(tmp_path, monkeypatch):
    path = written(tmp_path / "s", "value-6")
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
    if path.stat().st_uid == 0:
        os.chown(path, 4321, -1)

    assert "it must belong to" in refused(Place("file", str(path)))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "it is empty"),
        ("\n", "it is empty"),
        ("a\nb", "several lines"),
        ("a\x00b", "control characters"),
        (b"\xff\xfe", "is not UTF-8"),
        ("x" * 70_000, "more than 64 KiB"),
    ],
)
def test_what_cannot_be_a_secret_is_refused_without_being_quoted(tmp_path, content, why):
    assert why in refused(Place("file", str(written(tmp_path / "s", content))))


def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "fifo", 0o600)

    assert "is not a file" in refused(Place("file", str(tmp_path / "fifo")))
    assert "is a directory" in refused(Place("file", str(tmp_path)))
    assert "no such file" in refused(Place("file", str(tmp_path / "none")))


def test_all_that_cannot_be_read_is_told_at_once():
    with pytest.raises(ConfigError) as caught:
        read({"A": Place("env", "X"), "B": Place("env", "Y")}, {})

    assert [line.partition(":")[0] for line in str(caught.value).split("\n")] == [
        "secrets.A.env",
        "secrets.B.env",
    ]


# ---------------------------------------------------------------- netrc

NETRC = "machine h.example login me password netrc-word\ndefault login any password thing-x\n"


def test_a_hosts_own_entry_is_taken_from_the_named_file(tmp_path):
    path = written(tmp_path / "n", NETRC)

    user, password = netrc_login("h.example", {"NETRC": str(path)})

    assert (user, password.reveal()) == ("me", "netrc-word")


def test_without_a_named_file_it_is_the_one_of_the_home_folder(tmp_path):
    written(tmp_path / ".netrc", NETRC)

    assert netrc_login("h.example", {"HOME": str(tmp_path)})[0] == "me"


def test_the_entry_for_any_host_is_for_none(tmp_path):
    path = written(tmp_path / "n", NETRC)

    with pytest.raises(
        ConfigError, match=r"no entry with a password for the machine other\.example"
    ):
        netrc_login("other.example", {"NETRC": str(path)})


@pytest.mark.parametrize(
    ("content", "mode", "why"),
    [
        (NETRC, 0o644, "has mode 0644"),
        ("machine h.example login me netrc-word\n", 0o600, "cannot be understood near line 2"),
        (b"\xff", 0o600, "is not UTF-8"),
        (None, 0o600, "no such file"),
    ],
)
def test_a_netrc_file_that_will_not_do_is_told_without_its_words(tmp_path, content, mode, why):
    path = tmp_path / "n"
    if content is not None:
        written(path, content, mode)

    with pytest.raises(ConfigError) as caught:
        netrc_login("h.example", {"NETRC": str(path)})

    assert why in str(caught.value)
    assert "netrc-word" not in str(caught.value)


# ---------------------------------------------------------------- what is shown


def test_a_secret_shows_its_name_and_never_its_value():
    secret = Secret("NAME", "shown-never")

    assert f"{secret} {secret!r} {[secret]}" == "<secret NAME> <secret NAME> [<secret NAME>]"


@pytest.mark.parametrize(
    "spelled",
    [
        'a/b "c" \\ é+',
        r'a/b "c" \\ é+',
        r"a/b \"c\" \\ \u00e9+",
        "a%2Fb%20%22c%22%20%5C%20%C3%A9%2B",
        "a%2fb%20%22c%22%20%5c%20%c3%a9%2b",
        "a/b%20%22c%22%20%5C%20%C3%A9%2B",
        "a%2Fb+%22c%22+%5C+%C3%A9%2B",
        "YS9iICJjIiBcIMOpKw==",
    ],
)
def test_every_usual_spelling_of_a_secret_is_hidden(spelled):
    Secret("ODD", 'a/b "c" \\ é+')

    assert tells(f"x{spelled}x")
    assert hide(f"x{spelled}x") == "x(hidden)x"


def test_of_two_secrets_the_one_that_holds_the_other_is_hidden_whole():
    Secret("SHORT", "inner-part")
    Secret("LONG", "the-inner-part-and-more")

    assert hide("the-inner-part-and-more") == "(hidden)"


def test_what_is_too_short_to_be_told_from_a_word_is_left_alone():
    Secret("PIN", "abc")

    assert hide("abcdefg") == "abcdefg"


def test_of_a_content_that_was_cut_no_part_of_a_secret_is_left():
    Secret("CUT", "cut-\\é-somewhere")

    assert hide_in_start("a cut-\\é-somewhere b".encode()) == b"a (hidden) b"
    assert hide_in_start(b"\xff cut-\\") == b"\xff (hidden)"
    assert hide_in_start(b"a cut") == b"a cut"
    assert hide_in_start(b"") == b""


def test_p16_no_log_line_shows_a_secret(tmp_path):
    Secret("LOG", "logged-never-7")
    logs_ = logs.configure("debug", "json", tmp_path / "log")
    try:
        log = logs.get_logger()
        log.info("a.told", path="/x/logged-never-7/y", plain="logged-never-7")
        log.info("b.told", many=["logged-never-7", {"logged-never-7": "k"}], data=b"logged-never-7")
        log.info("c.told", long="x" * 3_995 + "logged-never-7")
        try:
            raise ValueError("logged-never-7")
        except ValueError:
            log.exception("d.told")
    finally:
        logs_.close(5)

    text = Path(tmp_path / "log").read_text()
    assert text.count("\n") == 4
    assert "logged" not in text.replace("logged-never-7", "LEAK").replace("log.", "")
    assert "LEAK" not in text.replace("logged-never-7", "LEAK")
    assert text.count(secrets.HIDDEN) >= 6
