"""The rules of a correct transfer: what may be kept, what must be checked, when it is complete.

``attempt`` does the work, ``resume`` decides what a part is good for, ``verify`` what a file must
prove, ``sums`` knows what its publisher says of it. No library, no file and no socket here: bytes
come from a Transport and go to the Disk.
"""

from __future__ import annotations

from fetchd.transfer.attempt import Transfer

__all__ = ["Transfer"]
