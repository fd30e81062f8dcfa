"""`GlobalPooling`: of which activations nothing but the mean over time or space goes on."""

import math
from collections.abc import Callable, Iterable
from typing import Any, Literal, TypeAlias

from torch import Tensor

from spectroscope.capture.axes import UNKNOWN, Axis
from spectroscope.capture.axis_rules import FunctionCall, output_axes, per_axis
from spectroscope.capture.tensors import TensorMap, tensors

# Whether only the mean goes on; None: unknown.
OnlyMean: TypeAlias = bool | None

# Axes of a tensor.
_Axes: TypeAlias = frozenset[int]

# What a function makes of a tensor: all samples, with these axes of time or space; the mean;
# something else; or it is unknown.
_Result: TypeAlias = _Axes | Literal["mean", "other", "unknown"]

_MARK = Axis("feature")


class GlobalPooling:
    """Follows the outputs of the activations of one forward up to a mean over time or space.

    On the way their axes may be moved, and they may be scaled, mixed and added channel by channel,
    which commutes with the mean. With any other function more than the mean goes on.

    Args:
        only_mean: by site, the result of earlier forwards, which is updated. A site of which more
            than the mean goes on isn't followed again.
    """

    def __init__(self, only_mean: dict[str, OnlyMean]) -> None:
        self.active = False  # whether any output is followed
        self._only_mean = only_mean
        self._sites: TensorMap[dict[str, _Axes]] = TensorMap()

    def add_site(self, site: str, output: Tensor, transformed: Iterable[int]) -> None:
        """Follow the output of an activation, with these axes of time or space."""
        axes = frozenset(transformed)
        if not axes:
            self._set(site, False)
        if self._only_mean.get(site) is not False:
            self.active = True
            self._sites.set(output, {site: axes})
        elif self.active:
            self._sites.discard(output)

    def update(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """Follow what a torch function that has run made of the outputs.

        Args:
            name: the function's name, from `activations.function_name`.
            args: its positional arguments.
            kwargs: its keyword arguments.
            output: its result.
        """
        inputs = [*tensors(args), *tensors(kwargs.values())]
        given = [(tensor, sites) for tensor in inputs if (sites := self._sites.get(tensor))]
        name = name.lstrip("_")
        if not given or name in WITHOUT_VALUES:
            return
        results = list(tensors((output,)))
        following: list[dict[str, _Axes]] = [{} for _ in results]
        for tensor, sites in given:
            call = FunctionCall(name, args, kwargs, inputs, [])
            for site, axes in sites.items():
                if name in READS:
                    self._set(site, None)
                for result, of_result in zip(results, following, strict=True):
                    after = _result(call, tensor, axes, result)
                    if isinstance(after, frozenset):
                        of_result[site] = after
                    else:
                        self._set(site, {"mean": True, "other": False, "unknown": None}[after])
        for result, of_result in zip(results, following, strict=True):
            self._sites.set(result, of_result)

    def end(self, outputs: Iterable[Tensor]) -> None:
        """What the model returns goes on as it is."""
        for tensor in outputs if self.active else ():
            for site in self._sites.get(tensor) or ():
                self._set(site, False)

    def lose(self, site: str | None = None) -> None:
        """What went on from one or all sites wasn't followed and is unknown."""
        for name in list(self._only_mean) if site is None else [site]:
            self._set(name, None)

    def _set(self, site: str, value: OnlyMean) -> None:
        both = value, self._only_mean.get(site, True)
        self._only_mean[site] = merged(*both)


def merged(first: OnlyMean, second: OnlyMean) -> OnlyMean:
    """The result for two paths, or two recordings."""
    return False if False in (first, second) else None if None in (first, second) else True


def _result(call: FunctionCall, tensor: Tensor, axes: _Axes, result: Tensor) -> _Result:
    rule = _RULES.get(call.name)
    if rule is None:
        return "unknown" if call.name in _UNKNOWN or "::" in call.name else "other"
    after = rule(call, tensor, axes, result)
    if isinstance(after, frozenset) and call.name not in _MEANS:
        size, new_size = (math.prod(x.shape[i] for i in of)
                          for x, of in ((tensor, axes), (result, after)))  # fmt: skip
        if size != new_size:  # some samples alone go on; or, concatenated, others with them
            return "other" if new_size < size else "unknown"
    return after


def _mean(call: FunctionCall, tensor: Tensor, axes: _Axes, result: Tensor) -> _Result:
    dim = call.argument(1, "dim", call.kwargs.get("axis"))
    if dim is None:
        return "mean"
    dims = dim if isinstance(dim, list | tuple) else [dim, *call.args[2:]]
    over = {d % tensor.dim() for d in dims if type(d) is int}
    kept = [i for i in range(tensor.dim()) if i not in over or result.dim() == tensor.dim()]
    return frozenset(kept.index(i) for i in axes - over) or "mean"


def _average_pooling(call: FunctionCall, tensor: Tensor, axes: _Axes, result: Tensor) -> _Result:
    """Of equal parts; otherwise some samples count more than others."""
    count = int(call.name[-2])
    kernels = strides = paddings = None
    if "adaptive" not in call.name:
        kernels = per_axis(call.argument(1, "kernel_size"), count)
        strides = per_axis(call.argument(2, "stride") or kernels, count)
        paddings = per_axis(call.argument(3, "padding", 0), count)
    for place in (i - tensor.dim() for i in axes):
        length, parts = tensor.shape[place], result.shape[place]
        if place < -count or length % parts:
            return "other"
        if kernels and strides and paddings:
            steps = {kernels[place]} | ({strides[place]} if parts > 1 else set())
            if steps != {length // parts} or paddings[place]:
                return "other"
    return frozenset(i for i in axes if result.shape[i] > 1) or "mean"


def _view(call: FunctionCall, tensor: Tensor, axes: _Axes, result: Tensor) -> _Result:
    marked = tuple(_MARK if i in axes else UNKNOWN for i in range(tensor.dim()))
    after = output_axes(call._replace(tracked=[(tensor, marked)]), result)
    if after is None:
        return "unknown"
    return frozenset(i for i, axis in enumerate(after) if axis.role == _MARK.role)


def _same_axes(call: FunctionCall, tensor: Tensor, axes: _Axes, result: Tensor) -> _Result:
    return frozenset(i + result.dim() - tensor.dim() for i in axes)


def _scaled(call: FunctionCall, tensor: Tensor, axes: _Axes, result: Tensor) -> _Result:
    """The product with what is constant along time and space."""
    if call.args[0] is not tensor and "div" in call.name:
        return "other"
    for other in call.inputs:
        varies = any(i >= -other.dim() and other.shape[i] > 1
                     for i in (i - tensor.dim() for i in axes))  # fmt: skip
        if varies and (other is not tensor or sum(x is tensor for x in call.inputs) > 1):
            return "other"
    return _same_axes(call, tensor, axes, result)


def _convolution(call: FunctionCall, tensor: Tensor, axes: _Axes, result: Tensor) -> _Result:
    """Of one sample: a mixture of channels."""
    weight = call.argument(1, "weight")
    is_mixture = tensor is call.inputs[0] and all(length == 1 for length in weight.shape[2:])
    return axes if is_mixture else "other"


def _linear(call: FunctionCall, tensor: Tensor, axes: _Axes, result: Tensor) -> _Result:
    return axes if tensor.dim() - 1 not in axes else "other"


def _batch_norm(call: FunctionCall, tensor: Tensor, axes: _Axes, result: Tensor) -> _Result:
    return "other" if call.argument(5, "training") else axes


def _dropout(call: FunctionCall, tensor: Tensor, axes: _Axes, result: Tensor) -> _Result:
    return "other" if call.argument(2, "training", True) else axes


_Rule: TypeAlias = Callable[[FunctionCall, Tensor, _Axes, Tensor], _Result]
_RULES: dict[str, _Rule] = {
    "mean": _mean,
    "sum": _mean,
    "linear": _linear,
    "batch_norm": _batch_norm,
    "dropout": _dropout,
    **{f"{kind}avg_pool{n}d": _average_pooling for n in (1, 2, 3) for kind in ("", "adaptive_")},
    **{f"conv{n}d": _convolution for n in (1, 2, 3)},
    **dict.fromkeys(
        ("mul", "multiply", "div", "divide", "true_divide"),
        _scaled,
    ),
    **dict.fromkeys(
        ("add", "sub", "subtract", "rsub", "neg", "negative", "positive", "clone",
         "contiguous", "detach", "to", "float", "half", "bfloat16", "double", "type",
         "type_as", "cpu", "cuda", "requires_grad", "copy", "feature_dropout",
         "dropout1d", "dropout2d", "dropout3d", "cat", "concat", "concatenate"),
        _same_axes,
    ),
    **dict.fromkeys(
        ("reshape", "view", "flatten", "unflatten", "ravel", "view_as", "reshape_as", "squeeze",
         "unsqueeze", "permute", "transpose", "t", "swapaxes", "swapdims", "movedim", "moveaxis",
         "expand", "expand_as", "broadcast_to", "getitem", "get", "select", "narrow", "chunk",
         "split", "split_with_sizes", "tensor_split", "unbind", "stack"),
        _view,
    ),
}  # fmt: skip
_MEANS = {name for name, rule in _RULES.items() if rule in (_mean, _average_pooling)}
# May be a mean or something else.
_UNKNOWN = {"einsum", "matmul", "rmatmul", "mm", "bmm", "addmm", "baddbmm", "tensordot", "mv",
            "dot", "index_select", "gather", "interpolate", "upsample"}  # fmt: skip
# The values go on without a tensor that can be followed.
READS = {"setitem", "numpy", "array", "tolist", "item", "dlpack"}
# The values don't go on.
WITHOUT_VALUES = {"zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like",
                   "new_zeros", "new_ones", "new_empty", "new_full"}  # fmt: skip
