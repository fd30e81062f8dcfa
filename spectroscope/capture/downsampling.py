"""Provenance: which activation calls a tensor comes from, and what downsamples their output."""

import math
from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Any, NamedTuple, TypeAlias

from torch import Tensor

from spectroscope.capture.axes import Axes, Layout, decimations
from spectroscope.capture.axis_rules import RESHAPES, FunctionCall, per_axis
from spectroscope.capture.axis_tracker import AxisTracker
from spectroscope.capture.sites import Downsampling
from spectroscope.capture.tensors import TensorMap, tensors

# The decimation of each axis of a tensor.
Decimations: TypeAlias = tuple[Fraction | None, ...]


class DownsamplingStep(NamedTuple):
    """A function that lowers the sampling rate somewhere after a site.

    Attributes:
        place: calling module and function: `layer2.0.conv1/conv2d`.
        factors: decimation factor from each axis of the site's output; infinite for a mean over it.
        between: number of other activations in between.
        whole: a mean over all of each decimated axis, as in global average pooling.
        average: as in :class:`spectroscope.capture.sites.Downsampling`.
    """

    place: str
    factors: tuple[float, ...]
    between: int
    whole: bool
    average: int | None


class _Source(NamedTuple):
    """An activation call that a tensor comes from.

    Attributes:
        axes: decimations of the axes of the call's output.
        between: number of other activations in between.
    """

    axes: Decimations
    between: int


_Sources = Mapping[str, _Source]  # by site name

# Rearranges samples without loss.
_LOSSLESS = {"pixel_unshuffle"}

# The output has the values of the input, with axes elsewhere or of another dtype.
_SAME_VALUES = RESHAPES | {
    "permute", "transpose", "t", "swapaxes", "swapdims", "movedim", "moveaxis", "squeeze",
    "unsqueeze", "contiguous", "clone", "detach", "to", "float", "double", "cpu", "cuda",
}  # fmt: skip


class Provenance:
    """The activation calls that the tensors of one forward come from.

    Args:
        axes: the axes of those tensors, updated before each :meth:`update`.
    """

    def __init__(self, axes: AxisTracker):
        self._axes = axes
        self._sources: TensorMap[_Sources] = TensorMap()
        self._outputs: TensorMap[str] = TensorMap()  # the site that a tensor is the output of

    def add_site(self, site: str, output: Tensor) -> None:
        """Set `output` as that of the activation call `site`."""
        sources = self._sources.get(output) or {}
        sources = {s: x._replace(between=x.between + 1) for s, x in sources.items()}
        axes = self._axes.of(output)
        if axes is not None:
            sources[site] = _Source(decimations(axes), 0)
        self._sources.set(output, sources)
        self._outputs.set(output, site)

    def update(
        self,
        place: str,
        tracked: list[tuple[Tensor, Axes]],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        output: Any,
    ) -> dict[str, DownsamplingStep]:
        """Set the sources of the output of a torch function that has run.

        Args:
            place: calling module and function.
            tracked: what :meth:`AxisTracker.update` returned.
            args: positional arguments of the function.
            kwargs: keyword arguments of the function.
            output: result of the function.

        Returns:
            By site, how the function lowers the sampling rate, if it does.
        """
        sources = _nearest([self._sources.get(tensor) or {} for tensor, _ in tracked])
        if not sources:
            return {}
        function = place.rpartition("/")[2]
        before = decimations(tracked[0][1])
        call = FunctionCall(function, args, kwargs, [tracked[0][0]], tracked)
        output_of = self._outputs.get(tracked[0][0]) if len(tracked) == 1 else None
        same_values = function in _SAME_VALUES or (
            "dropout" in function and not call.argument(2, "training", True)
        )
        steps: dict[str, DownsamplingStep] = {}
        for tensor in tensors((output,)):
            mean = function in ("mean", "sum")
            axes = self._axes.of(tensor)
            after = None if axes is None else decimations(axes)
            if mean:
                after = _mean_axes(before, args, kwargs)
            remaining = sources
            lowered = [] if function in _LOSSLESS else _lowered(before, after)
            if after is not None and lowered:
                single = "avg_pool" in function and all(tensor.shape[i] == 1 for i in lowered)
                whole = mean or single
                remaining = dict(sources)
                for site, source in sources.items():
                    factors = _factors(source.axes, after)
                    if factors is None:
                        continue
                    if max(factors) > 1:
                        average = _average(call, tensor) if site == output_of else None
                        steps[site] = DownsamplingStep(
                            place, factors, source.between, whole, average
                        )
                    # Once every axis of a line or an image is decimated, no later step is the next.
                    if min(factors[2:][-2:], default=1) > 1:
                        del remaining[site]
            self._sources.set(tensor, remaining)
            if output_of is not None and same_values:
                self._outputs.set(tensor, output_of)
            else:
                self._outputs.discard(tensor)
        return steps


