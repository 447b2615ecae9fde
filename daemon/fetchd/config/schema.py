"""The keys as a JSON Schema, for editors."""

from __future__ import annotations

from typing import Any

from fetchd.config.readers import native
from fetchd.config.settings import Settings

DRAFT = "http://json-schema.org/draft-07/schema#"


def schema() -> dict[str, Any]:
    """Return the JSON Schema (draft-07) of the configuration, for editors: native types too."""
    made = Settings.model_json_schema(ref_template="#/definitions/{model}")
    made["definitions"] = made.pop("$defs")
    made["properties"]["roots"]["required"] = ["default"]
    made["definitions"]["Root"] = {"anyOf": [{"type": "string"}, made["definitions"]["Root"]]}
    return {"$schema": DRAFT, "title": "fetchd.yaml", **_for_editors(made)}


def _for_editors(part: Any) -> Any:
    """Return a schema with defaults in native types, and nothing beside a reference."""
    if isinstance(part, list):
        return [_for_editors(item) for item in part]
    if not isinstance(part, dict):
        return part
    made = {key: _for_editors(value) for key, value in part.items() if key != "title"}
    default = made.get("default")
    if default is None or default == {}:
        made.pop("default", None)
    else:
        made["default"] = native(default)
    if "$ref" in made and len(made) > 1:
        made["allOf"] = [{"$ref": made.pop("$ref")}]  # draft-07 ignores what stands beside $ref
    return made
