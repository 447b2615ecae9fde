"""Content-Disposition: which name a head gives a file, and that no guess is made."""

from __future__ import annotations

import re
from urllib.parse import quote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fetchd.transports.disposition import file_name


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("attachment; filename=a.zip", "a.zip"),
        ('attachment; filename="a b.zip"', "a b.zip"),
        ('inline; x=y; FileName = "a.zip" ; z="1;2"', "a.zip"),
        ('attachment;; filename="a.zip";', "a.zip"),
        (r'attachment; filename="a\"b\\c.zip"', "c.zip"),
        ("attachment; filename*=UTF-8''%e2%82%ac%20rates.csv", "€ rates.csv"),
        ("attachment; filename*=utf-8'de'na%C3%AFve", "naïve"),
        ("attachment; filename*=ISO-8859-1'en'%A3.txt", "£.txt"),
        ("attachment; filename=plain; filename*=UTF-8''better", "better"),
        ("attachment; filename*=UTF-8''better; filename=plain", "better"),
        ("attachment; filename=plain; filename*=UTF-8''%FF", "plain"),
        ("attachment; filename=plain; filename*=KOI8-R''x", "plain"),
        ("attachment; filename=plain; filename*=\"UTF-8''x\"", "plain"),
        ('attachment; filename="/etc/passwd"', "passwd"),
        (r'attachment; filename="C:\\temp\\x.exe"', "x.exe"),
        ("attachment; filename*=UTF-8''..%2F..%2Fx", "x"),
        ('attachment; filename=".."', ".."),
        ('attachment; filename="\xc3\xa4.txt"', "ä.txt"),
        ('attachment; filename="\xe4.txt"', "ä.txt"),
        ("attachment; filename=100%25.txt", "100%25.txt"),
    ],
)
def test_a_head_gives_a_base_name(value: str, name: str) -> None:
    assert file_name(value) == name


@pytest.mark.parametrize(
    "value",
    ["", "attachment", "filename=a", "attachment filename=a", 'attachment; filename=""',
     "attachment; filename=a b", "attachment; filename=a/b", 'attachment; filename="a',
     "attachment; filename=a; filename=b", "attachment; filename=a; FILENAME=a",
     'attachment; filename="x/"', "attachment; filename=", "attachment; name=a",
     "attachment, inline; filename=a", 'attachment; filename="a"b', "attachment; filename=\xe4",
     'attachment; filename="a\r\nb"', 'attachment; filename="a\0b"', "=; filename=a",
     "attachment; filename*=a", "attachment; filename*=UTF-8'x",
     "attachment; filename*=UTF-8''a%2"],
)  # fmt: skip
def test_what_is_malformed_or_says_nothing_gives_none(value: str) -> None:
    assert file_name(value) is None


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/\\"), min_size=1, max_size=40)


@given(NAMES)
def test_every_name_that_is_written_as_the_standards_ask_is_read(name: str) -> None:
    extended = f"attachment; filename=no; filename*=UTF-8''{quote(name, safe='')}"
    assert file_name(extended) == name
    if not re.search(r"[\x00-\x08\x0a-\x1f\x7f]", name):
        quoted = re.sub(r'(["\\])', r"\\\1", name).encode().decode("latin-1")
        assert file_name(f'attachment; filename="{quoted}"') == name


@settings(max_examples=500)
@given(
    st.text(st.characters(max_codepoint=255), max_size=60)
    | st.lists(
        st.sampled_from(
            [
                "attachment",
                ";",
                " ",
                "filename",
                "*",
                "=",
                '"',
                "\\",
                "UTF-8''",
                "%2F",
                "a/b",
                "é",
                "x",
            ]
        )
    ).map("".join)
)
@example('attachment; filename="' + "\\\\" * 4000)
def test_no_value_gives_a_name_with_folders_or_an_error(value: str) -> None:
    name = file_name(value)

    assert name is None or (name and "/" not in name and "\\" not in name)
