"""Figures as files in which text stays text."""

import os
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

from spectroscope.errors import RequestError
from spectroscope.io import output_folder

# Type 3 fonts of a PDF, Matplotlib's default, can't be edited; nor can the outlines of an SVG.
_EDITABLE: Any = {"pdf.fonttype": 42, "ps.fonttype": 42, "svg.fonttype": "none"}


def save(ax: Any, path: str | os.PathLike[str], *, dpi: float = 300) -> None:
    """Write the figure of a plot; text in PDF, SVG and EPS can be edited and searched.

    Args:
        ax: what a function of `plots` returned: Axes, or an array of them.
        path: of the file, in an existing folder; its ending is the format. An existing file is
            replaced; if writing fails it is left unchanged.
        dpi: dots per inch of PNG, and of what is drawn as dots in the other formats.

    Raises:
        RequestError: the format is unknown, or the file cannot be written.
    """
    path = Path(path)
    figure = np.ravel(np.asarray(ax, dtype=object))[0].figure.canvas.figure
    known = figure.canvas.get_supported_filetypes()
    if path.suffix[1:] not in known:
        raise RequestError(f"{path} has no format: its ending must be one of {', '.join(known)}")
    if not path.parent.is_dir():
        raise RequestError(f"cannot write {path}: folder {path.parent} does not exist")
    try:
        with output_folder(path.parent) as staging, mpl.rc_context(_EDITABLE):
            figure.savefig(staging / path.name, dpi=dpi)
    except OSError as error:
        raise RequestError(f"cannot write {path}: {error.strerror or error}") from error
