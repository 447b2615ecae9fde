"""Options that several commands share, and the configuration that follows from them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from fetchd.errors import ConfigError, DocumentError

if TYPE_CHECKING:
    from fetchd.config import Settings

F = TypeVar("F", bound=Callable[..., object])


def config_options(function: F) -> F:
    """Add ``--config`` and ``--set``, which arrive as ``config`` and ``assignments``."""
    function = click.option(
        "--set",
        "assignments",
        multiple=True,
        metavar="KEY=VALUE",
        callback=_pairs,
        help="Set a key of the configuration by its dotted path; VALUE is YAML.",
    )(function)
    return config_option(function)


config_option = click.option(
    "--config",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Read the configuration from FILE.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def quoted(text: str) -> str:
    """Return a text as YAML that means it literally."""
    return json.dumps(text)


def load_settings(
    config: Path | None, assignments: Sequence[tuple[str, str]], **overrides: object
) -> Settings:
    """Return the configuration, as changed by options; None among ``overrides`` changes nothing.

    A dot in a key is written ``__``. ``assignments`` win over them. Raises ConfigError.
    """
    from fetchd.config import load  # noqa: PLC0415 -- a quarter of a second

    changes = {
        key.replace("__", "."): quoted(str(value))
        for key, value in overrides.items()
        if value is not None
    }
    try:
        return load(config, changes | dict(assignments))
    except DocumentError as exc:
        raise ConfigError(str(exc)) from None


def _pairs(
    _ctx: click.Context, _option: click.Parameter, values: Sequence[str]
) -> list[tuple[str, str]]:
    pairs = []
    for value in values:
        key, equals, text = value.partition("=")
        if not (key and equals):
            raise click.BadParameter(f"{value!r} is not KEY=VALUE")
        pairs.append((key.strip(), text))
    return pairs
