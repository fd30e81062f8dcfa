"""`Specimen`: a model with data to look at it on; and how adapters that make them are found."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING

from spectroscope.errors import RequestError

if TYPE_CHECKING:  # a misspelt name shouldn't have to wait for torch
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

GROUP = "spectroscope.adapters"


@dataclass(frozen=True)
class Specimen:
    """A model, inputs for it, and what one has to know to read the result.

    Attributes:
        name: as on the command line.
        description: one line: what it is and does.
        license: of the weights and data, as an SPDX expression.
        model: in eval mode.
        inputs: batches; ``model(batch)`` runs one.
        n_inputs: number of inputs in all batches.
        fs: samples per second of a 1-D input; None: frequencies in cycles per sample.
        metric: from the outputs of all inputs, concatenated, to named numbers; each name says
            what it is, over what, and the unit.
        f0: ``[n_inputs]``, fundamental of each input in Hz, where it is known.
        f0_name: what that fundamental is.
        per_minute: show frequencies per minute (BPM) rather than per second (Hz).
        showpiece: a site whose spectra are worth a picture.
    """

    name: str
    description: str
    license: str
    model: nn.Module
    inputs: Iterable[Tensor]
    n_inputs: int
    fs: float | None = None
    metric: Callable[[Tensor], Mapping[str, float]] | None = None
    f0: NDArray[np.float64] | None = None
    f0_name: str = "f0"
    per_minute: bool = False
    showpiece: str | None = None


def adapters() -> dict[str, EntryPoint]:
    """Entry points of the group ``spectroscope.adapters``, by the name of what they make.

    Each leads to a function ``(**options) -> Specimen`` whose docstring's first line says what
    that is.
    """
    return {entry.name: entry for entry in sorted(entry_points(group=GROUP))}


def specimen(name: str, **options: object) -> Specimen:
    """The specimen called `name`.

    Args:
        name: of an installed adapter, such as ``"kid-ppg"``.
        options: what its adapter takes; an option that is None counts as not given.

    Raises:
        RequestError: no adapter has that name, or it doesn't take one of the options, or it
            can't make the specimen (its message says why).
    """
    found = adapters()
    if name not in found:
        near = difflib.get_close_matches(name, found, n=3, cutoff=0.4)
        known = f"the nearest: {', '.join(near)}" if near else f"there are: {', '.join(found)}"
        raise RequestError(f"unknown specimen {name!r}; {known}")
    make = found[name].load()
    given = {key: value for key, value in options.items() if value is not None}
    signature = inspect.signature(make)
    try:
        signature.bind(**given)
    except TypeError as error:
        takes = ", ".join(signature.parameters) or "no options"
        raise RequestError(f"{name} can't be made so ({error}); it takes {takes}") from error
    made = make(**given)
    if not isinstance(made, Specimen):
        raise RequestError(f"the adapter of {name} made a {type(made).__name__}, not a Specimen")
    return made
