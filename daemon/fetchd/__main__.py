"""``python -m fetchd`` and the installed command."""

from __future__ import annotations

import sys

from fetchd.cli import main

if __name__ == "__main__":
    sys.exit(main())
