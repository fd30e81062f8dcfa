"""Names: what a rectifier call is called, and which of them were asked for. Plain data."""

import fnmatch
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

from torch import nn

T = TypeVar("T")
Select: TypeAlias = str | Iterable[str] | Callable[[str, nn.Module], bool] | None


class Site(NamedTuple):
    """One rectifier call.

    Attributes:
        module: qualified name of the rectifier module, or of the module that called a function.
        function: name of that function; empty if the module itself is the rectifier.
        call: from 0, restarting at every outermost forward.
        kind: `ReLU`, `ReLU6`, ….
    """

    module: str
    function: str
    call: int
    kind: str

    @property
    def place(self) -> str:
        """`module` or `module/function`: the site without its call."""
        return _place(self.module, self.function)

    @property
    def name(self) -> str:
        """`module#call` or `module/function#call`, as in the reports."""
        return f"{self.place}#{self.call}"

    def matches(self, pattern: str) -> bool:
        """Whether the glob `pattern` fits the module's name, the place or the whole site."""
        names = (self.module, self.place, self.name)
        return any(fnmatch.fnmatchcase(name, pattern) for name in names)


class ByGlob(Generic[T]):
    """A number for every site, or one for those that each glob of a dictionary matches.

    Args:
        value: the number, the dictionary, or None: there is none.
        kind: what makes a number of each.
        default: for sites that nothing matches.
    """

    def __init__(self, value: Any, kind: Callable[[Any], T], default: T):
        given = value if isinstance(value, Mapping) else {} if value is None else {"*": value}
        self.globs = {glob: kind(number) for glob, number in given.items()}
        self._default = default

    def of(self, site: Site) -> T:
        """The number of `site`: that of the first glob that matches."""
        return next((n for glob, n in self.globs.items() if site.matches(glob)), self._default)


@dataclass
class Found:
    """A row of the coverage: one place with rectifiers, seen or not.

    Attributes:
        module: as of :class:`Site`.
        function: as of :class:`Site`.
        kind: `ReLU`, …, or the class of what can't be looked into.
        selected: whether it was asked for.
        fired: number of calls seen.
        reason: why it can't be seen, or isn't recorded in full; empty if it is.
    """

    module: str
    function: str
    kind: str
    selected: bool = False
    fired: int = 0
    reason: str = ""

    @property
    def place(self) -> str:
        """`module` or `module/function`."""
        return _place(self.module, self.function)

    @property
    def status(self) -> str:
        """`fired`, `never fired`, `incomplete` (see `reason`) or `cannot be seen`."""
        if self.reason:
            return "incomplete" if self.fired else "cannot be seen"
        return "fired" if self.fired else "never fired"


class Downsampling(NamedTuple):
    """What lowers the sampling rate next after a site.

    Attributes:
        place: name of the module in which that is, and the function: `layer2.0.conv1/conv2d`.
        factor: by how much, infinite for a mean over all; NaN if that differs between axes.
        between: number of other rectifiers that the signal goes through before.
        whole: it leaves one value of all of time or space, as global pooling does.
    """

    place: str
    factor: float
    between: int
    whole: bool

    @property
    def function(self) -> str:
        """The function alone."""
        return self.place.rpartition("/")[2]


def _place(module: str, function: str) -> str:
    return f"{module}/{function}" if function else module
