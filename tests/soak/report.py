"""What became of all messages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from .visitors import Visitor, out_of_order, twice

#: Seconds before a fault in which a message may already be waiting where the fault is.
ON_THE_WAY = 2.0
Windows = Sequence[tuple[float, float]]


def over_time(visitors: Sequence[Visitor], windows: Windows, began: float) -> dict[str, Any]:
    """What a chart shows: deliveries and silent websockets in each second, and the faults."""
    first = int(began)
    length = max((second for visitor in visitors for second in visitor.came), default=first) - first
    silent: Counter[int] = Counter()
    for start, end in (pair for visitor in visitors for pair in visitor.silences):
        # A silence is one from its first second on.
        silent.update(range(int(start + 1), int(end) + 1))
    seconds = range(first, first + length)
    return {
        "deliveries": [sum(visitor.came[second] for visitor in visitors) for second in seconds],
        "silent": [silent[second] for second in seconds],
        "faults": [[round(start - first, 1), round(end - first, 1)] for start, end in windows],
    }


def calm(windows: Windows, began: float, ended: float) -> bool:
    """Whether there was no fault, nor what follows on one, between two times."""
    return not any(start - ON_THE_WAY <= ended and began <= end for start, end in windows)


class Report:
    """Counts what was sent, what came, and what must not be."""

    def __init__(
        self,
        visitors: Sequence[Visitor],
        published: Sequence[dict[str, Any]],
        answered: Sequence[dict[str, Any]],
        windows: Windows,
    ) -> None:
        self.lines: list[str] = []
        #: What must not be.
        self.failures: list[str] = []
        rooms: dict[str, list[dict[str, Any]]] = {}
        for row in published:
            rooms.setdefault(row["room"], []).append(row)
        slowest = _slowest_answer(visitors, windows)
        expected = quiet = quiet_losses = lost = unanswered = 0
        for visitor in visitors:
            heard, answers = set(visitor.heard), set(visitor.answers)
            # Those of before it came are none of its own.
            first = min(heard, default=0)
            for row in rooms.get(visitor.room, ()):
                if not row["error"] and row["n"] >= first:
                    in_quiet = calm(windows, row["at"], row["at"] + row["seconds"])
                    missing = row["n"] not in heard
                    expected += 1
                    quiet += in_quiet
                    lost += missing
                    quiet_losses += missing and in_quiet
            for n, at in visitor.orders.items():
                unanswered += n not in answers and calm(windows, at, at + slowest)
            if visitor.ended:
                self.failures.append(f"websocket {visitor.number} ended: {visitor.ended}")
        self._fail(unanswered, "orders in quiet without an answer")
        self._fail(quiet_losses, "confirmed messages of quiet times not delivered")
        self._fail(
            sum(bool(row["error"]) and calm(windows, row["at"], row["at"]) for row in published),
            "messages refused in quiet",
        )

        orders = [error for visitor in visitors for error in visitor.ordered.values()]
        self._count("messages to rooms", [row["error"] for row in published])
        delivered = sum(len(visitor.heard) for visitor in visitors)
        self.lines.append(
            f"  delivered {delivered:,} to {len(visitors)} websockets, of {expected:,} for which "
            f"they were confirmed; lost with a queue in a fault: {lost - quiet_losses:,}; "
            f"sent in quiet: {quiet:,}, of which lost: {quiet_losses:,}"
        )
        self._count("orders to the worker", orders)
        self._count("answers to websockets", [row["error"] for row in answered])
        self.lines.append(
            f"  delivered {sum(len(visitor.answers) for visitor in visitors):,}; "
            f"the slowest in quiet came {slowest:.1f} s after its order"
        )
        # What is in doubt may come late: see docs/reliability.rst.
        confirmed = {
            room: {row["n"] for row in rows if not row["error"]} for room, rows in rooms.items()
        }
        duplicates = reorderings = 0
        for visitor in visitors:
            certain = confirmed.get(visitor.room, set())
            duplicates += twice(visitor.heard) + twice(visitor.answers)
            reorderings += out_of_order([n for n in visitor.heard if n in certain])
            reorderings += out_of_order(visitor.answers)
        for title, found in (("duplicates", duplicates), ("reorderings", reorderings)):
            self.lines.append(f"{title}: {found}")
            self._fail(found, title)
        silences = [pair for visitor in visitors for pair in visitor.silences]
        in_calm = [pair for pair in silences if calm(windows, *pair)]
        self.lines.append(
            f"longest silence that a client saw: {_longest(silences)}; "
            f"without a fault: {_longest(in_calm)}"
        )
        longest = max((row["seconds"] for row in published), default=0)
        self.lines.append(f"longest call of the publisher: {longest:.1f} s")

    def _count(self, title: str, errors: Sequence[str]) -> None:
        refused = Counter(error for error in errors if error)
        causes = ", ".join(f"{count:,} {cause}" for cause, count in refused.most_common())
        confirmed = len(errors) - refused.total()
        self.lines.append(
            f"{title}: sent {len(errors):,}, confirmed {confirmed:,}, refused {causes or 'none'}"
        )

    def _fail(self, count: int, text: str) -> None:
        if count:
            self.failures.append(f"{text}: {count}")


def _slowest_answer(visitors: Iterable[Visitor], windows: Windows) -> float:
    """Seconds from an order to its answer, at most, without a fault in between.

    An order that was sent so shortly before a fault may be in the worker's queue then.
    """
    pairs = (
        (visitor.orders[n], came) for visitor in visitors for n, came in visitor.answered.items()
    )
    return max((came - at for at, came in pairs if calm(windows, at, came)), default=0)


def _longest(silences: Iterable[tuple[float, float]]) -> str:
    longest = max((end - start for start, end in silences), default=0)
    return f"{longest:.1f} s" if longest else "less than 1 s"
