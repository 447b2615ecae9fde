"""The rules of a correct transfer: what may be kept, what must be checked, when it is complete.

What is done in which order, ``attempt`` says. Its state has three owners: ``kept`` the part and all
that vouches for its bytes, ``watch`` time, limits and reports, ``asking`` the questions to the
origin. ``standing`` knows what is at the destination already, ``resume`` what a part is good for,
``verify`` what a file must prove, ``sums`` what its publisher says of it, ``dossier`` what is told
of refused content. ``sharing`` lets a ``crew`` of connections bring one body in ``segments``, each
at its ``pace``; ``repair`` mends a wrong file from another source, in the order of ``blocks``. No
library, no file and no socket here: bytes come from a Transport and go to the Disk.
"""

from __future__ import annotations

from fetchd.transfer.attempt import Transfer

__all__ = ["Transfer"]
