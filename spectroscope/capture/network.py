"""`Network`: which layers, activations, poolings and joins of a model feed which."""

from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, TypeAlias, get_args
from weakref import ref

from torch import Tensor, nn

from spectroscope.capture.axes import Axes, common_decimation, layout_of
from spectroscope.capture.axis_rules import (
    MAKES_CHANNELS,
    PRODUCTS,
    REDUCTIONS,
    is_weight,
    shares_storage,
)
from spectroscope.capture.axis_tracker import AxisTracker
from spectroscope.capture.inputs import Input
from spectroscope.capture.pooling import READS, WITHOUT_VALUES
from spectroscope.capture.sites import Shape, place_of
from spectroscope.capture.tensors import TensorMap, is_plain, nested_tensors, tensors

Operation: TypeAlias = Literal[
    "input", "convolution", "linear", "embedding", "recurrent", "attention", "activation",
    "pooling", "resampling", "join", "module", "output", "unknown",
]  # fmt: skip


class Node(NamedTuple):
    """A step of a model that is more than a function of one tensor, value by value.

    Attributes:
        operation: what it is. A join is a function of several tensors that come from different
            nodes, such as a sum; a module is one whose inside can't be observed; an unknown node
            made a tensor where neither can.
        place: calling module and function; of activations as in :class:`Site`.
        inputs: names of the nodes that its tensors come from.
        shape: of one input's output, ``(C, ...)``; None along axes where inputs differ.
        decimation: samples of the model's input to one of the output; None where unknown,
            different between axes, or undefined.
    """

    operation: Operation
    place: str
    inputs: tuple[str, ...]
    shape: Shape
    decimation: float | None

    def merge(self, other: "Node") -> "Node":
        """The node in two forwards, or in those of two recordings."""
        if self == other:
            return self
        same_axes = len(self.shape) == len(other.shape)
        pairs = zip(self.shape, other.shape, strict=False) if same_axes else ()
        return self._replace(
            inputs=tuple(dict.fromkeys((*self.inputs, *other.inputs))),
            shape=tuple(a if a == b else None for a, b in pairs),
            decimation=self.decimation if self.decimation == other.decimation else None,
        )


# By name: that of a site, place@call, or input:, output: and unknown: with a name or number.
Network: TypeAlias = Mapping[str, Node]


def merged(first: Network, second: Network) -> Network:
    """The nodes of two networks."""
    both = {name: node.merge(second.get(name, node)) for name, node in first.items()}
    return {**second, **both}


def to_json(network: Network) -> dict[str, Any]:
    """The nodes as plain data."""
    return {name: list(node) for name, node in network.items()}


def from_json(stored: Mapping[str, Any]) -> dict[str, Node]:
    """The nodes of :func:`to_json`.

    Raises:
        ValueError: they aren't.
    """
    nodes = {}
    for name, (operation, place, inputs, shape, decimation) in stored.items():
        if operation not in get_args(Operation):
            raise ValueError(f"{operation=}")
        nodes[str(name)] = Node(
            operation,
            str(place),
            tuple(map(str, inputs)),
            tuple(None if length is None else int(length) for length in shape),
            None if decimation is None else float(decimation),
        )
    return nodes


