"""`Statistic`: the protocol of what is computed at each site, merged, and made into columns."""

from collections.abc import Callable, Container, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from spectroscope.errors import RequestError
from spectroscope.schema import COLUMNS

if TYPE_CHECKING:
    from spectroscope.capture.call import ActivationCall

Arrays = Mapping[str, Tensor]


# Begins the name of a column that a file has beside the arrays that it was computed from.
COLUMN = "column "


def without_columns(arrays: Arrays) -> Arrays:
    """The arrays of a state alone, as :meth:`Statistic.reduce` returns them."""
    return {name: array for name, array in arrays.items() if not name.startswith(COLUMN)}


class IncompatibleError(Exception):
    """Two states of a statistic can't be merged; the message says why.

    The statistic is then dropped at that site, and `Report.coverage()` has the message.
    """


class Statistic:
    """State of fixed size per site: reduced from each batch, merged, computed into columns.

    Subclass it and pass an instance to ``record(..., statistics=[...])``. Its columns appear in
    `Report.dc`, `Report.sites` (channel means), `Report.describe`, the CSV files and the page. Its
    state is part of checkpoints and saved reports, and merges across shards. The result must not
    depend on how the data are split into batches.

    A saved report contains the columns. To merge it with another report, pass the instance to
    ``spectroscope.load(folder, statistics=[...])``: no code is read from a file.

    Attributes:
        name: key of the state, unique within a recorder; by default the class's name.
        columns: ``(unit, definition)`` by name of each column that :meth:`compute` returns.
        merge: function that merges two arrays, by name of the array; arrays without one are added.
        layout: shape of each array, with letters for sizes that depend on the site (``"C"``:
            channels), such as ``{"histogram": ("C", 64)}``. Optional; a file that contradicts it
            is refused.

    >>> class Peak(Statistic):
    ...     columns = {"peak_out": ("activation", "largest output value")}
    ...     merge = {"peak": torch.maximum}
    ...
    ...     def reduce(self, call):
    ...         return {"peak": call.output.transpose(0, 1).flatten(1).amax(1).double()}
    ...
    ...     def compute(self, peak):
    ...         return {"peak_out": peak}
    >>> from spectroscope import record
    >>> model = torch.nn.ReLU()
    >>> with record(model, statistics=[Peak()]) as recorder:
    ...     y = model(torch.tensor([[[1.0, 3.0], [-1.0, -2.0]]]))
    >>> recorder.report().dc()["peak_out"].tolist()
    [3.0, 0.0]
    """

    columns: ClassVar[Mapping[str, tuple[str, str]]] = {}
    merge: ClassVar[Mapping[str, Callable[[Tensor, Tensor], Tensor]]] = {}
    layout: ClassVar[Mapping[str, tuple[int | str, ...]]] = {}

    name: ClassVar[str] = "Statistic"

    def __init_subclass__(cls) -> None:
        if "name" not in vars(cls):
            cls.name = cls.__name__

    def reduce(self, call: "ActivationCall") -> Arrays:
        """The state of one batch.

        Called for each call of a selected activation, without gradients. `call` and its tensors
        must be neither changed nor kept.

        Args:
            call: the activation call; `input` and `output` are ``[N, C, ...]``, on the model's
                device.

        Returns:
            Arrays by name, usually ``[C, ...]``, of the same shapes for each batch; those that are
            added become float64 or int64. ``{}`` if the batch contributes nothing.
        """
        raise NotImplementedError

    def reduce_next(self, call: "ActivationCall", before: Arrays | None) -> Arrays:
        """The state of one batch whose site has a state already.

        A statistic of the first inputs overrides it, to add no more than it needs.

        Args:
            call: as in :meth:`reduce`.
            before: state of the batches before; None: there were none.
        """
        return self.reduce(call)

    def reduced(self, call: "ActivationCall", before: Arrays | None) -> Arrays:
        """A copy of what :meth:`reduce_next` returns, after a check.

        Raises:
            TypeError: it isn't a dictionary of tensors, or lacks an array that `merge` names.
        """
        arrays = self.reduce_next(call, before)
        if not isinstance(arrays, Mapping):
            kind = type(arrays).__name__
            raise TypeError(f"reduce must return a dictionary of tensors [C, ...], not a {kind}")
        for name, array in arrays.items():
            if not isinstance(array, Tensor):
                raise TypeError(f"reduce must return tensors; {name!r} is {type(array).__name__}")
        for name in self.merge:
            if arrays and name not in arrays:
                raise TypeError(f"merge names {name!r}; reduce returns {', '.join(arrays)}")
        # A view of the call's tensors, or a tensor of the statistic's own, may change later.
        return {name: array.clone() for name, array in arrays.items()}

    def merged(self, first: Arrays, second: Arrays) -> Arrays:
        """The state of the data of two states.

        Raises:
            IncompatibleError: arrays of different shapes can't be added.
        """
        state = {}
        for name, array in first.items():
            merge = self.merge.get(name, _add)
            if merge is _add and array.shape != second[name].shape:
                shapes = f"{list(array.shape)} and {list(second[name].shape)}"
                raise IncompatibleError(f"no {self.name}: {name} of shapes {shapes}")
            state[name] = merge(array, second[name])
        return state

    def added(self, first: Arrays, second: Arrays) -> Arrays:
        """As :meth:`merged`; `second` isn't needed any more and may be written to.

        `first` stays as it is: whatever is raised, a recorder still has a whole state.
        """
        return self.merged(first, second)

    def preferred(self, other: "Statistic") -> "Statistic":
        """The one of two statistics of the same name that can merge states."""
        return self

    def compute(self, *args: Any, **arrays: Any) -> Arrays:
        """The columns by name, each ``[C]``, from the arrays of the state as keyword arguments."""
        return {}

    def checked(self, arrays: Arrays, channels: int) -> Arrays:
        """`arrays`, after a check against `layout`.

        Raises:
            ValueError: names or shapes differ from the layout.
        """
        sizes: dict[str, int] = {"C": channels}
        if self.layout and arrays.keys() != self.layout.keys():
            raise ValueError(f"arrays {sorted(arrays)}, not {sorted(self.layout)}")
        for name, shape in self.layout.items():
            expected = tuple(
                sizes.setdefault(size, length) if isinstance(size, str) else size
                for size, length in zip(shape, arrays[name].shape, strict=True)
            )
            if arrays[name].shape != expected:
                raise ValueError(f"{name} has {tuple(arrays[name].shape)}, not {expected}")
        return arrays


