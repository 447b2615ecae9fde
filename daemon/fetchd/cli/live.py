"""Lines that are drawn over themselves on a terminal, and not at all elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol


class Draw(Protocol):
    def __call__(self, lines: Sequence[str]) -> None: ...


@contextmanager
def live(*, keep: bool = False) -> Iterator[Draw | None]:
    """Yield a function that draws lines on stderr; None where stderr is no terminal.

    ``keep``: the last lines stay when the context ends.
    """
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console  # noqa: PLC0415 -- only a terminal needs it
    from rich.live import Live  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    console = Console(stderr=True)
    with Live(console=console, auto_refresh=False, transient=not keep) as shown:

        def draw(lines: Sequence[str]) -> None:
            text = Text("\n".join(lines), no_wrap=True, overflow="ellipsis")
            shown.update(text, refresh=True)

        yield draw
