"""Progress bars in terminals and notebooks; in a log, a plain line now and then."""

import sys
import warnings
from collections.abc import Iterable
from typing import Any, TextIO

from tqdm import TqdmWarning

with warnings.catch_warnings():
    # Without ipywidgets a notebook has tqdm's bar of text, which needs no warning.
    warnings.simplefilter("ignore", TqdmWarning)
    from tqdm.auto import tqdm

_SECONDS = 60.0  # between two lines of a log, and before the first
_LINE = "{desc}{n_fmt} of {total_fmt}{unit}, {elapsed} so far, {remaining} left, {rate_fmt}"


class _Log:
    """A stream for tqdm, with a line for each state of the bar."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> None:
        """Write `text` as a line, without what moves the cursor of a terminal."""
        if line := text.strip():
            self._stream.write(f"{line}\n")

    def flush(self) -> None:
        """Flush the stream."""
        self._stream.flush()


def progress_bar(
    iterable: Iterable[Any] | None = None, *, shown: bool, desc: str = "", **options: Any
) -> Any:
    """A bar of tqdm on standard error, with `options`.

    Where that is neither a terminal nor a notebook, as under cron or SLURM, it has a line a minute,
    and none in the first.
    """
    stream = sys.stderr
    # The text of a notebook's cells is no terminal either, but a line in it can be written again.
    if shown and not (stream.isatty() or type(stream).__module__.startswith("ipykernel")):
        options |= {"file": _Log(stream), "bar_format": _LINE, "delay": _SECONDS}
        options |= {"mininterval": _SECONDS, "maxinterval": _SECONDS}
    return tqdm(iterable, disable=not shown, desc=desc and f"{desc}: ", **options)
