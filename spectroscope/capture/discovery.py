"""Which rectifiers a model has, under what names, and which of them were asked for."""

import difflib
import fnmatch
import threading
from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch
from torch import nn

from spectroscope.capture import activations, hooks
from spectroscope.capture.sites import Found, Select, Site
from spectroscope.errors import RequestError


class Inventory:
    """The places of `model` that have rectifiers, those that calls reveal included as they come.

    Args:
        model: any module.
        select: a glob or globs over names of modules, places or sites, `(name, module) -> bool`
            with the place's name and its module, or None: all.
        kinds: what to look for beyond the ReLU family: names such as ``"GELU"``, or module classes.

    Attributes:
        found: every rectifier by place, and what can't be looked into.
        names: every name of every module.
        kind_of: kind of rectifier that a module is, or None.
        kinds: what is looked for.
        compiled: whether the model has compiled parts.

    Raises:
        TypeError: `model` isn't an `nn.Module`, or `select` is a class.
        RequestError: `select` can fit nothing in the model, or a kind isn't known.
    """

    def __init__(
        self, model: nn.Module, select: Select, kinds: Iterable[str | type[nn.Module]]
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be an nn.Module, not {type(model).__name__}")
        if isinstance(select, type):
            raise TypeError(f"select takes globs or (name, module) -> bool, not {select.__name__}")
        self.found: dict[str, Found] = {}
        self.names: dict[nn.Module, list[str]] = {}
        self.kind_of: dict[nn.Module, str | None] = {}
        self.kinds = activations.Kinds.of(kinds)
        self.compiled = False
        self._model = model
        globs = [select] if isinstance(select, str) else select
        self._select = globs if callable(globs) or globs is None else list(globs)
        self._lock = threading.Lock()
        self.survey()
        self._check_select()

    def survey(self) -> None:
        """Name every module, and list the rectifier modules and what can't be looked into."""
        self.names.clear()
        self.kind_of.clear()
        scripted: list[str] = []
        for path, module in _walk(self._model):
            # torch.compile wraps a module in another that has it as `_orig_mod`.
            name = ".".join(part for part in path.split(".") if part != "_orig_mod")
            compiled = module._compiled_call_impl is not None or hasattr(module, "_orig_mod")
            self.compiled |= compiled
            first = module not in self.names
            self.names.setdefault(module, []).append(name)
            self.kind_of[module] = self.kinds.of_module(module)
            if any(name.startswith(prefix) for prefix in scripted):
                continue
            if isinstance(module, torch.jit.ScriptModule):
                scripted.append(f"{name}." if name else "")
                self.unseen(name, module, "TorchScript runs it, where no hook fires")
            elif (
                isinstance(module, hooks.FUSED_MODULES) and type(module) not in hooks.FUSED_MODULES
            ):
                self.unseen(name, module, "what its own forward calls isn't seen: looking would "
                            "keep it from its fused path")  # fmt: skip
            elif _fused(module):
                self.unseen(name, module, "convolution and ReLU are one quantized kernel")
            elif first and (kind := self.kind_of[module]):
                self.row(module, name, "", kind)

    def row(self, module: nn.Module, name: str, function: str, kind: str, calls: int = 0) -> Found:
        """Row of a place, made if it isn't there, with so many calls more."""
        new = Found(name, function, kind)
        with self._lock:
            found = self.found.get(new.place)
            if found is None:
                found = self.found[new.place] = new
                found.selected = self._may_select(new.place, module)
            found.fired += calls
        return found

    def unseen(self, name: str, module: nn.Module, reason: str, function: str = "") -> None:
        """Note something that can't be looked into."""
        found = Found(name, function, type(module).__name__, reason=reason)
        with self._lock:
            self.found[found.place] = found

    def note(self, name: str, module: nn.Module, reason: str) -> None:
        """Note what is amiss at a place, unless something is noted there already."""
        with self._lock:
            found = self.found.setdefault(name, Found(name, "", type(module).__name__))
            found.reason = found.reason or reason

    def missed(self) -> str:
        """What can't be seen, or not in full, and why: the first three; empty if all is seen."""
        rows = [row for row in self.found.values() if row.reason]
        first = ", ".join(f"{row.place or 'itself'} ({row.reason})" for row in rows[:3])
        return f"{first}, …" if len(rows) > 3 else first

    def snapshot(self) -> dict[str, Found]:
        """Copy of `found`."""
        with self._lock:
            return {place: replace(found) for place, found in self.found.items()}

    def selects(self, site: Site) -> bool:
        """Whether a call at a place of which there is a row was asked for."""
        if not self.found[site.place].selected:
            return False
        return not isinstance(self._select, list) or any(map(site.matches, self._select))

    def _check_select(self) -> None:
        """Raise if nothing in the model, seen yet or not, could be selected."""
        if self._select is None or any(found.selected for found in self.found.values()):
            return
        for module, names in self.names.items():
            places = [f"{name}/{f}" for name in names for f in activations.FUNCTIONS]
            if any(self._may_select(place, module) for place in [*names, *places]):
                return
        names = list(self.found) or [names[0] for names in self.names.values()]
        near = difflib.get_close_matches(str(self._select), names, n=3, cutoff=0)
        raise RequestError(
            f"select={self._select!r} fits no rectifier of {type(self._model).__name__}; "
            f"there are, for example, {', '.join(near)}"
        )

    def _may_select(self, place: str, module: nn.Module) -> bool:
        """Whether any call at `place` may be selected."""
        if self._select is None:
            return True
        if callable(self._select):
            return bool(self._select(place, module))
        names = {place, place.partition("/")[0]}
        heads = {glob.partition("#")[0] for glob in self._select}
        return any(fnmatch.fnmatchcase(name, head) for name in names for head in heads)


def _walk(
    module: nn.Module, name: str = "", above: tuple[nn.Module, ...] = ()
) -> Iterator[tuple[str, nn.Module]]:
    """Every name of every module in `module`, first the modules that it has as attributes.

    As `named_modules(remove_duplicate=False)`, but a module that has one of its parents inside
    doesn't make it go round in circles.
    """
    yield name, module
    for key, child in module._modules.items():  # named_children() gives a shared one once
        if child is not None and child is not module and child not in above:
            yield from _walk(child, f"{name}.{key}" if name else key, (*above, module))


def _fused(module: nn.Module) -> bool:
    """Whether `module` is a quantized kernel with a ReLU in it (torch.ao's ConvReLU2d and such)."""
    kind = type(module)
    quantized = kind.__module__.startswith("torch.ao.") and ".quantized" in kind.__module__
    return quantized and "ReLU" in kind.__name__
