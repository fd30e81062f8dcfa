"""`Specimen`: a model together with data to run it on. Adapters return it."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from spectroscope.capture.axes import ChannelAxis, TimeAxis
from spectroscope.errors import RequestError

if TYPE_CHECKING:  # `spectroscope list` and a misspelt name need no torch
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    Batch = Tensor | Sequence[Tensor]


@dataclass(frozen=True)
class Specimen:
    """A model, inputs for it, and the facts needed to read the result.

    Attributes:
        name: name on the command line.
        description: one line: what the model is and does.
        license: licence of the weights and data, as an SPDX expression.
        model: the model, in eval mode.
        inputs: batches: ``model(batch)`` is called, or ``model(*batch)`` if the batch is a tuple.
            Or a map-style data set of single inputs. If it can be iterated over only once, the
            specimen can be run only once.
        n_inputs: maximum number of inputs that are run; at most the number in all batches.
        fs: sampling rate of a 1-D input in Hz; None: frequencies are in cycles per sample.
        metric: function of (outputs of a batch, its targets or None) that returns scores by name,
            each ``[N]``, one per input. They are averaged over all inputs, without NaN. A name
            states what the score is, over which inputs, and its unit; ``{n}`` in a name becomes the
            number of inputs averaged.
        targets: ``[n_inputs]``, the correct outputs, if known, in the order of the inputs; with a
            `DataLoader`, by index in its data set. Arrays and Series are converted.
        with_targets: batches are ``(inputs, targets)``.
        error: function of (outputs, targets) that returns the error of each input, ``[N]``.
        error_name: name of the averaged error, with its unit.
        block: number of consecutive inputs that :func:`spectroscope.importance` resamples together;
            more than 1 if neighbours depend on each other.
        labels: function of (outputs of a batch, index of its first input) that returns one line of
            text per input, to show that the model works. Used only for the first few inputs.
        channel_axis: as in :func:`spectroscope.record`.
        time_axis: as in :func:`spectroscope.record`.
        f0: ``[n_inputs]``, fundamental of each input in Hz, if known, in the order of `targets`.
        f0_name: name of that fundamental.
        per_minute: show frequencies per minute (BPM) instead of Hz.
        featured_site: name of the site whose spectra are drawn; None: the first site with spectra.
        options: options that were passed to :func:`spectroscope.specimen`.
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
    block: int = 1
    labels: Callable[[Tensor, int], Sequence[str]] | None = None
    channel_axis: ChannelAxis = "auto"
    time_axis: TimeAxis = "auto"
    f0: NDArray[np.float64] | None = None
    f0_name: str = "f0"
    per_minute: bool = False
    featured_site: str | None = None
    options: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # A pandas Series, say, would be indexed by its labels.
        if self.targets is not None:
            from spectroscope.specimens.batches import as_targets

            object.__setattr__(self, "targets", as_targets(self.targets))
        if self.f0 is not None:
            import numpy as np

            object.__setattr__(self, "f0", np.asarray(self.f0))

    def first(self, inputs: int) -> Specimen:
        """The same specimen, limited to the first `inputs` inputs.

        Raises:
            RequestError: `inputs` is less than 1.
        """
        if inputs < 1:
            raise RequestError(f"limit={inputs} must be a number of inputs, 1 or more")
        return replace(self, n_inputs=min(inputs, self.n_inputs))

    def __repr__(self) -> str:
        rate = "" if self.fs is None else f", fs={self.fs:g} Hz"
        model = type(self.model).__name__
        return f"Specimen({self.name!r}: {model}, {self.n_inputs:,} inputs{rate})"

    def _repr_html_(self) -> str:
        rows = {
            "description": self.description,
            "model": type(self.model).__name__,
            "inputs": f"{self.n_inputs:,}",
            "fs": "unknown" if self.fs is None else f"{self.fs:g} Hz",
            "license": self.license,
        }
        cells = "".join(
            f'<tr><th scope="row" style="text-align:left">{name}</th>'
            f'<td style="text-align:left">{html.escape(text)}</td></tr>'
            for name, text in rows.items()
        )
        return f"<table><caption>Specimen {html.escape(self.name)}</caption>{cells}</table>"
