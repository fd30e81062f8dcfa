"""Names: what a rectifier call is called, and which of them were asked for. Plain data."""

import fnmatch
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from torch import nn

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
        return f"{self.module}/{self.function}" if self.function else self.module

    @property
    def name(self) -> str:
        """`module#call` or `module/function#call`, as in the reports."""
        return f"{self.place}#{self.call}"

    def matches(self, pattern: str) -> bool:
        """Whether the glob `pattern` fits the module's name, the place or the whole site."""
        names = (self.module, self.place, self.name)
        return any(fnmatch.fnmatchcase(name, pattern) for name in names)


@dataclass
class Found:
    """A row of the coverage: one place with rectifiers, seen or not.

    Attributes:
        place: `module` or `module/function`.
        kind: `ReLU`, …, or the class of what can't be looked into.
        selected: whether it was asked for.
        fired: number of calls seen.
        reason: why it can't be seen or isn't recorded; empty if it is.
    """

    place: str
    kind: str
    selected: bool
    fired: int = 0
    reason: str = ""

    @property
    def status(self) -> str:
        """`fired`, `never fired`, `not recorded` or `cannot be seen`."""
        if self.reason:
            return "not recorded" if self.fired else "cannot be seen"
        return "fired" if self.fired else "never fired"
