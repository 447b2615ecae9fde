"""Secrets in what a report repeats of a job file: starred out, so that columns stay."""

from __future__ import annotations

import re

_WORD = re.compile(r"\S+")
# What a query says, up to the brackets, commas and quotes that may close it.
_QUERY = re.compile(r"(?<=\?)\S*[^\s\"',)\]}]")
_SECRET = re.compile(
    r"((?:authori[sz]ation|token|passw|secret|cookie|api[-_]?key|credential|private[-_]?key)"
    r"[\w-]{0,64}[\"']?\s*[:=]\s*)(\S.*)",
    re.IGNORECASE,
)
#: No more than this of a text is kept: lines are shown in part only, and a job file may be one.
_LONGEST = 4_000


def masked(text: str) -> str:
    """Return one line with user names, passwords, queries and values of secret keys as stars.

    What is doubtful is hidden: the URL of a refused job file is seldom one that can be parsed.
    """
    text = text[:_LONGEST]
    begin, end = text.find("//") + 2, text.rfind("@")
    if 2 <= begin < end:
        text = text[:begin] + _stars(text[begin:end]) + text[end:]
    text = _WORD.sub(_without_user, text)
    text = _QUERY.sub(lambda match: _stars(match[0]), text)
    return _SECRET.sub(lambda match: match[1] + _stars(match[2]), text)


def _without_user(match: re.Match[str]) -> str:
    """Hide ``user:password`` before an ``@`` where no ``//`` tells a URL."""
    word = match[0]
    end = word.rfind("@")
    if 0 <= word.find(":") < end and "//" not in word[:end]:
        return _stars(word[:end]) + word[end:]
    return word


def _stars(text: str) -> str:
    return "*" * len(text)
