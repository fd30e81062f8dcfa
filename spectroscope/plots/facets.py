"""Panels with shared axes: one Axes for each channel, labels and legend once."""

import math
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from numpy.typing import ArrayLike, NDArray

from spectroscope.plots import style


class Facets:
    """Panels in a grid, in a new figure or on the user's Axes.

    A new figure has the labels of its axes, its title and its legend once, outside. Of the user's
    Axes those at the left and at the bottom are labelled, and the legend is left to the user:
    ``figure.legend(*ax[0].get_legend_handles_labels())``.

    Args:
        ax: the user's Axes; None: a new figure.
        count: number of panels.
        across: panels side by side in a new figure.
        size: of a panel of a new figure, in inches.
        share: `sharex` and `sharey` of a new figure.

    Attributes:
        panels: ``[count]``, the Axes. Further ones that the user gave are made invisible.

    Raises:
        ValueError: `ax` has too few Axes.
    """

    def __init__(
        self,
        ax: ArrayLike | None,
        count: int,
        across: int,
        size: tuple[float, float],
        **share: Any,
    ):
        self._new = ax is None
        self._count, self._across = count, across
        if ax is None:
            down = math.ceil(count / across)
            ax = style.new_axes(0.8 + size[0] * across, 1.3 + size[1] * down, nrows=down,
                                ncols=across, squeeze=False, **share)  # fmt: skip
        axes: list[Any] = list(np.ravel(np.asarray(ax, dtype=object)))
        if len(axes) < count:
            raise ValueError(f"{count} panels need as many Axes, but ax has {len(axes)}")
        self.panels: NDArray[Any] = np.empty(count, dtype=object)
        self.panels[:] = axes[:count]
        for panel in axes[count:]:
            panel.set_visible(False)

    def label(self, x: str, y: str) -> None:
        """Label the axes: in a new figure once, otherwise at the left and at the bottom."""
        figure: Any = self.panels[0].figure
        for number, panel in enumerate(self.panels):
            cell = panel.get_subplotspec()
            columns = self._count if cell is None else cell.get_gridspec().ncols
            if cell is None or number + columns >= self._count:
                panel.tick_params(labelbottom=True)  # last of its column, if not of the grid
                if not self._new:
                    panel.set_xlabel(x)
            if not self._new and (cell is None or cell.is_first_col()):
                panel.set_ylabel(y)
        if self._new:
            for set_label, text in ((figure.supxlabel, x), (figure.supylabel, y)):
                set_label(text, fontsize=mpl.rcParams["axes.labelsize"],
                          fontweight=mpl.rcParams["axes.labelweight"])  # fmt: skip

    def finish(self, title: str, handles: Sequence[Any]) -> None:
        """Title and legend of a new figure, above its panels."""
        if not self._new:
            return
        figure: Any = self.panels[0].figure
        if not handles:
            figure.suptitle(title, fontsize="medium")
            return
        # At the bottom Matplotlib would put it over the label of the axes, at the top over a title.
        for columns in range(len(handles), 0, -1):
            legend = figure.legend(handles=list(handles), loc="outside upper center", ncols=columns,
                                   fontsize="small", title=title, frameon=False)  # fmt: skip
            if columns == 1 or legend.get_window_extent().width < 0.97 * figure.bbox.width:
                break
            legend.remove()
