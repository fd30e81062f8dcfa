"""TorchScript functions that the code of a module refers to; their calls reach no hook."""

import inspect
import re
import weakref
from collections.abc import Iterator
from types import FunctionType
from typing import Any

import torch
from torch import nn

_RELU = re.compile(r"aten::(relu6?|clamp|clamp_min|hardtanh|threshold)_?\(")
_by_class: weakref.WeakKeyDictionary[type, list[Any]] = weakref.WeakKeyDictionary()
_DEPTH = 2  # of Python functions that call one another


def scripted_functions(module: nn.Module) -> list[str]:
    """Names of the TorchScript functions with a ReLU or a clamp that `module` refers to."""
    functions = {f.name: f for cls in type(module).__mro__ for f in _of_class(cls)}
    own = (f for value in vars(module).values() for f in _referred(value, _DEPTH))
    functions |= {f.name: f for f in own}
    return [name for name, f in functions.items() if _RELU.search(str(f.inlined_graph))]


def _of_class(cls: type) -> list[Any]:
    """The TorchScript functions that the methods of a class refer to; none of torch's own."""
    if cls not in _by_class:
        _by_class[cls] = [f for value in vars(cls).values() for f in _referred(value, _DEPTH)]
    return _by_class[cls]


def _referred(value: Any, depth: int) -> Iterator[Any]:
    if isinstance(value, torch.jit.ScriptFunction):
        yield value
    elif isinstance(value, FunctionType) and depth:
        if (value.__module__ or "").partition(".")[0] == "torch":
            return
        try:
            names = inspect.getclosurevars(value)
        except ValueError:  # a closure whose variable isn't set yet
            return
        for referred in (*names.nonlocals.values(), *names.globals.values()):
            yield from _referred(referred, depth - 1)
