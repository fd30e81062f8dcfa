"""`CaptureSession`: the context manager behind `record`, `intervene` and others."""

import warnings
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from spectroscope.capture.capture import Capture
from spectroscope.capture.sites import CoverageRow

_LISTED = 3  # problems named in a warning


class CaptureSession:
    """Observes a model while its `with` block runs, and warns at the end of what was missed.

    Nothing of it stays behind, whatever is raised, an interrupt at any line included. It may be
    entered again, but not while it is open.

    Args:
        capture: of the calls.
        model_name: for warnings.
        done: what is done with the calls, for warnings: ``"recorded"``.
    """

    _hint = ""

    def __init__(self, capture: Capture, model_name: str, done: str):
        self._capture = capture
        self._model_name = model_name
        self._done = done

    def __enter__(self) -> Self:
        try:
            self._capture.attach()
            self._opened()
            return self
        except KeyboardInterrupt:  # attached, and no __exit__ would follow
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
        except KeyboardInterrupt:  # in the middle of it; once more finishes it
            self._capture.detach()
            raise
        if error is None and (message := self._message()):
            warnings.warn(f"{self._model_name}: {message}", stacklevel=2)

    def _opened(self) -> None:
        """Called when the block begins."""

    def _is_empty(self) -> bool:
        """Whether no call was captured."""
        return False

    def _problems(self) -> list[str]:
        """What wasn't captured in full, and why, one text each."""
        return self.problems_of(row for row in self._capture.discovery.rows.values() if row.reason)

    @staticmethod
    def problems_of(rows: Iterable[CoverageRow]) -> list[str]:
        """Place and reason of each row of the coverage."""
        return [f"{row.place or 'itself'} ({row.reason or 'never ran'})" for row in rows]

    def _message(self) -> str | None:
        """The warning at the end of the block: what was not captured that one might think was."""
        problems, done = self._problems(), self._done
        listed = ", ".join(problems[:_LISTED]) + ", …" * (len(problems) > _LISTED)
        if self._is_empty():
            if self._capture.ran is None and not self._capture.discovery.describe_gaps():
                listed = "it did not run"
            return f"nothing was {done}: {listed or 'no activation that was asked for was called'}"
        if problems:
            places = "1 place is" if len(problems) == 1 else f"{len(problems)} places are"
            return f"{places} not {done} in full{self._hint}: {listed}"
        return None
