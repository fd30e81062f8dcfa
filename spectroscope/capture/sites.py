"""Names of activation calls, and the coverage and downsampling rows that refer to them."""

import fnmatch
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

from torch import nn

T = TypeVar("T")
Shape: TypeAlias = tuple[int | None, ...]  # of one input, (C, ...); None where inputs differ
Select: TypeAlias = str | Iterable[str] | Callable[[str, nn.Module], bool] | None


class Site(NamedTuple):
    """One activation call.

    Attributes:
        module: qualified name of the activation module, or of the module that calls the function.
        function: name of that function; empty if the module itself is the activation.
        call: from 0, restarting at every outermost forward.
        kind: `ReLU`, `ReLU6`, ….
    """

    module: str
    function: str
    call: int
    kind: str

    @property
    def place(self) -> str:
        """`module` or `module/function`: the site without the call number."""
        return place_of(self.module, self.function)

    @property
    def name(self) -> str:
        """`module#call` or `module/function#call`, as in the reports."""
        return f"{self.place}#{self.call}"

    def matches(self, pattern: str) -> bool:
        """Whether the glob `pattern` matches the module name, the place or the site name."""
        names = (self.module, self.place, self.name)
        return any(fnmatch.fnmatchcase(name, pattern) for name in names)


class PerSite(Generic[T]):
    """An option with one value for all sites, or one value per glob over sites.

    Args:
        value: the value, a dictionary from glob to value, or None: `default` everywhere.
        convert: applied to each value.
        default: for sites that no glob matches.
    """

    def __init__(self, value: Any, convert: Callable[[Any], T], default: T):
        if value is None:
            value = {}
        elif not isinstance(value, Mapping):
            value = {"*": value}
        self.globs = {glob: convert(one) for glob, one in value.items()}
        self._default = default

    def of(self, site: Site) -> T:
        """The value for `site`: that of the first glob that matches."""
        return next((v for glob, v in self.globs.items() if site.matches(glob)), self._default)


@dataclass
class CoverageRow:
    """Coverage of one place: an activation, or a part of the model that can't be observed.

    Attributes:
        module: as in :class:`Site`.
        function: as in :class:`Site`.
        kind: `ReLU`, …, or the class of what can't be observed.
        selected: whether `select` matches.
        fired: number of observed calls.
        reason: why calls are missing from the recording; empty if none are.
        asked: whether `kinds` has the kind.
        remark: what was assumed of calls that are recorded; empty if nothing was.
    """

    module: str
    function: str
    kind: str
    selected: bool = False
    fired: int = 0
    reason: str = ""
    asked: bool = True
    remark: str = ""

    @property
    def place(self) -> str:
        """`module` or `module/function`."""
        return place_of(self.module, self.function)

    @property
    def status(self) -> str:
        """`fired`, `never fired`, `incomplete`, `cannot be seen` or `not asked for`."""
        if not self.asked:
            return "not asked for"
        if self.reason:
            return "incomplete" if self.fired else "cannot be seen"
        return "fired" if self.fired else "never fired"


class Downsampling(NamedTuple):
    """The next function that lowers the sampling rate after a site.

    Attributes:
        place: calling module and function: `layer2.0.conv1/conv2d`.
        factor: decimation factor; infinite for a mean over all; NaN if it differs between axes.
        between: number of other activations that the signal passes before.
        whole: a mean over all of time or space, as in global average pooling.
        average: length of the moving average of the site's output of which samples are taken, along
            each axis; 1: of the output itself; None: samples of something else or unknown.
    """

    place: str
    factor: float
    between: int
    whole: bool
    average: int | None

    @property
    def function(self) -> str:
        """The name of the function alone."""
        return self.place.rpartition("/")[2]


def place_of(module: str, function: str) -> str:
    """The name of a site without the call number."""
    return f"{module}/{function}" if function else module