class DownsamplingLog:
    """All steps that lowered the sampling rate after each site, in the order of first use."""

    def __init__(self) -> None:
        self._steps: dict[str, dict[str, DownsamplingStep]] = {}  # by site and place

    def add(self, steps: Mapping[str, DownsamplingStep]) -> None:
        """Add the steps of one function call, by site."""
        for site, step in steps.items():
            self._steps.setdefault(site, {}).setdefault(step.place, step)

    def next(self, site: str, layout: Layout) -> Downsampling | None:
        """The next downsampling after `site`, along the axes that are transformed, or None.

        The step with the fewest activations in between; of several, the first to run. Pooling over
        all of time or space, mostly a side branch, comes last.

        Args:
            site: name of the site.
            layout: of its output.
        """
        candidates = []
        for step in self._steps.get(site, {}).values():
            factors = layout.select(step.factors)
            if factors and max(factors) > 1:
                factor = factors[0] if len(set(factors)) == 1 else math.nan
                whole = step.whole and min(factors) > 1
                # What happens along other axes changes the power at all frequencies.
                average = (
                    step.average if sum(f != 1 for f in step.factors) == len(factors) else None
                )
                candidates.append(Downsampling(step.place, factor, step.between, whole, average))
        return min(candidates, key=lambda step: (step.whole, step.between), default=None)

    def state_dict(self) -> dict[str, Any]:
        """The steps as plain data."""
        return {
            site: [list(step) for step in steps.values()] for site, steps in self._steps.items()
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state saved by :meth:`state_dict`."""
        self._steps = {
            site: {
                place: DownsamplingStep(place, tuple(factors), between, whole, average)
                for place, factors, between, whole, average in rows
            }
            for site, rows in state.items()
        }


def _average(call: FunctionCall, output: Tensor) -> int | None:
    """`average` of a function that lowers the sampling rate of the output of a site."""
    name = call.name
    if name == "getitem":
        return 1
    if name in ("conv1d", "conv2d", "conv3d"):  # of one sample: mixes channels of those taken
        return 1 if set(call.argument(1, "weight").shape[2:]) == {1} else None
    if "avg_pool" not in name:
        return None
    count = int(name[-2])
    if "adaptive" in name:
        lengths = zip(call.inputs[0].shape[-count:], output.shape[-count:], strict=True)
        kernels = steps = [a // b if a % b == 0 else 0 for a, b in lengths]
    else:
        kernels = per_axis(call.argument(1, "kernel_size"), count)
        steps = per_axis(call.argument(2, "stride") or kernels, count)
        if any(per_axis(call.argument(3, "padding", 0), count)) or call.argument(
            6, "divisor_override"
        ):
            return None
    pairs = {(k, step) for k, step in zip(kernels, steps, strict=True)} - {(1, 1)}
    length = {k for k, _ in pairs}
    return length.pop() if len(length) == 1 and min(step for _, step in pairs) > 1 else None


def _nearest(several: Iterable[_Sources]) -> _Sources:
    """All sources of several tensors, each with the fewest activations in between."""
    first, *others = several
    if not others:
        return first
    nearest = dict(first)
    for sources in others:
        for site, source in sources.items():
            if site not in nearest or source.between < nearest[site].between:
                nearest[site] = source
    return nearest


def _lowered(before: Decimations, after: Decimations | None) -> list[int]:
    """The axes with a higher decimation after a function than before."""
    if after is None or len(after) != len(before):
        return []
    return [
        axis
        for axis, (a, b) in enumerate(zip(before, after, strict=True))
        if a is not b and a is not None and b is not None and b > a
    ]


def _factors(site: Decimations, after: Decimations) -> tuple[float, ...] | None:
    """Decimation from each axis of a site's output to a later tensor; None if unknown."""
    if len(site) != len(after):
        return None
    pairs = list(zip(site, after, strict=True))
    if all(a is not None or b is None for a, b in pairs):
        return tuple(1.0 if a is None or b is None else float(b / a) for a, b in pairs)
    # The axes were permuted, which is unambiguous where only one is of time.
    at_site, later = ([i for i, a in enumerate(axes) if i and a is not None]
                      for axes in (site, after))  # fmt: skip
    if len(at_site) != 1 or len(later) != 1:
        return None
    factor = float(after[later[0]] / site[at_site[0]])  # type: ignore[operator]
    return tuple(factor if i == at_site[0] else 1.0 for i in range(len(site)))


def _mean_axes(axes: Decimations, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Axes after a mean or sum over time or space: infinitely decimated. None for any other."""
    dim = args[1] if len(args) > 1 else kwargs.get("dim", kwargs.get("axis"))
    dims = dim if isinstance(dim, list | tuple) else [dim]
    over = {d % len(axes) for d in dims if isinstance(d, int)}
    if not over or 0 in over or any(axes[d] is None for d in over):
        return None
    return tuple(math.inf if i in over else axis for i, axis in enumerate(axes))
