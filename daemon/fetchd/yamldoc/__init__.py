"""YAML and JSON files that strangers wrote: read guardedly, into texts that know their places."""

from __future__ import annotations

from fetchd.yamldoc.nodes import (
    Fields,
    Items,
    Node,
    Scalar,
    did_you_mean,
    label,
    nearest,
    place,
    plain,
    require_fields,
)
from fetchd.yamldoc.read import has_end_marker, parse_json, parse_yaml, text_of

__all__ = [
    "Fields",
    "Items",
    "Node",
    "Scalar",
    "did_you_mean",
    "has_end_marker",
    "label",
    "nearest",
    "parse_json",
    "parse_yaml",
    "place",
    "plain",
    "require_fields",
    "text_of",
]
