"""fetchd: drop a YAML job file in a folder, get verified files.

One sentence: a job file becomes a *Job*; each execution of it is a *Run* of *Tasks*; at each
stage a thread takes an *Attempt* from the engine, works, and settles it with an *Outcome*.

The house, from the street door down; imports go down only (``[tool.importlinter]``):

======================  ==========================================================================
``__main__``, ``cli/``  what a person types; the only room that prints to a person
``service``             where every implementation is constructed; start, stop, signals
``folder/``             the drop folder: files in (inbox), places and reports out (outbox)
``pool``                fixed threads: take, work, settle
``jobfile/``            bytes -> Job, or every error with its place
``engine/``             decides: queue, needs, retries; touches neither disk nor wire nor clock
``transfer/``           the rules of a correct transfer and its verification
``expand/``             templates and lists -> tasks, in batches
``stores/``             what must survive a restart
``listeners/``          log and statistics: told, never asked
``disk/``               the only room that touches a download root
``transports/``         URL from an offset -> stream of bytes
``ports``               the seams between the rooms, on one page
``events``, ``model``   what can happen; the nouns
``config``, ``logs``    settings; where log lines go
======================  ==========================================================================

Below these: ``variables``, ``yamldoc``, ``units``, ``digests``, ``urls``, ``threads``, ``systemd``,
``clock``, ``errors``.
"""

from __future__ import annotations

__version__ = "0.1.0"
