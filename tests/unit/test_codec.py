from __future__ import annotations

import json

from fetchd.model import History
from fetchd.stores import codec


def test_a_history_that_was_written_before_wait_for_is_read_still():
    written = json.loads(codec.history_text(History(attempts=2, barred=frozenset({1}))))
    del written["not_yet"], written["not_yet_at_s"]

    assert codec.history_of(json.dumps(written)) == History(attempts=2, barred=frozenset({1}))
