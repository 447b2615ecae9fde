"""What can go wrong, with stable codes; every other room raises what is defined here."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

_LONGEST_REASON = 1000


class Code(NamedTuple):
    """One row of the table of reason codes (docs/reason-codes.md is held equal to it)."""

    transient: bool
    meaning: str


#: Why a task failed or waits. Public interface: a code is never renamed or given another meaning.
CODES: dict[str, Code] = {
    "short_body": Code(True, "the body ended before its announced length"),
    "bad_length": Code(True, "Content-Length is not a plain number, or there are several"),
    "bad_framing": Code(True, "chunks are malformed, or length and chunks contradict each other"),
    "bad_response": Code(True, "the answer is not HTTP, or an answer to another question"),
    "bad_status": Code(False, "the server answered with a status that carries no file"),
    "too_many_redirects": Code(False, "the chain of redirects is longer than allowed, or a loop"),
    "scheme_denied": Code(False, "the URL's scheme is not one that fetchd fetches"),
    "address_denied": Code(False, "the host resolves to an address that network.allow excludes"),
    "source_denied": Code(False, "the local file is outside the roots, a link, or the destination"),
    "not_found": Code(False, "the local file does not exist"),
    "source_error": Code(True, "the local file could not be opened or read"),
    "tls_failed": Code(
        False, "a certificate, the server's or ours, or the TLS version was not accepted"
    ),
    "tls_broken": Code(True, "the TLS handshake or a TLS record was cut or garbled"),
    "dns_failed": Code(True, "the host name could not be resolved"),
    "connect_failed": Code(True, "no address of the host accepted a connection"),
    "proxy_failed": Code(True, "the configured proxy refused or broke the connection"),
    "stalled": Code(True, "no data arrived within the stall window"),
    "too_slow": Code(True, "data arrived slower than the stall rule's minimum"),
    "deadline": Code(True, "the attempt's time limit ran out"),
    "too_large": Code(False, "the body is larger than a limit, or the whole file system"),
    "bad_size": Code(False, "the size is outside what `size` in the job file allows"),
    "checksum_mismatch": Code(False, "the bytes do not have the digest that the job file names"),
    "length_unknown": Code(False, "neither length, chunks nor checksum say when it is complete"),
    "unexpected_html": Code(False, "an HTML page arrived where a file was asked for"),
    "expectation_failed": Code(
        False,
        "the content is not what `expect` asks for, or the checksum asked for is missing",
    ),
    "dest_conflict": Code(False, "another task or job, or a folder, has the destination"),
    "generation_broken": Code(
        False, "what the outputs of a run need to be whole was taken away or changed"
    ),
    "bad_item": Code(
        False,
        "a line of a list, or an item of a manifest, makes no task, or nothing names its file",
    ),
    "bad_manifest": Code(False, "a file that `from` names is not of its format"),
    "dest_denied": Code(False, "the destination may not be created or replaced"),
    "exists": Code(False, "the destination exists and `if_exists: fail` forbids to replace it"),
    "disk_full": Code(True, "no space is left for the file"),
    "disk_read_only": Code(True, "the file system of the destination lets nobody write"),
    "disk_error": Code(True, "the disk refused to read, write or sync"),
    "archive_bad": Code(False, "an archive is cut, broken, encrypted, or of no known kind"),
    "archive_denied": Code(False, "an archive holds names, links or devices that are never made"),
    "archive_too_large": Code(False, "more comes out of an archive than `extract` allows"),
    "command_failed": Code(False, "a command of the operator's ended with an error"),
    "webhook_failed": Code(True, "a webhook of the operator's was not taken by its service"),
    "needs_attention": Code(
        False, "what a command has done is not known, and it may not run twice"
    ),
    "step_failed": Code(False, "one of the task's `steps` cannot be taken on this file"),
    "step_timeout": Code(False, "one of the task's `steps` took longer than it may"),
    "fail_fast": Code(False, "another task has failed, and `fail_fast` ends the rest of the run"),
    "cancelled": Code(False, "the task or its run was cancelled"),
    "poison": Code(
        False,
        "the daemon crashed repeatedly while it worked on this task or list",
    ),
    "list_changed": Code(False, "a list or manifest was edited after some of it had been read"),
    "worker_died": Code(True, "the thread that worked on the task ended unexpectedly"),
}

#: A disk that refuses for these is waited for: people make room, or make it writable again.
DISK_WAITS = {"disk_full", "disk_read_only"}


class FetchdError(Exception):
    """Any error that fetchd itself raises for a person to read: one line, no traceback."""


class ConfigError(FetchdError):
    """The configuration, or a folder that it names, cannot be used (exit code 78)."""


class BusyError(FetchdError):
    """Another process holds what this one needs; trying later may help (exit code 75)."""


class StoreError(FetchdError):
    """The service cannot go on: nothing that follows would be recorded (exit code 70)."""


class UsageError(FetchdError):
    """The caller asked for something that cannot be done (exit code 2)."""


class ValueProblem(FetchdError, ValueError):
    """A text is not of the form its place requires; raised by the small parsers.

    ``str()`` says what was found and what is allowed; the caller adds the place.
    """


class AttemptError(FetchdError):
    """One attempt failed. Raised within a thread; at its border it becomes a ``model.Failure``.

    ``code`` is a key of ``CODES``; ``transient`` overrides the code's default; ``retry_after_s``
    is the origin's wish (seconds from now), None where it has none; ``status`` is that of the
    origin's answer (RFC 9110 §15) where the answer is what failed. ``origin``: whose failure it is,
    "" where that is the source's own, or no origin's.
    """

    def __init__(
        self,
        code: str,
        reason: str,
        *,
        transient: bool | None = None,
        retry_after_s: float | None = None,
        status: int | None = None,
    ) -> None:
        # A part of it may be a server's, and it goes to logs, reports and the store.
        self.reason = reason if len(reason) <= _LONGEST_REASON else f"{reason[:_LONGEST_REASON]}..."
        super().__init__(self.reason)
        self.code = code
        self.transient = CODES[code].transient if transient is None else transient
        self.retry_after_s = retry_after_s
        self.status = status
        self.origin = ""


class NotWanted(Exception):
    """Not an error: the work was cancelled or the service stops; leave the part and settle."""


def let_go(exc: BaseException) -> None:
    """Let the frames that an error has passed through hold nothing any more.

    Some of them hold an error themselves, and so each other: what they had open would stay so until
    the garbage collector looks.
    """
    link: BaseException | None = exc
    while link is not None:
        traceback.clear_frames(link.__traceback__)
        link = link.__cause__ or link.__context__


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One error in a file that a person wrote. Lines and columns count from 1; None = unknown."""

    message: str
    line: int | None = None
    column: int | None = None
    key: str = ""
    hint: str = ""


