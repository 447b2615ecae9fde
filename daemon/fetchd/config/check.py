"""What only the whole shows: keys that contradict each other, and what this machine lacks."""

from __future__ import annotations

import grp
import os
from collections.abc import Iterator
from pathlib import Path

from fetchd.config.complaints import Complaint
from fetchd.config.settings import KeyPath, Settings, Tls
from fetchd.units import format_duration


def contradictions(settings: Settings) -> Iterator[Complaint]:
    """Yield what is wrong although each value for itself is right."""
    own = {"jobs": settings.jobs, "state": settings.state}
    if _within(settings.state, settings.jobs):
        message = f"{settings.state} lies in the jobs folder; it needs a place of its own"
        yield Complaint(paths=(("state",), ("jobs",)), message=message)
    seen: dict[str, str] = {}
    for name, root in settings.roots.items():
        places: tuple[KeyPath, ...] = (("roots", name), ("roots",))
        for key, folder in own.items():
            if _within(root.path, folder) or _within(folder, root.path):
                message = (
                    f"the root {name}, {root.path}, and the folder of {key}, {folder}, "
                    "must be apart"
                )
                yield Complaint(paths=(*places, (key,)), message=message)
        twin = seen.setdefault(os.path.realpath(root.path), name)
        if twin != name:
            message = f"is the same folder as that of the root {twin}"
            yield Complaint(paths=places, message=message)
    retry = settings.retry
    if retry.max_delay_s < retry.delay_s:
        message = (
            f"{format_duration(retry.max_delay_s)} is shorter than "
            f"delay, {format_duration(retry.delay_s)}"
        )
        yield Complaint(paths=(("retry", "max_delay"), ("retry", "delay")), message=message)
    yield from _contradictions_of_origins(settings)
    for name in settings.webhooks:
        if name in settings.commands:
            message = "is the name of a command already; both share their names"
            yield Complaint(paths=(("webhooks", name),), message=message, at_key=True)
    timeout = settings.timeout
    if timeout.attempt_s is not None and timeout.attempt_s < timeout.connect_s:
        message = (
            f"{format_duration(timeout.attempt_s)} is shorter than "
            f"connect, {format_duration(timeout.connect_s)}"
        )
        yield Complaint(paths=(("timeout", "attempt"),), message=message)


def _contradictions_of_origins(settings: Settings) -> Iterator[Complaint]:
    network = settings.network
    named = {("network", *path): secret for path, secret in network.named_secrets()}
    if network.proxy_auth is not None and network.proxy is None:
        yield Complaint(paths=(("network", "proxy_auth"),), message="there is no network.proxy")
    for name, origin in settings.origins.items():
        place: KeyPath = ("origins", name)
        named |= {(*place, *path): secret for path, secret in origin.named_secrets()}
        logs_in = origin.auth is not None or origin.netrc
        for header in origin.headers:
            if header.lower() == "authorization" and logs_in:
                message = "auth and netrc set this header; only one of them can"
                yield Complaint(paths=((*place, "headers", header),), message=message)
        if origin.auth is not None and origin.netrc:
            message = "auth says already who asks; only one of them can"
            yield Complaint(paths=((*place, "netrc"),), message=message)
        if name.startswith("http:") and origin.tls != Tls():
            message = "an http: origin has no TLS; write https:"
            yield Complaint(paths=((*place, "tls"),), message=message)
        if origin.proxy_auth is not None and origin.proxy is None:
            message = "it belongs to a proxy of this origin; write proxy: URL beside it"
            yield Complaint(paths=((*place, "proxy_auth"),), message=message)
    known = ", ".join(sorted(settings.secrets)) or "none; add it to secrets"
    for path, secret in named.items():
        if secret not in settings.secrets:
            message = "this is not the name of a secret"  # but perhaps the secret itself
            yield Complaint(paths=(path,), message=message, hint=f"known: {known}")


def missing(settings: Settings) -> Iterator[Complaint]:
    """Yield what the configuration names and this machine does not have."""
    files: dict[KeyPath, Path | None] = {("network", "ca"): settings.network.ca}
    for name, origin in settings.origins.items():
        for key in ("ca", "cert", "key"):
            files["origins", name, "tls", key] = getattr(origin.tls, key)
    for name, secret in settings.secrets.items():
        files["secrets", name, "file"] = secret.file
    for place, file in files.items():
        try:
            if file is not None:
                os.close(os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
        except PermissionError:
            pass  # the daemon's user may be allowed what the one of this command is not
        except (OSError, ValueError) as exc:  # ValueError: a NUL in the path
            reason = getattr(exc, "strerror", None) or str(exc)
            message = f"{file} cannot be read: {reason.lower()}"
            yield Complaint(paths=(place,), message=message)
    for name, root in settings.roots.items():
        if root.group is not None and not _is_group(root.group):
            message = f"there is no group {root.group!r}"
            yield Complaint(paths=(("roots", name, "group"),), message=message)


def _is_group(group: str) -> bool:
    if group.isascii() and group.isdigit():
        return True
    try:
        grp.getgrnam(group)
    except (KeyError, ValueError):
        return False
    return True


def _within(inner: Path, outer: Path) -> bool:
    """Return whether a folder is another or lies below it, links followed."""
    return Path(os.path.realpath(inner)).is_relative_to(os.path.realpath(outer))
