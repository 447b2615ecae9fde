"""Options that several commands share, and the configuration that follows from them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

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


class Typed(NamedTuple):
    """An option that stands for a key of the configuration; ``value`` None: it was not given."""

    option: str
    key: str
    value: object


def quoted(text: str) -> str:
    """Return a text as YAML that means it literally."""
    return json.dumps(text)


def load_settings(
    config: Path | None, assignments: Sequence[tuple[str, str]], options: Sequence[Typed] = ()
) -> Settings:
    """Return the configuration as changed by options, over which ``assignments`` win.

    Raises ConfigError, which names an option as it was typed.
    """
    from fetchd.config import load  # noqa: PLC0415 -- a quarter of a second

    assigned = dict(assignments)
    typed = [option for option in options if option.key not in assigned]
    changes = {key: quoted(str(value)) for _, key, value in typed if value is not None}
    with named_as_typed(typed):
        try:
            return load(config, changes | assigned)
        except DocumentError as exc:
            raise ConfigError(str(exc)) from None


@contextmanager
def named_as_typed(options: Sequence[Typed]) -> Iterator[None]:
    """Let a ConfigError about a key begin with the option that was typed for it."""
    try:
        yield
    except ConfigError as exc:
        message = str(exc)
        for option, key, value in options:
            name = key.removeprefix("roots.")
            for place in (f"--set {key}: path: ", f"--set {key}: ", f"{key}: ", f"root {name!r}: "):
                if value is not None and message.startswith(place):
                    raise ConfigError(f"{option}: {message.removeprefix(place)}") from None
        raise


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
