"""Finding every rectifier of a model and handing what goes in and comes out to an observer."""

import difflib
import fnmatch
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from spectroscope.errors import RequestError

Side: TypeAlias = Literal["in", "out"]
Select: TypeAlias = str | Iterable[str] | Callable[[str, nn.Module], bool] | None

RECTIFIERS: dict[type[nn.Module], str] = {nn.ReLU: "ReLU", nn.ReLU6: "ReLU6"}


class Site(NamedTuple):
    """One rectifier call.

    Attributes:
        module: qualified name of the rectifier module.
        call: from 0, restarting at every outermost forward.
        kind: `ReLU`, `ReLU6`.
    """

    module: str
    call: int
    kind: str

    @property
    def name(self) -> str:
        """`module#call`, as in the reports."""
        return f"{self.module}#{self.call}"

    def matches(self, pattern: str) -> bool:
        """Whether the glob `pattern` fits the module's name or the whole site's."""
        return fnmatch.fnmatchcase(self.module, pattern) or fnmatch.fnmatchcase(self.name, pattern)


@dataclass
class Found:
    """A row of the coverage: one rectifier of the model, seen or not.

    Attributes:
        module: qualified name.
        kind: `ReLU`, …, or the class of what can't be looked into.
        selected: whether it was asked for.
        fired: number of calls seen.
        reason: why it can't be seen or isn't recorded; empty if it is.
    """

    module: str
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


# observe(site, side, tensor): the tensor is the network's own. It must not be changed, and not be
# kept: an in-place rectifier overwrites its input as soon as the observer returns.
Observer: TypeAlias = Callable[[Site, Side, Tensor], None]


class Capture:
    """Hooks on the rectifier modules of `model`, from :meth:`attach` to :meth:`detach`.

    Args:
        model: nothing in it is changed but for the hooks, which :meth:`detach` takes away.
        observe: called on both sides of each selected rectifier call.
        select: a glob or globs over module or site names, `(name, module) -> bool`, or None: all.

    Attributes:
        found: every rectifier of the model by qualified name, and what can't be looked into.
        input_shape: of the first tensor that the current outermost forward of `model` was given;
            empty while only a part of the model is called.

    Raises:
        TypeError: `model` isn't an `nn.Module`.
        RequestError: `select` fits no rectifier of the model.
    """

    def __init__(self, model: nn.Module, observe: Observer, select: Select = None):
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be an nn.Module, not {type(model).__name__}")
        self.found: dict[str, Found] = {}
        self.input_shape: tuple[int, ...] = ()
        self._model = model
        self._observe = observe
        globs = [select] if isinstance(select, str) else select
        self._select = globs if callable(globs) or globs is None else list(globs)
        self._rectifiers: dict[str, nn.Module] = {}
        self._calls: Counter[str] = Counter()
        self._open: dict[str, Site | None] = {}
        self._depth = 0
        self._hooks = ExitStack()
        self._attached = False
        self._find()

    def _find(self) -> None:
        scripted: list[str] = []
        for name, module in self._model.named_modules():
            if any(name.startswith(prefix) for prefix in scripted):
                continue
            if isinstance(module, torch.jit.ScriptModule):
                scripted.append(f"{name}." if name else "")
                self.found[name] = Found(
                    name, type(module).__name__, False, reason="TorchScript: hooks never fire in it"
                )
                continue
            kind = next((k for cls, k in RECTIFIERS.items() if isinstance(module, cls)), None)
            if kind is not None:
                self._rectifiers[name] = module
                self.found[name] = Found(name, kind, self._may_select(name, module))
        if self._rectifiers and not any(found.selected for found in self.found.values()):
            near = difflib.get_close_matches(str(self._select), self._rectifiers, n=3, cutoff=0)
            raise RequestError(
                f"select={self._select!r} fits none of the {len(self._rectifiers)} rectifiers of "
                f"{type(self._model).__name__}; there are, for example, {', '.join(near)}"
            )

    def _may_select(self, name: str, module: nn.Module) -> bool:
        """Whether any call of the module may be selected."""
        if self._select is None:
            return True
        if callable(self._select):
            return bool(self._select(name, module))
        return any(fnmatch.fnmatchcase(name, glob.partition("#")[0]) for glob in self._select)

    def _selects(self, site: Site) -> bool:
        if not self.found[site.module].selected:
            return False
        return not isinstance(self._select, list) or any(map(site.matches, self._select))

    def attach(self) -> None:
        """Register the hooks, after those that are there: they see what the rectifier sees."""
        if self._attached:
            raise RuntimeError("this recorder is already recording")
        containers = {""}  # every module that has a rectifier somewhere inside
        for name in self._rectifiers:
            parts = name.split(".")
            containers.update(".".join(parts[:i]) for i in range(1, len(parts)))
        self._depth = 0
        with ExitStack() as hooks:
            for name in sorted(containers):
                module = self._model.get_submodule(name)
                if isinstance(module, torch.jit.ScriptModule):
                    continue
                hooks.callback(
                    module.register_forward_pre_hook(self._enter, with_kwargs=True).remove
                )
                hooks.callback(module.register_forward_hook(self._leave, always_call=True).remove)
            for name, module in self._rectifiers.items():
                before, after = partial(self._before, name), partial(self._after, name)
                hooks.callback(module.register_forward_pre_hook(before, with_kwargs=True).remove)
                hooks.callback(module.register_forward_hook(after).remove)
            self._hooks = hooks.pop_all()
            self._attached = True

    def detach(self) -> None:
        """Remove our hooks, and only ours."""
        self._attached = False
        self._hooks.close()
        self._open.clear()

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        # The model's own forward is outermost even at a depth: a KeyboardInterrupt, unlike an
        # Exception, leaves a forward without calling its hooks, and so without `_leave`.
        if self._depth == 0 or module is self._model:
            self._depth = 0
            self._calls.clear()
            tensor = _first_tensor(args, kwargs) if module is self._model else None
            self.input_shape = () if tensor is None else tuple(tensor.shape)
        self._depth += 1

    def _leave(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self._depth -= 1

    def _before(
        self, name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        if self._depth == 0:  # called by itself, outside of any forward that we see
            self._calls.clear()
            self.input_shape = ()
        site = Site(name, self._calls[name], self.found[name].kind)
        self._calls[name] += 1
        self.found[name].fired += 1
        tensor = _first_tensor(args, kwargs)
        self._open[name] = site if tensor is not None and self._selects(site) else None
        if tensor is not None and self._open[name] is not None:
            self._observe(site, "in", tensor)

    def _after(self, name: str, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        site = self._open.pop(name, None)
        if site is not None and isinstance(output, Tensor):
            self._observe(site, "out", output)


def _first_tensor(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    return next((value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)), None)
