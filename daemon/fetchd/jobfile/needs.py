"""Which task waits for which: an order in which each comes after what it needs, or a cycle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

_MOST_CYCLES = 10


def order(needs: Mapping[str, Sequence[str]]) -> tuple[list[str], list[list[str]]]:
    """Return the names in an order, and cycles as paths that end where they begin.

    At most ten cycles are told. Names on or behind a cycle are not in the order; needs that are
    no names are ignored.
    """
    done: list[str] = []
    state: dict[str, str] = {}  # "open" while on the path, then "done" or "stuck"
    cycles: list[list[str]] = []
    for start in needs:
        path = [start] if start not in state else []
        left = [iter(needs[start])]
        state.setdefault(start, "open")
        while path:  # an own stack: a chain of needs may be longer than Python's
            name = path[-1]
            following = next((need for need in left[-1] if need in needs), None)
            if following is None:
                stuck = any(state[need] != "done" for need in needs[name] if need in needs)
                state[name] = "stuck" if stuck else "done"
                if not stuck:
                    done.append(name)
                path.pop()
                left.pop()
            elif following not in state:
                state[following] = "open"
                path.append(following)
                left.append(iter(needs[following]))
            elif state[following] == "open" and len(cycles) < _MOST_CYCLES:
                cycles.append([*path[path.index(following) :], following])
    return done, cycles