def _add(first: Tensor, second: Tensor) -> Tensor:
    """The sum, in float64 or int64: of many batches another type loses digits, or overflows."""
    if first.dtype == torch.bool:
        return first | second
    wide = torch.float64 if first.is_floating_point() else torch.int64
    if first.is_complex():
        wide = torch.complex128
    return first.to(wide) + second.to(wide)


def by_name(statistics: Iterable[Statistic], reserved: Container[str]) -> dict[str, Statistic]:
    """A user's statistics by name.

    Args:
        statistics: instances.
        reserved: names of the built-in statistics.

    Raises:
        TypeError: it isn't an iterable of `Statistic` instances.
        RequestError: a name isn't an identifier, a name or a column occurs twice, or a column
            isn't declared as a unit and a definition.
    """
    if isinstance(statistics, Statistic | type):
        raise TypeError(f"statistics takes a list of Statistic instances, not {statistics!r}")
    named: dict[str, Statistic] = {}
    owners = dict.fromkeys(COLUMNS, "spectroscope itself")
    for statistic in statistics:
        if not isinstance(statistic, Statistic):
            raise TypeError(f"statistics takes instances of Statistic, not {statistic!r}")
        if not statistic.name.isidentifier():
            raise RequestError(f"a statistic's name={statistic.name!r} must be an identifier")
        if statistic.name in reserved:
            raise RequestError(f"a built-in statistic is called {statistic.name!r}: rename yours")
        if statistic.name in named:
            raise RequestError(f"two statistics are called {statistic.name!r}: give one a `name`")
        for column, declared in statistic.columns.items():
            if not (isinstance(declared, tuple | list) and len(declared) == 2):
                raise RequestError(
                    f"columns of {statistic.name}: {column!r} must be (unit, definition), "
                    f"not {declared!r}"
                )
            if column in owners:
                raise RequestError(
                    f"the column {column!r} of {statistic.name} is also a column of "
                    f"{owners[column]}: rename it"
                )
            owners[column] = statistic.name
        named[statistic.name] = statistic
    return named
