"""aria2c's input lists, taken as they are."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fetchd.config import Settings
from fetchd.errors import DocumentError
from fetchd.expand import Expander
from fetchd.jobfile import load
from fetchd.model import Item, Run
from fetchd.stores import codec

SETTINGS = Settings()
SHA1 = "a9993e364706816aba3e25717850c26c9cd0d89d"
URL = "https://a.example/f.iso"


def specs(text: str | bytes):
    data = text if isinstance(text, bytes) else text.encode()
    job = load(data, "list.aria2", SETTINGS)
    run = Run(id=1, job=job.name, revision=job.revision, scheduled_for_s=0.0)
    return Expander()(job, job.groups[0], run, None).specs


def headlines(text: str | bytes) -> list[str]:
    with pytest.raises(DocumentError) as caught:
        specs(text)
    return caught.value.headlines()


def test_a_line_of_urls_is_a_file_with_mirrors_and_what_is_indented_below_is_said_of_it():
    text = (
        "\ufeff# list\r\n"
        f"{URL}\thttps://b.example/f.iso\r\n"
        "  out=x y.iso\n\n"
        "# within\n"
        "\tdir=isos/\n"
        f" checksum=sha-1={SHA1.upper()}\n"
        " split=5\n"
        " continue=true\n"
        "http://c.example/g%20h\n  out=${n}\n"
        "https://d.example/i\n dir=sub/folder\n"
    )

    first, second, third = specs(text)

    assert first.sources == (URL, "https://b.example/f.iso")
    assert first.path == "isos/x y.iso"
    assert [str(one) for one in first.digests] == [f"sha1:{SHA1}"]
    assert (second.path, second.sources) == ("${n}", ("http://c.example/g%20h",))
    assert third.path == "sub/folder/i"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "list.aria2: names no file"),
        ("  out=x\n", "list.aria2:1:1: stands above the first URL"),
        (
            f"{URL}\n checksm=x\n",
            ("list.aria2:2:1: the option 'checksm' is not known; known: out, dir, checksum "
            "(did you mean 'checksum'?)"),
        ),
        (
            f"{URL}\n header=X: y\n",
            "list.aria2:2:1: the option 'header' is not known; known: out, dir, checksum",
        ),
        (f"{URL}\n out\n", "list.aria2:2:1: 'out' is no option; write name=value"),
        (f"{URL}\n out=a\n out=b\n", "list.aria2:3:1: out is written twice"),
        (
            f"{URL}\n checksum=sha-2=00\n",
            ("list.aria2:2:1: 'sha-2=00' is no checksum; write ALGORITHM=HEX with md5, sha-1, "
            "sha-224, sha-256, sha-384, sha-512"),
        ),
        (
            f"{URL}\n checksum=md5=00\n",
            "list.aria2:1:1: a md5 checksum has 32 hex digits, this one has 2",
        ),
        (
            f"{URL}\n dir=/data\n",
            "list.aria2:1:1: '/data/f.iso' is absolute; write a path below the root",
        ),
        ("magnet:?xt=urn:x\n", ("list.aria2:1:1: the scheme 'magnet' is not fetched; allowed: "
         "http, https, file")),
        (f"{URL}\n{URL}\n", "list.aria2:2:1: writes 'f.iso', as line 1 does"),
        (b"https://a/\xff\n", "list.aria2: the file is not valid UTF-8"),
        (b"#" * 5_000_000, "list.aria2: larger than the 4194304 bytes that are allowed"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_its_line(text, expected):
    assert headlines(text) == [expected]


def test_all_mistakes_are_told_at_once():
    assert len(headlines(f"{URL}\n x=1\n y=2\nftp://h/a\nhttps://h/\n")) == 4
    assert len(headlines(" x\n" * 1000)) <= 1000


def test_mirrors_are_known_in_the_next_life():
    (group,) = load(f"{URL}\t{URL}2\n".encode(), "a.aria2", SETTINGS).groups

    assert codec.group_of(codec.group_text(group)) == group
    assert group.items == (Item(url=URL, line=1, column=1, mirrors=(f"{URL}2",)),)


@settings(derandomize=True, max_examples=200)
@given(st.text("ht:/.a=\t \n#out$\r{}", max_size=60) | st.binary(max_size=40))
def test_any_text_is_a_list_or_refused(text):
    with suppress(DocumentError):
        assert specs(text)
