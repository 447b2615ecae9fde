"""fetchd: drop a YAML job file in a folder, get verified files.

What a job file says is a *Job*. Carrying it out once is a *Run*, which consists of *Tasks*, a file
each. Threads ask the engine for an *Attempt* at a task, make it, and report its *Outcome*.

The house, from the street door down; imports go down only (``[tool.importlinter]``):

======================  ==========================================================================
``__main__``, ``cli/``  what a person types; the only room that prints to a person
``service``             where every implementation is constructed; start, stop, signals
``folder/``             the drop folder: files in (inbox), places and reports out (outbox)
``pool``                fixed threads: take, work, settle
``plan/``               what a job would do: servers are asked, nothing is fetched or written
``jobfile/``            bytes -> Job, or every error with its place
``engine/``             decides: queue, needs, retries; touches neither disk nor wire nor clock
``transfer/``           the rules of a correct transfer and its verification
``expand/``             templates, lists and manifests -> tasks, in batches
``steps/``              verified files -> what shall be seen of them, in staging; ends of runs
``stores/``             what must survive a restart
``listeners/``          log and statistics: told, never asked
``disk/``               download roots: parts, publication; nobody else writes there
``transports/``         URL from an offset -> stream of bytes
``ports``               the seams between the rooms, on one page
``events``, ``model``   what can happen; the nouns
``config/``, ``logs/``  settings; where log lines go
======================  ==========================================================================

Below these: ``variables``, ``rates``, ``yamldoc``, ``units``, ``digests``, ``urls``, ``paths``,
``threads``, ``systemd``, ``clock``, ``errors``.
"""

from __future__ import annotations

__version__ = "0.1.0"
