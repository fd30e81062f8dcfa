"""Discovery of a model's activations: names, coverage, and which of them are selected."""

import difflib
import fnmatch
import sys
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch
from torch import nn
from torch.nn.utils.parametrize import ParametrizationList

from spectroscope.capture import activations, graphs, hooks
from spectroscope.capture.scripted import scripted_functions
from spectroscope.capture.sites import CoverageRow, Select, Site, place_of
from spectroscope.capture.tensors import TensorMap
from spectroscope.errors import RequestError
from spectroscope.wrappers import is_wrapped


class Discovery:
    """The activations of `model`. Those that only a call reveals are added when it happens.

    Args:
        model: any module.
        select: a glob or globs over names of modules, places or sites; or `(name, module) -> bool`,
            called with a place's name and module; None: all.
        kinds: activations beyond the ReLU family: names such as ``"GELU"``, module classes, or
            ``"all"``.

    Attributes:
        select: None, a function, or a list of globs.
        rows: coverage by place: every activation, and what can't be observed.
        names: all qualified names of every module.
        kind_of: the kind of activation that a module is, or None.
        origins: by traced graph and line of its code, as :func:`graphs.origins`.
        kinds: the kinds to observe.
        buffers: of all modules.
        compiled: whether the model has compiled parts.

    Raises:
        TypeError: `model` isn't an `nn.Module`, or `select` is a class.
        RequestError: `select` can't match anything in the model, or a kind is unknown.
    """

    def __init__(
        self, model: nn.Module, select: Select, kinds: Iterable[str | type[nn.Module]]
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be an nn.Module, not {type(model).__name__}")
        if isinstance(select, type):
            raise TypeError(f"select takes globs or (name, module) -> bool, not {select.__name__}")
        self.rows: dict[str, CoverageRow] = {}
        self.names: dict[nn.Module, list[str]] = {}
        self.kind_of: dict[nn.Module, str | None] = {}
        self.origins: dict[nn.Module, dict[int, tuple[str, str | None]]] = {}
        self.kinds = activations.Kinds.of(kinds)
        self.buffers: TensorMap[bool] = TensorMap()
        self.compiled = False
        self._model = model
        globs = [select] if isinstance(select, str) else select
        self.select = globs if callable(globs) or globs is None else list(globs)
        self._lock = threading.Lock()
        self.scan()
        self._check_select()

    def scan(self) -> None:
        """Name every module; add rows for activation modules and for what can't be observed."""
        names: dict[nn.Module, list[str]] = {}
        kind_of: dict[nn.Module, str | None] = {}
        origins: dict[nn.Module, dict[int, tuple[str, str | None]]] = {}
        skipped: list[str] = []  # prefixes of names
        for name, module in _walk(self._model):
            compiled = module._compiled_call_impl is not None or hasattr(module, "_orig_mod")
            self.compiled |= compiled
            first = module not in names
            names.setdefault(module, []).append(name)
            kind_of[module] = self.kinds.of_module(module)
            if first and isinstance(module, torch.fx.GraphModule):
                origins[module] = graphs.origins(module)
            for buffer in module._buffers.values():
                if buffer is not None:
                    self.buffers.set(buffer, True)
            if any(name.startswith(prefix) for prefix in skipped):
                continue
            if isinstance(module, torch.jit.ScriptModule):
                skipped.append(f"{name}." if name else "")
                self.add_unobservable(name, module, "TorchScript runs it, where no hook fires")
            elif (
                isinstance(module, hooks.FUSED_MODULES) and type(module) not in hooks.FUSED_MODULES
            ):
                self.add_unobservable(name, module, "calls in its own forward are not observed, "
                                      "which would disable its fused path")  # fmt: skip
            elif _is_fused(module):
                self.add_unobservable(name, module, "convolution and ReLU are one quantized kernel")
            elif isinstance(module, ParametrizationList):
                skipped.append(f"{name}.")  # modules that are given weights
            elif first:
                if kind := kind_of[module]:
                    self.row(module, name, "", kind)
                for function in scripted_functions(module):
                    reason = "TorchScript runs it: its ReLU cannot be seen"
                    self.add_unobservable(name, module, reason, function=function)
        # At once: another thread may be running the model.
        self.names, self.kind_of, self.origins = names, kind_of, origins

    def finds(self, module: nn.Module, parent: nn.Module) -> bool:
        """Scan again if a module without a name is in `parent`; return whether it is.

        It was put there after the last scan. One that is made in a forward has no name.
        """
        if getattr(module, "_is_replica", False) or module not in set(parent.modules()):
            return False
        self.scan()
        return module in self.names

    def row(
        self,
        module: nn.Module,
        name: str,
        function: str,
        kind: str,
        calls: int = 0,
        *,
        asked: bool = True,
    ) -> CoverageRow:
        """Get the row of a place, created if missing, and add `calls` to the calls that fired."""
        place = place_of(name, function)
        with self._lock:
            row = self.rows.get(place)
            if row is None:
                row = self.rows[place] = CoverageRow(name, function, kind, asked=asked)
                row.selected = self._matches_place(place, module)
            row.fired += calls
        return row

    def count(self, row: CoverageRow) -> None:
        """Add a call that fired."""
        with self._lock:
            row.fired += 1

    def discard_row(self, name: str) -> None:
        """Remove the row of a module that has run, but never as an activation."""
        with self._lock:
            row = self.rows.get(name)
            if row is not None and not row.fired and not row.reason:
                del self.rows[name]

    def not_asked_for(self) -> Counter[str]:
        """By kind, the number of selected calls of kinds that aren't observed."""
        counts: Counter[str] = Counter()
        for row in self.snapshot().values():
            if row.selected and not row.asked:
                counts[row.kind] += row.fired
        return counts

    def add_unobservable(
        self, name: str, module: nn.Module, reason: str, function: str = ""
    ) -> None:
        """Add a row for a module or function that can't be observed."""
        row = CoverageRow(name, function, type(module).__name__, reason=reason)
        with self._lock:
            self.rows[row.place] = row

    def set_reason(self, name: str, module: nn.Module, reason: str) -> None:
        """Set the reason why calls at a place are not recorded; an earlier reason stays."""
        with self._lock:
            row = self.rows.setdefault(name, CoverageRow(name, "", type(module).__name__))
            row.reason = row.reason or reason

    def report_fused(self, layer: nn.TransformerEncoderLayer, name: str, *, ran: bool) -> None:
        """Report the activation of a layer on its fused path, which calls no modules."""
        for activation in activations.ACTIVATIONS if ran else ():
            kind, code = activation.kind, activation.encoder_code
            if code is None or code != layer.activation_relu_or_gelu:
                continue
            if kind not in self.kinds.names:
                self.row(layer, name, kind.lower(), kind, calls=1, asked=False)
            else:
                reason = "one fused kernel; torch.backends.mha.set_fastpath_enabled(False) shows it"
                self.add_unobservable(name, layer, reason, function=kind.lower())

    def report_replica(self, module: nn.Module) -> None:
        """Report a copy of a module, which `nn.DataParallel` runs in another thread."""
        if getattr(module, "_is_replica", False) and self.kinds.of_module(module):
            reason = "nn.DataParallel runs copies of the model"
            self.add_unobservable("(replicas)", module, reason)

    def describe_gaps(self) -> str:
        """The first three places with a reason, as text; empty if there are none."""
        rows = [row for row in self.rows.values() if row.reason]
        first = ", ".join(f"{row.place or 'itself'} ({row.reason})" for row in rows[:3])
        return f"{first}, …" if len(rows) > 3 else first

    def snapshot(self) -> dict[str, CoverageRow]:
        """Copy of `rows`."""
        with self._lock:
            return {place: replace(row) for place, row in self.rows.items()}

    def selects(self, site: Site) -> bool:
        """Whether the call `site`, whose place has a row, is selected."""
        if not self.rows[site.place].selected:
            return False
        return not isinstance(self.select, list) or any(map(site.matches, self.select))

    def asks_for(self, row: CoverageRow) -> bool:
        """Whether `row` is selected; where it can't be observed, also a module inside it."""
        if row.selected or not row.reason or self.select is None:
            return row.selected or bool(row.reason)
        prefix = f"{row.module}." if row.module else ""
        inside = {
            name: module
            for module, names in self.names.items()
            for name in names
            if name == row.module or name.startswith(prefix)
        }
        if callable(self.select):
            return bool(self.select(row.place, inside.get(row.module, self._model)))
        return self._matches_any([row.place, *inside])

    def _check_select(self) -> None:
        """Raise if `select` can't match any call, not even of a function yet to be called."""
        if self.select is None or any(row.selected for row in self.rows.values()):
            return
        for module, names in self.names.items():
            places = [f"{name}/{f}" for name in names for f in activations.FUNCTIONS]
            if any(self._matches_place(place, module) for place in [*names, *places]):
                return
        names = list(self.rows) or [names[0] for names in self.names.values()]
        closest = difflib.get_close_matches(str(self.select), names, n=3, cutoff=0)
        raise RequestError(
            f"select={self.select!r} matches no activation of {type(self._model).__name__}; "
            f"there are, for example, {', '.join(closest)}"
        )

    def _matches_place(self, place: str, module: nn.Module) -> bool:
        """Whether `select` matches at least one possible call at `place`."""
        if self.select is None:
            return True
        if callable(self.select):
            return bool(self.select(place, module))
        return self._matches_any((place, place.partition("/")[0]))

    def _matches_any(self, names: Iterable[str]) -> bool:
        """Whether a glob of `select`, without its call, matches one of the names."""
        assert isinstance(self.select, list)
        globs = {glob.partition("#")[0] for glob in self.select}
        return any(fnmatch.fnmatchcase(name, glob) for name in names for glob in globs)


def _walk(
    module: nn.Module, name: str = "", ancestors: tuple[nn.Module, ...] = ()
) -> Iterator[tuple[str, nn.Module]]:
    """All names of all modules in `module`, parents first; a wrapper and the wrapped share one.

    As `named_modules(remove_duplicate=False)`, but a module that contains one of its ancestors
    causes no infinite recursion.
    """
    yield name, module
    for key, child in _children(module):
        if child is not None and child is not module and child not in ancestors:
            path = name if is_wrapped(module, key) else f"{name}.{key}" if name else key
            yield from _walk(child, path, (*ancestors, module))


def _children(module: nn.Module) -> list[tuple[str, nn.Module | None]]:
    """Submodules by name; layers of Keras, most of which torch doesn't know, by their own."""
    children = list(module._modules.items())  # named_children() yields a shared child only once
    layer_class = getattr(sys.modules.get("keras"), "Layer", ())
    if not isinstance(module, layer_class):
        return children
    layers: dict[str, nn.Module | None] = {}
    for layer in module._flatten_layers(include_self=False, recursive=False):
        # Only the layers of a functional model are sure to have different names.
        twins = sum(other.partition("@")[0] == layer.name for other in layers)
        layers[f"{layer.name}@{twins}" if twins else layer.name] = layer
    return [*layers.items(), *((k, m) for k, m in children if not isinstance(m, layer_class))]


def _is_fused(module: nn.Module) -> bool:
    """Whether `module` is a quantized kernel that includes a ReLU, as torch.ao's ConvReLU2d."""
    cls = type(module)
    quantized = cls.__module__.startswith("torch.ao.") and ".quantized" in cls.__module__
    return quantized and "ReLU" in cls.__name__
