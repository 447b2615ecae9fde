"""Quarantine: refused bytes lie beside the folder of the parts, for a person to look at."""

from __future__ import annotations

import os
from contextlib import suppress

from fetchd.ports import Os

QUARANTINE = "quarantine"
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
#: The quarantine as reached from the folder of the parts.
_BESIDE = f"../{QUARANTINE}"


def move_to_quarantine(system: Os, folder_fd: int, name: str) -> None:
    """Move a part beside the folder of the parts; one that is there already makes room.

    Nothing is synced: what a power cut leaves of refused bytes is good enough.
    """
    with suppress(FileExistsError):
        system.mkdir(_BESIDE, 0o700, dir_fd=folder_fd)
    quarantine_fd = system.open(_BESIDE, _FOLDER, dir_fd=folder_fd)
    try:
        system.rename(name, name, src_dir_fd=folder_fd, dst_dir_fd=quarantine_fd)
    finally:
        os.close(quarantine_fd)


def drop_quarantined(system: Os, folder_fd: int, name: str) -> bool:
    """Remove what was moved from the folder of the parts under this name; True if there was any."""
    try:
        quarantine_fd = system.open(_BESIDE, _FOLDER, dir_fd=folder_fd)
    except FileNotFoundError:
        return False
    try:
        system.unlink(name, dir_fd=quarantine_fd)
    except FileNotFoundError:
        return False
    finally:
        os.close(quarantine_fd)
    return True


def has_quarantine(folder_fd: int) -> bool:
    """Tell whether anything was ever moved from the folder of the parts; raises OSError."""
    try:
        os.stat(_BESIDE, dir_fd=folder_fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def quarantined(system: Os, folder_fd: int) -> dict[str, float]:
    """Return what lies in quarantine beside the folder of the parts, and since when."""
    try:
        quarantine_fd = system.open(_BESIDE, _FOLDER, dir_fd=folder_fd)
    except FileNotFoundError:
        return {}
    try:
        with os.scandir(quarantine_fd) as entries:
            return {entry.name: entry.stat(follow_symlinks=False).st_ctime for entry in entries}
    finally:
        os.close(quarantine_fd)
