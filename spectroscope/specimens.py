"""`Specimen`: a model with data to look at it on. What an adapter makes."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a misspelt name shouldn't have to wait for torch
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    Batch = Tensor | Sequence[Tensor]


@dataclass(frozen=True)
class Specimen:
    """A model, inputs for it, and what one has to know to read the result.

    Attributes:
        name: as on the command line.
        description: one line: what it is and does.
        license: of the weights and data, as an SPDX expression.
        model: in eval mode.
        inputs: batches; ``model(batch)`` runs one, ``model(*batch)`` one that is a tuple.
        n_inputs: number of inputs in all batches.
        fs: samples per second of a 1-D input; None: frequencies in cycles per sample.
        metric: from the outputs of all inputs, concatenated, to named numbers; each name says
            what it is, over what, and the unit.
        targets: ``[n_inputs]``, what the model should find, where that is known.
        error: from outputs and targets of some inputs to the error of each, ``[N]``.
        error_name: what that is, averaged, and its unit.
        labels: from the same to a line on each input, which shows that the model works.
        channel_axis: as in :func:`spectroscope.record`.
        f0: ``[n_inputs]``, fundamental of each input in Hz, where it is known.
        f0_name: what that fundamental is.
        per_minute: show frequencies per minute (BPM) rather than per second (Hz).
        showpiece: a site whose spectra are worth a picture.
    """

    name: str
    description: str
    license: str
    model: nn.Module
    inputs: Iterable[Batch]
    n_inputs: int
    fs: float | None = None
    metric: Callable[[Tensor], Mapping[str, float]] | None = None
    targets: Tensor | None = None
    error: Callable[[Tensor, Tensor], Tensor] | None = None
    error_name: str = "error"
    labels: Callable[[Tensor], Sequence[str]] | None = None
    channel_axis: int | Mapping[str, int] = 1
    f0: NDArray[np.float64] | None = None
    f0_name: str = "f0"
    per_minute: bool = False
    showpiece: str | None = None

    def _repr_html_(self) -> str:
        rows = {
            "does": self.description,
            "model": type(self.model).__name__,
            "inputs": f"{self.n_inputs:,}",
            "fs": "not known" if self.fs is None else f"{self.fs:g} Hz",
            "license": self.license,
        }
        cells = "".join(
            f'<tr><th scope="row" style="text-align:left">{name}</th>'
            f'<td style="text-align:left">{html.escape(text)}</td></tr>'
            for name, text in rows.items()
        )
        return f"<table><caption>Specimen {html.escape(self.name)}</caption>{cells}</table>"
