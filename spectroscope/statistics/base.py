"""`Statistic`: what is kept of a site, declared with how it merges and which columns it makes."""

from collections.abc import Callable, Iterable, Mapping
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
    """Two states of a statistic can't be added up; the message says why.

    The statistic then has nothing at that site, which `Report.coverage()` says.
    """


class Statistic:
    """A fixed-size state of each site: reduced batch by batch, merged, computed into columns.

    Subclass it, and give an instance to ``record(..., statistics=[...])``. Its columns are then in
    `Report.dc`, `Report.sites` (channel means), `Report.describe`, the CSV files and the page. The
    state is kept in checkpoints and saved reports, and merges across shards, like the built-in
    ones. The results of several batches must be the same for any split of the data.

    A saved report has the columns too. To merge it with another one, give the instance to
    ``spectroscope.load(folder, statistics=[...])``: code is never read from a file.

    Attributes:
        name: under which the state is kept, the class's name unless given; no two may have the
            same in one recorder.
        columns: by name ``(unit, definition)``: what :meth:`compute` returns.
        merge: by name of an array, the function that merges two of them; arrays that aren't named
            here are added.
        layout: shape of each array, with letters for sizes that depend on the site (``"C"``:
            channels), such as ``{"histogram": ("C", 64)}``. Optional; a file that contradicts it
            is refused.

    >>> class Peak(Statistic):
    ...     columns = {"peak_out": ("activation", "largest output value")}
    ...     merge = {"peak": torch.maximum}
    ...
    ...     def reduce(self, call):
    ...         return {"peak": call.output.flatten(2).amax((0, 2)).double()}
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
        """The state of one batch; ``{}`` where the batch has nothing to add.

        Called for each call of a selected activation, without gradients. `call` and its tensors
        must not be changed or kept.

        Args:
            call: its `input` and `output` are ``[N, C, ...]``, on the model's device.

        Returns:
            Arrays by name, usually ``[C, ...]``. Sums and counts are best in float64.
        """
        raise NotImplementedError

    def merged(self, one: Arrays, other: Arrays) -> Arrays:
        """The state of both batches together.

        Raises:
            IncompatibleError: they can't be added up.
        """
        state = {}
        for name, array in one.items():
            merge = self.merge.get(name, torch.add)
            if merge is torch.add and array.shape != other[name].shape:
                shapes = f"{list(array.shape)} and {list(other[name].shape)}"
                raise IncompatibleError(f"no {self.name}: {name} of shapes {shapes}")
            state[name] = merge(array, other[name])
        return state

    def preferred(self, other: "Statistic") -> "Statistic":
        """Of this and another of its name, in two recordings, the one that can merge."""
        return self

    def compute(self, *args: Any, **arrays: Any) -> Arrays:
        """The columns: one value per channel for each, ``[C]``, from the arrays by name."""
        return {}

    def checked(self, arrays: Arrays, channels: int) -> Arrays:
        """`arrays`, if they are as `layout` says.

        Raises:
            ValueError: they aren't.
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


def checked(statistics: Iterable[Statistic]) -> dict[str, Statistic]:
    """The statistics by name.

    Raises:
        TypeError: one isn't a `Statistic`.
        RequestError: two have the same name, or make the same column.
    """
    by_name: dict[str, Statistic] = {}
    columns = dict.fromkeys(COLUMNS, "of spectroscope itself")
    for statistic in statistics:
        if not isinstance(statistic, Statistic):
            raise TypeError(f"statistics takes instances of Statistic, not {statistic!r}")
        if not statistic.name.isidentifier():
            raise RequestError(f"a statistic's name={statistic.name!r} must be an identifier")
        if statistic.name in (*by_name, "moments", "spectra", "harmonics"):
            raise RequestError(f"two statistics are called {statistic.name!r}: give one a `name`")
        for column in statistic.columns:
            if column in columns:
                raise RequestError(
                    f"the column {column!r} of {statistic.name} is one {columns[column]} already"
                )
            columns[column] = f"of {statistic.name}"
        by_name[statistic.name] = statistic
    return by_name
