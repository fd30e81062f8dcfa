"""`Specimen`: a model with data to look at it on. What an adapter makes."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from spectroscope.errors import RequestError

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
        inputs: batches; ``model(batch)`` runs one, ``model(*batch)`` one that is a tuple. Or a
            map-style data set of single inputs. If it can be gone through only once, so can the
            specimen.
        n_inputs: number of inputs in all batches, or fewer: no more are run.
        fs: samples per second of a 1-D input; None: frequencies in cycles per sample.
        metric: from the outputs of a batch, and its targets or None, to scores by name, each of
            ``[N]``, one for each input. They are averaged over all inputs, NaN left out. A name
            says what it is, over what, and the unit; ``{n}`` in it becomes the number of inputs.
        targets: ``[n_inputs]``, what the model should find, where that is known; in the order in
            which the inputs come, or, of a `DataLoader`, as its data set numbers them.
        with_targets: batches are ``(inputs, targets)``.
        error: from outputs and targets of some inputs to the error of each, ``[N]``.
        error_name: what that is, averaged, and its unit.
        labels: from the outputs of a batch, and the number of its first input, to a line on each
            input, which shows that the model works. Only of the first few inputs.
        channel_axis: as in :func:`spectroscope.record`.
        f0: ``[n_inputs]``, fundamental of each input in Hz, where it is known; in
            the order of `targets`.
        f0_name: what that fundamental is.
        per_minute: show frequencies per minute (BPM) rather than per second (Hz).
        showpiece: a site whose spectra are worth a picture.
        options: what :func:`spectroscope.specimen` made it with.
    """

    name: str
    description: str
    license: str
    model: nn.Module
    inputs: Iterable[Batch]
    n_inputs: int
    fs: float | None = None
    metric: Callable[[Tensor, Tensor | None], Mapping[str, Tensor]] | None = None
    targets: Tensor | None = None
    with_targets: bool = False
    error: Callable[[Tensor, Tensor], Tensor] | None = None
    error_name: str = "error"
    labels: Callable[[Tensor, int], Sequence[str]] | None = None
    channel_axis: int | Mapping[str, int] = 1
    f0: NDArray[np.float64] | None = None
    f0_name: str = "f0"
    per_minute: bool = False
    showpiece: str | None = None
    options: Mapping[str, object] = field(default_factory=dict)

    def first(self, inputs: int) -> Specimen:
        """The same with the first so many inputs alone.

        Raises:
            RequestError: that is less than 1.
        """
        if inputs < 1:
            raise RequestError(f"limit={inputs} must be a number of inputs, 1 or more")
        return replace(self, n_inputs=min(inputs, self.n_inputs))

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
