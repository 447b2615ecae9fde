"""The name of a file that only its server knows: from the head of an answer, and nothing else."""

from __future__ import annotations

from contextlib import closing

from fetchd.errors import AttemptError, ValueProblem
from fetchd.model import Fetch, Named
from fetchd.paths import clean_name, clean_path
from fetchd.ports import Request, Transport
from fetchd.transfer.verify import check_type, rules_of
from fetchd.transfer.watch import Watch
from fetchd.urls import file_name_of


def learn_name(transport: Transport, attempt: Fetch, watch: Watch) -> Named:
    """Ask for the file, and leave its body alone; raises as an attempt does.

    What is no file by its type gets no name: a login page would have one for good.
    """
    rules = attempt.group.rules
    request = Request(
        url=attempt.source,
        headers=rules.headers,
        connect_s=rules.timeouts.connect_s,
        stall_s=rules.timeouts.stall_s,
        deadline_s=watch.deadline_s,
        share=attempt.share,
    )
    with closing(transport.open(request, watch.wanted)) as stream:
        if stream.wish is not None:
            watch.tell(stream.wish)
        path = named_path(attempt, stream.file_name)
        check_type(path, rules_of(attempt), stream.content_type)
    return Named(path=path)


def named_path(attempt: Fetch, told: str | None) -> str:
    """Return where the file goes: by the name that was told, else by the URL of the job."""
    spec = attempt.task.spec
    above = f"{spec.folder}/" if spec.folder else ""
    why = ""
    for name in (told or "", file_name_of(spec.sources[0])):
        try:
            return clean_path(above + clean_name(name))
        except ValueProblem as exc:
            why = str(exc)
    raise AttemptError(
        "bad_item",
        f"the server gives the file no name that can be used, and the URL's last segment {why}; "
        "give a filename",
    )