class NetworkTracker:
    """Follows the tensors of one forward from node to node.

    Args:
        nodes: of all forwards so far, which are updated.
        axes: of the tensors, updated before each :meth:`update`.
        timed: as of :func:`spectroscope.capture.axes.layout_of`.
    """

    def __init__(self, nodes: dict[str, Node], axes: AxisTracker, *, timed: bool) -> None:
        self._nodes = nodes
        self._axes = axes
        self._timed = timed
        self._producers: TensorMap[str] = TensorMap()  # "": it has no values of the input
        self._views: dict[int, list[ref[Tensor]]] = {}  # by the address of their storage
        self._calls: Counter[str] = Counter()
        self._values_were_read = False  # into Python, from where they may come back

    def start(self, inputs: list[Input]) -> None:
        """Follow the model's `inputs`."""
        for given in inputs:
            self._add(f"input:{given.name}", "input", "", (), [given.tensor])

    def end(self, outputs: list[Tensor]) -> None:
        """The model has returned `outputs`."""
        for number, tensor in enumerate(outputs):
            if source := self._producer(tensor):
                self._add(f"output:{number}", "output", "", (source,), [tensor])

    def add_site(self, site: str, output: Tensor, *, in_place: bool) -> None:
        """Set `output` as that of the activation call `site`."""
        source, place = self._producer(output), site.rpartition("#")[0]
        self._add(site, "activation", place, (source,) if source else (), [output])
        if in_place:
            self._write_to_others(output, site, place.rpartition("/")[0])

    def known_sources(self, values: Any) -> tuple[str, ...]:
        """The nodes that tensors come from, in any nesting, as far as they are known."""
        known = (self._producers.get(tensor) for _, tensor in nested_tensors(values))
        return tuple(dict.fromkeys(filter(None, known)))

    def add_module(
        self, module: nn.Module, place: str, sources: tuple[str, ...], output: Any
    ) -> None:
        """A module got tensors of `sources`; unless its output was followed, it is a node."""
        unseen = [x for _, x in nested_tensors(output) if self._producers.get(x) is None]
        if unseen and not all(map(self._axes.is_constant, unseen)):
            attention = isinstance(module, nn.MultiheadAttention)
            self._add_call(place, "attention" if attention else "module", sources, unseen)

    def concerns(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Cheap pre-check: may :meth:`update` have something to do?"""
        return name in _FROM_NUMBERS or any(
            map(self._producers.may_contain, (*args, *kwargs.values()))
        )

    def update(
        self,
        place: str,
        tracked: list[tuple[Tensor, Axes]],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        output: Any,
    ) -> None:
        """Follow what a torch function that has run made of the tensors.

        Args:
            place: calling module and function.
            tracked: what :meth:`AxisTracker.update` returned.
            args: positional arguments of the function.
            kwargs: keyword arguments of the function.
            output: result of the function.
        """
        module, _, name = place.rpartition("/")
        given = [*tensors(args), *tensors(v for key, v in kwargs.items() if key != "out")]
        if name in READS and name != "setitem":
            self._values_were_read |= any(self._producers.get(tensor) for tensor in given)
        outputs = [tensor for _, tensor in nested_tensors(output)]
        if name == "setitem":
            outputs = list(tensors(args[:1]))
            values = filter(is_plain, tensors(args[2:]))
            if is_plain(args[0]) and any(shares_storage(args[0], value) for value in values):
                return  # x[i] += y has written to x before
        if name in _TAKES_SHAPES:
            given = given[:1]
        elif name == "copy":
            given = given[1:]
        without_values = name in WITHOUT_VALUES or name in ("zero", "fill")
        if name in _FROM_NUMBERS:
            without_values = True
            if self._values_were_read or (name.endswith("tensor") and given):
                return
        sources = () if without_values else self._sources(given)
        operation = _operation(name, given)
        if operation is None and len(sources) > 1:
            operation = "join"
        elif operation is None and sources and outputs:
            operation = _resampling(name, tracked, self._axes.of(outputs[0]))
        written = [x for x in outputs if any(x is other for other in args[:1])]
        before = [self._producers.get(tensor) for tensor in written]
        if operation is not None and outputs and (sources or name in MAKES_CHANNELS):
            producer = self._add_call(place, operation, sources, outputs)
        else:
            producer = sources[0] if sources else ""
            self._set(outputs, producer)
        for tensor, old in zip(written, before, strict=True):
            if old != producer:
                self._write_to_others(tensor, producer, module)

    def _sources(self, given: list[Tensor]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(filter(None, map(self._producer, given))))

    def _producer(self, tensor: Tensor) -> str:
        """The node that `tensor` comes from; empty if it has no values of the input."""
        producer = self._producers.get(tensor)
        if producer is None:
            producer = ""
            if not self._axes.is_constant(tensor):
                producer = f"unknown:{self._calls['unknown:']}"
                self._calls["unknown:"] += 1
                self._add(producer, "unknown", "", (), [tensor])
            self._set([tensor], producer)
        return producer

    def _add_call(
        self, place: str, operation: Operation, inputs: tuple[str, ...], outputs: list[Tensor]
    ) -> str:
        """Add the next call at `place`, and return its name."""
        name = f"{place}@{self._calls[place]}"
        self._calls[place] += 1
        self._add(name, operation, place, inputs, outputs)
        return name

    def _add(
        self,
        name: str,
        operation: Operation,
        place: str,
        inputs: tuple[str, ...],
        outputs: list[Tensor],
    ) -> None:
        node = Node(operation, place, inputs, *self._geometry(outputs[0]))
        self._nodes[name] = self._nodes.get(name, node).merge(node)
        self._set(outputs, name)

    def _set(self, outputs: list[Tensor], producer: str) -> None:
        for tensor in outputs:
            if self._producers.get(tensor) is None and is_plain(tensor):
                self._views.setdefault(tensor.untyped_storage()._cdata, []).append(ref(tensor))
            self._producers.set(tensor, producer)

    def _write_to_others(self, part: Tensor, producer: str, module: str) -> None:
        """Set where the tensors come from that have the memory of one that was written to."""
        if not is_plain(part):
            return
        for view in [view() for view in self._views.get(part.untyped_storage()._cdata, ())]:
            before = None if view is None or view is part else self._producers.get(view)
            if view is None or before is None or not shares_storage(view, part):
                continue
            if view.numel() == part.numel() and view.storage_offset() == part.storage_offset():
                self._set([view], producer)
            elif view.numel() > part.numel() and producer:
                if before:
                    place = place_of(module, "setitem").lstrip("/")
                    self._add_call(place, "join", (before, producer), [view])
                else:
                    self._set([view], producer)

    def _geometry(self, tensor: Tensor) -> tuple[Shape, float | None]:
        """`shape` and `decimation` of a node with this output."""
        if not is_plain(tensor):
            return (), None
        axes, shape = self._axes.of(tensor), tuple(tensor.shape)
        if len(shape) < 2:
            return shape, None
        layout = layout_of(shape, axes, None, timed=self._timed)
        order = layout.order(len(shape))[layout.batch is not None :]
        decimation = common_decimation(axes, layout)
        return tuple(shape[i] for i in order), None if decimation != decimation else decimation


def _operation(name: str, given: list[Tensor]) -> Operation | None:
    """The operation of a function by its name; None for another."""
    if name.startswith("conv"):
        return "convolution" if name in MAKES_CHANNELS else None
    if name in PRODUCTS:
        return "linear" if any(map(is_weight, given)) else None
    return "pooling" if "pool" in name else _OPERATIONS.get(name)


def _resampling(
    name: str, tracked: list[tuple[Tensor, Axes]], after: Axes | None
) -> Operation | None:
    """The operation of a function that changes the sampling rate; None for another."""
    if not tracked or after is None:
        return None
    rates, new = (
        sorted(x.decimation for x in axes if x.role in ("time", "") and x.decimation is not None)
        for axes in (tracked[0][1], after)
    )
    if name in REDUCTIONS:
        return "pooling" if len(new) < len(rates) else None
    return "resampling" if len(new) == len(rates) and new != rates else None


_OPERATIONS: dict[str, Operation] = {
    "linear": "linear",
    "bilinear": "linear",
    "embedding": "embedding",
    **dict.fromkeys(("lstm", "gru", "rnn_tanh", "rnn_relu"), "recurrent"),
    **dict.fromkeys(("scaled_dot_product_attention", "multi_head_attention_forward"), "attention"),
}
# They make tensors of numbers.
_FROM_NUMBERS = {"tensor", "as_tensor", "empty", "rand", "randn", "randint", "randperm"}
# Of their second argument only the shape, or the dtype, matters.
_TAKES_SHAPES = {"view_as", "reshape_as", "expand_as", "type_as", "to"}
