"""What a job would do, found out without doing it: nothing is transferred, nothing is written.

``tasks`` says what a run would consist of, ``asking`` what would come of one task, in ``rounds``
that are as polite as the daemon; ``reckoning`` adds up: disks, time, totals. ``report`` has the
nouns, whose fields are what ``fetchd plan --json`` prints. Rules, transports, credentials and the
readers of lists are those of the daemon itself: a second opinion would be worth nothing.
"""

from __future__ import annotations

from fetchd.plan.planner import Bounds, Known, Planner
from fetchd.plan.report import Plan

__all__ = ["Bounds", "Known", "Plan", "Planner"]