class DocumentError(FetchdError):
    """A job file or configuration is wrong: every problem that was found, with its place."""

    def __init__(self, source: str, problems: list[Problem], text: str = "") -> None:
        self.source = source
        self.problems = sorted(problems, key=lambda p: (p.line or 0, p.column or 0))
        self._lines = text.splitlines()
        super().__init__(self.render())

    def rewritten(self, rewrite: Callable[[str], str]) -> DocumentError:
        """Return the same problems with every text, and every line that is shown, rewritten.

        Carets point at their places still where ``rewrite`` keeps the length of a line.
        """
        lines = list(self._lines)
        problems = []
        for problem in self.problems:
            message, hint = rewrite(problem.message), rewrite(problem.hint)
            problems.append(replace(problem, message=message, hint=hint, key=rewrite(problem.key)))
            if problem.line is not None and 0 < problem.line <= len(lines):
                lines[problem.line - 1] = rewrite(lines[problem.line - 1])
        return DocumentError(self.source, problems, "\n".join(lines))

    def headlines(self) -> list[str]:
        """One line a problem: ``FILE:LINE:COL: message (hint)``."""
        return [self._headline(problem) for problem in self.problems]

    def render(self) -> str:
        """All problems, each with its line of the file and a caret under the place."""
        blocks = []
        for problem in self.problems:
            block = self._headline(problem)
            if problem.line is not None and 0 < problem.line <= len(self._lines):
                shown = self._lines[problem.line - 1].replace("\t", " ")[:200]
                block += f"\n    {shown}" if shown else ""
                if shown and problem.column is not None and problem.column <= len(shown) + 1:
                    block += "\n    " + " " * (problem.column - 1) + "^"
            blocks.append(block)
        return "\n".join(blocks)

    def _headline(self, problem: Problem) -> str:
        place = self.source
        if problem.line is not None:
            place += f":{problem.line}"
            if problem.column is not None:
                place += f":{problem.column}"
        key = f"{problem.key}: " if problem.key else ""
        hint = f" ({problem.hint})" if problem.hint else ""
        return f"{place}: {key}{problem.message}{hint}"
