"""`CaptureSession`: the context manager behind `record`, `intervene` and others."""

import warnings
from collections import Counter
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from spectroscope.capture.capture import Capture
from spectroscope.capture.sites import CoverageRow

_MAX_LISTED = 3  # problems named in a warning


class CaptureSession:
    """Observes a model while the `with` block runs, and warns at the end of calls it missed.

    All hooks are removed at the end, whatever was raised, even by an interrupt at any line. A
    session can be entered again, but not while it is open.

    Args:
        capture: of the calls.
        model_name: for warnings.
        participle: for warnings, what the session does with calls: ``"recorded"``.
    """

    _hint = ""  # of where to read more, in the warning
    _next = ""  # what to do then, in the repr

    def __init__(self, capture: Capture, model_name: str, participle: str):
        self._capture = capture
        self._model_name = model_name
        self._participle = participle

    def __repr__(self) -> str:
        ran = [
            row.fired for row in self._capture.discovery.rows.values() if row.asked and row.fired
        ]
        calls = f"{sum(ran):,} call{'s' * (sum(ran) != 1)} of {len(ran)} activations"
        so_far = " so far" if self._capture.attached else self._next
        name = type(self).__name__
        return f"{name}({self._model_name}: {calls} {self._participle}{so_far})"

    def __enter__(self) -> Self:
        try:
            self._capture.attach()
            self._on_enter()
            return self
        except KeyboardInterrupt:  # no __exit__ follows
            self._capture.detach()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self._capture.detach()
        except KeyboardInterrupt:  # incomplete: a second call completes it
            self._capture.detach()
            raise
        if error is None and (warning := self._warning()):
            warnings.warn(f"{self._model_name}: {warning}", stacklevel=2)

    def _on_enter(self) -> None:
        """Called when the block begins."""

    def _is_empty(self) -> bool:
        """Whether no call was captured."""
        return False

    def _problems(self) -> list[str]:
        """Places that weren't captured in full, each with the reason."""
        return self.problems_of(row for row in self._capture.discovery.rows.values() if row.reason)

    @staticmethod
    def problems_of(rows: Iterable[CoverageRow]) -> list[str]:
        """Place and reason of each coverage row."""
        return [f"{row.place or 'itself'} ({row.reason or 'never ran'})" for row in rows]

    def _warning(self) -> str | None:
        """The warning at the end of the block, about calls that weren't captured, or None."""
        problems, participle = self._problems(), self._participle
        listed = ", ".join(problems[:_MAX_LISTED]) + ", …" * (len(problems) > _MAX_LISTED)
        if self._is_empty():
            if seen := self._capture.discovery.not_asked_for():
                remedy = _remedy(seen, participle)
                return "; ".join(filter(None, (f"nothing was {participle}: {remedy}", listed)))
            if self._capture.ran is None and not self._capture.discovery.describe_gaps():
                listed = "it did not run"
            return f"nothing was {participle}: {listed or 'no selected activation was called'}"
        if problems:
            places = "1 place is" if len(problems) == 1 else f"{len(problems)} places are"
            return f"{places} not {participle} in full{self._hint}: {listed}"
        return None


def _remedy(seen: Counter[str], participle: str) -> str:
    """What to do about calls of kinds that weren't asked for, given their numbers."""
    calls = " and ".join(f"{n} {kind} call{'s' * (n > 1)}" for kind, n in seen.items())
    kinds = ", ".join(f'"{kind}"' for kind in seen)
    were = "was" if seen.total() == 1 else "were"
    return f'{calls} {were} seen, none {participle}: kinds=[{kinds}] or kinds="all"'
