"""One line of a list: ``URL [filename] [algorithm:hex]``."""

from __future__ import annotations

import re

from fetchd.digests import ALGORITHMS
from fetchd.errors import ValueProblem

_CHECKSUM = re.compile(r"([A-Za-z0-9-]+):(?:[0-9A-Fa-f]+\Z)?")


def split_line(text: str) -> tuple[str, str | None, str | None]:
    """Return URL, file name and checksum of a line that is neither empty nor a comment.

    Fields are parted by TAB, or by spaces where there is no TAB, so that names with spaces can
    be written. Raises ValueProblem for too many fields.
    """
    if "\t" in text:
        fields = [field.strip(" ") for field in text.split("\t")]
    elif " " in text:
        fields = [field for field in text.split(" ") if field]
    else:
        return text, None, None
    while fields and not fields[-1]:
        fields.pop()
    if not fields or not fields[0]:
        raise ValueProblem("the line has no URL; write URL [filename] [algorithm:hex]")
    if len(fields) > 3:
        raise ValueProblem(
            f"the line has {len(fields)} fields; write URL [filename] [algorithm:hex], "
            "with a TAB between the fields if a name has spaces"
        )
    if len(fields) == 2 and is_checksum(fields[1]):
        return fields[0], None, fields[1]
    url, name, checksum = [*fields, "", ""][:3]
    return url, name or None, checksum or None


def is_checksum(field: str) -> bool:
    """Tell whether a field is meant as a checksum, right or wrong, and not as a file name."""
    match = _CHECKSUM.match(field)
    return match is not None and (match.end() == len(field) or match[1].lower() in ALGORITHMS)
