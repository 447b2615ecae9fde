"""Steps: what is done with a verified file, in staging, before anybody sees it.

Each is a module of its own and one line here. ``finish`` takes them one after the other.
"""

from __future__ import annotations

from collections.abc import Mapping

from fetchd.clock import Clock
from fetchd.errors import ConfigError
from fetchd.ports import Transport
from fetchd.steps import (
    checksum_file,
    concat,
    decompress,
    extract,
    mode,
    run,
    symlink,
    webhook,
)
from fetchd.steps.finish import Finisher
from fetchd.steps.kind import Kind, Option
from fetchd.steps.outcome import Records, summary_of
from fetchd.steps.run import Command
from fetchd.steps.run_end import RunPublisher
from fetchd.steps.webhook import Webhook

__all__ = [
    "STEPS",
    "Command",
    "Finisher",
    "Kind",
    "Option",
    "Records",
    "RunPublisher",
    "Webhook",
    "configured",
    "summary_of",
]

STEPS: Mapping[str, Kind] = {
    "extract": extract.KIND,
    "decompress": decompress.KIND,
    "concat": concat.KIND,
    "mode": mode.KIND,
    "checksum_file": checksum_file.KIND,
    "symlink": symlink.KIND,
    "run": run.KIND,
    "webhook": webhook.KIND,
}


def configured(
    commands: Mapping[str, Command],
    webhooks: Mapping[str, Webhook],
    transport: Transport,
    clock: Clock,
    records: Records,
) -> Mapping[str, Kind]:
    """Return all steps, with what the operator has configured for them; raises ConfigError."""
    for key, names in (("commands", commands), ("webhooks", webhooks)):
        for name in names:
            if name in STEPS:
                raise ConfigError(f"{key}.{name}: is the name of a step; choose another one")
    return {
        **STEPS,
        "run": run.with_commands(commands, clock),
        "webhook": webhook.with_webhooks(webhooks, transport, clock, records),
    }
