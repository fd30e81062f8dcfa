"""What lowers the sampling rate behind each rectifier call: where its output is led to."""

import math
import weakref
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from spectroscope.capture.axes import Axes, Rates, tensors


class Lowering(NamedTuple):
    """A function that lowers the sampling rate behind a site.

    Attributes:
        place: name of the module in which it is called, and its own: `layer2.0.conv1/conv2d`.
        factors: for each axis of the site's output, by how much; infinite for a mean over it.
        between: number of other rectifiers on the way.
        whole: nothing is left of the axes but one value, as of global pooling.
    """

    place: str
    factors: tuple[float, ...]
    between: int
    whole: bool


class _Origin(NamedTuple):
    """That a tensor comes from a rectifier call."""

    axes: Axes  # of the call's output
    between: int


_Origins = Mapping[str, _Origin]

# Rearranges samples, and loses none.
_LOSSLESS = {"pixel_unshuffle"}


class Origins:
    """From which rectifier calls the tensors of one forward come. They are referred to weakly."""

    def __init__(self, rates: Rates):
        self._rates = rates
        self._of: dict[int, tuple[weakref.ref[Tensor], _Origins]] = {}

    def of(self, tensor: Tensor) -> _Origins:
        """The calls that `tensor` comes from."""
        reference, origins = self._of.get(id(tensor), (None, {}))
        return origins if reference is not None and reference() is tensor else {}

    def rectified(self, site: str, output: Tensor) -> None:
        """Note that `output` comes from the rectifier call `site`."""
        axes = self._rates.of(output)
        origins = {s: o._replace(between=o.between + 1) for s, o in self.of(output).items()}
        if axes is not None:
            origins[site] = _Origin(axes, 0)
        self._of[id(output)] = weakref.ref(output), origins

    def passed(
        self,
        place: str,
        sources: list[tuple[Tensor, Axes]],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        output: Any,
    ) -> dict[str, Lowering]:
        """Note where the output of a torch function comes from; to be called after the rates'.

        Args:
            place: of the function.
            sources: the tensors among its arguments of which rates were known, and those.
            args: its positional arguments.
            kwargs: its keyword arguments.
            output: what it returned.

        Returns:
            If it has lowered the sampling rate: how, behind each site.
        """
        origins = self.of(sources[0][0])
        if len(sources) > 1:
            nearest = dict(origins)
            for source, _ in sources[1:]:
                for site, origin in self.of(source).items():
                    if site not in nearest or origin.between < nearest[site].between:
                        nearest[site] = origin
            origins = nearest
        if not origins:
            return {}
        function = place.rpartition("/")[2]
        before = sources[0][1]
        lowered = {}
        for tensor in tensors((output,)):
            after = self._rates.of(tensor)
            if function == "mean":
                after = _without(before, args, kwargs)
            left: set[str] = set()
            if after is not None and len(after) == len(before) and function not in _LOSSLESS:
                down = [
                    axis
                    for axis, (a, b) in enumerate(zip(before, after, strict=True))
                    if a is not b and a is not None and b is not None and b > a
                ]
                whole = function == "mean" or all(tensor.shape[axis] == 1 for axis in down)
                for site, origin in origins.items() if down else ():
                    factors = _factors(origin.axes, after)
                    if factors is not None and max(factors) > 1:
                        lowered[site] = Lowering(place, factors, origin.between, whole)
                    # Lower along every axis of a line or an image: what follows isn't the next.
                    if factors is not None and min(factors[2:][-2:], default=1) > 1:
                        left.add(site)
            on = {s: o for s, o in origins.items() if s not in left} if left else origins
            self._of[id(tensor)] = weakref.ref(tensor), on
        return lowered


def _factors(site: Axes, after: Axes) -> tuple[float, ...] | None:
    """By how much the rate is lower than at the site, axis by axis; None if that can't be told."""
    if len(site) != len(after):
        return None
    if all(a is not None or b is None for a, b in zip(site, after, strict=True)):
        pairs = zip(site, after, strict=True)
        return tuple(1.0 if a is None or b is None else float(b / a) for a, b in pairs)
    # Axes have changed places; where there is one of time, it is that one.
    mine, its = ([i for i, a in enumerate(axes) if i and a is not None] for axes in (site, after))
    if len(mine) != 1 or len(its) != 1:
        return None
    factor = float(after[its[0]] / site[mine[0]])  # type: ignore[operator]
    return tuple(factor if i == mine[0] else 1.0 for i in range(len(site)))


def _without(axes: Axes, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Axes after a mean over time or space, infinitely decimated; None if it is another mean."""
    dim = args[1] if len(args) > 1 else kwargs.get("dim", kwargs.get("axis"))
    dims = dim if isinstance(dim, list | tuple) else [dim]
    over = {d % len(axes) for d in dims if isinstance(d, int)}
    if not over or 0 in over or any(axes[d] is None for d in over):
        return None
    return tuple(math.inf if i in over else axis for i, axis in enumerate(axes))
