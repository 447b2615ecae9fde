"""What the operator decides: the keys of fetchd.yaml, read strictly, each error with its place.

``settings`` has the keys, ``readers`` the kinds of their values, ``document`` the file and what the
command line puts over it, ``check`` what only the whole shows, ``complaints`` the words for what is
wrong, ``schema`` what editors are told.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from pydantic import ValidationError

from fetchd import yamldoc
from fetchd.config.check import contradictions, missing
from fetchd.config.complaints import explained
from fetchd.config.document import Document
from fetchd.config.readers import Stall
from fetchd.config.schema import schema
from fetchd.config.settings import CommandKeys, Login, Origin, Root, Settings

__all__ = [
    "ENVIRONMENT",
    "PLACES",
    "CommandKeys",
    "Login",
    "Origin",
    "Root",
    "Settings",
    "Stall",
    "load",
    "schema",
]

#: Where the configuration is looked for when neither --config nor the environment names it.
PLACES = (Path("config/fetchd.yaml"), Path("/etc/fetchd/fetchd.yaml"))
ENVIRONMENT = "FETCHD_CONFIG"


def load(
    path: Path | None,
    overrides: Mapping[str, str] = MappingProxyType({}),
    environ: Mapping[str, str] = os.environ,
) -> Settings:
    """Return the configuration of a file, or of the first place where there is one.

    ``overrides``: dotted keys with values as they would be written in the file. Raises
    DocumentError for what is wrong in the file or an override, ConfigError when the file cannot
    be read. Without any file the defaults hold.
    """
    path = path or _found(environ)
    document = Document.of_file(path) if path else Document("the built-in configuration")
    for key, value in overrides.items():
        document.override(key, value)
    try:
        settings = Settings.model_validate(yamldoc.plain(document.root))
    except ValidationError as exc:
        document.reject([explained(error) for error in exc.errors(include_url=False)])
    document.reject([*contradictions(settings), *missing(settings)])
    return settings


def _found(environ: Mapping[str, str]) -> Path | None:
    named = environ.get(ENVIRONMENT)
    if named:
        return Path(named)
    return next((path for path in PLACES if path.is_file()), None)
