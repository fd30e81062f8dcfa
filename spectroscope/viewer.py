"""`show`: record one batch, and look at its page in a browser or a notebook."""

import html
import os
import sys
import tempfile
import webbrowser
from pathlib import Path
from typing import Any

import torch
from torch import nn

from spectroscope.errors import RequestError
from spectroscope.recorder import record
from spectroscope.report import Report


def show(
    model: nn.Module, x: Any, *, path: str | os.PathLike[str] | None = None, **options: Any
) -> Report:
    """Run `model` on one batch, record its activations, and open the page of the report.

    The page opens in a browser, or in a notebook below the cell. Where there is no browser, the
    path of the page is printed.

    Args:
        model: in eval mode; it is not modified.
        x: inputs ``[N, ...]``, or a tuple of the model's arguments.
        path: where to write the page; None: a temporary file, which is kept.
        options: of :func:`spectroscope.record`, such as ``fs=32.0``.

    Returns:
        The report. `report.summary()` says what stands out, `report.dc()` is the table.

    Raises:
        RequestError: the model is in training mode, the page can't be written, or as in `record`.
        TypeError: as in `record`.
    """
    if model.training:
        raise RequestError("show runs the model, which is in training mode: call model.eval()")
    with torch.inference_mode(), record(model, **options) as recorder:
        model(*x) if isinstance(x, tuple) else model(x)
    report = recorder.report()
    if path is None:
        path = Path(tempfile.mkdtemp(prefix="spectroscope-")) / "report.html"
    report.page(path)
    if _in_notebook():
        from IPython.display import display

        # Otherwise links to parts of the page would lead to the notebook itself.
        base = '<head><base href="about:srcdoc">'
        page = html.escape(Path(path).read_text("utf-8").replace("<head>", base, 1))
        frame = f'<iframe srcdoc="{page}" style="width:100%;height:800px;border:0"></iframe>'
        display({"text/html": frame, "text/plain": str(path)}, raw=True)
    elif not webbrowser.open(Path(path).resolve().as_uri()):
        print(f"no browser could be opened; the page is {path}")
    return report


def _in_notebook() -> bool:
    """Whether this process is the kernel of a notebook, not a terminal's IPython."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return getattr(shell, "kernel", None) is not None
