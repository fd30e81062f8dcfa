"""Specimens by name: adapters of any installed distribution, found by entry point."""

import ast
import difflib
import inspect
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec

from spectroscope.errors import RequestError
from spectroscope.specimens.specimen import Specimen

GROUP = "spectroscope.adapters"


def adapters() -> dict[str, EntryPoint]:
    """Entry points of the group ``spectroscope.adapters`` by name.

    Each refers to a function ``(**options) -> Specimen``. The first line of its docstring says what
    the specimen is, and its licence. In ``name:model`` the part after the colon becomes the option
    `model`. If the function's module has a function ``model_names() -> list[str]``, its names are
    suggested where no specimen has the name that was asked for.
    """
    return {entry.name: entry for entry in sorted(entry_points(group=GROUP))}


def summary(entry: EntryPoint) -> str:
    """First line of an adapter's docstring.

    It is read from the source file: importing the adapter would import torch, which takes seconds.
    Only an adapter whose source has no such docstring is imported.
    """
    try:
        spec = find_spec(entry.module)
        source = spec.loader.get_source(entry.module)  # type: ignore[union-attr]
        functions = [f for f in ast.parse(source).body if isinstance(f, ast.FunctionDef)]
        doc = next(ast.get_docstring(f) for f in functions if f.name == entry.attr)
    except Exception:  # no such module, no source, no such function, …: importing it says which
        doc = None
    return (doc or entry.load().__doc__ or "").partition("\n")[0]


def specimen(name: str, **options: object) -> Specimen:
    """Make the specimen called `name`.

    Args:
        name: an installed adapter, ``"kid-ppg"``, if it makes several also which one,
            ``"torchvision:resnet18"``; or your own callable, ``"package.module:callable"``, that
            returns a model or a Specimen
            (:func:`spectroscope.specimens.from_callable.from_callable`); or a ``.keras`` file
            (:func:`spectroscope.specimens.keras_file.from_keras`).
        options: options of the adapter.

    Raises:
        RequestError: no adapter has that name, it does not accept one of the options, or it can't
            make the specimen.
    """
    known = adapters()
    adapter, _, model = name.partition(":")
    if adapter in known:
        make = known[adapter].load()
        given = options | ({"model": model} if model else {})
    # Imported late, like the adapters: a misspelt name is reported without importing torch.
    elif name.endswith(".keras"):
        from spectroscope.specimens.keras_file import from_keras

        make, given = from_keras, options | {"path": name}
    elif model:
        from spectroscope.specimens.from_callable import from_callable

        make, given = from_callable, options | {"path": name}
    else:
        raise _unknown(name, known)
    signature = inspect.signature(make)
    try:
        signature.bind(**given)
    except TypeError as error:
        accepted = [name for name in signature.parameters if name != "path"]
        raise RequestError(
            f"{name} can't be made with these options ({error}); it accepts "
            f"{', '.join(accepted) or 'no options'}"
        ) from error
    try:
        made = make(**given)
    except RequestError as error:
        missing = getattr(error.__cause__, "name", None)  # of the module that wasn't found
        near = _close(adapter, known, 0.75) if missing == adapter else []
        if near:
            raise RequestError(f"{error}; or is it {near[0]}:{model}?") from error
        raise
    if not isinstance(made, Specimen):
        raise RequestError(f"the adapter {name} returned a {type(made).__name__}, not a Specimen")
    return replace(made, options=options)


def _unknown(name: str, known: dict[str, EntryPoint]) -> RequestError:
    """That nothing is called `name`, and what may have been meant."""
    if name.endswith((".pt", ".pth", ".ckpt", ".safetensors")):
        return RequestError(
            f"{name!r} is no specimen: for a file of weights name the function that makes its "
            f"model, package.module:callable --weights {name}"
        )
    near = _close(name, known, 0.75) or [*_models_like(name, known), *_close(name, known, 0.6)]
    names = f"the nearest: {', '.join(near)}" if near else f"there are: {', '.join(known)}"
    return RequestError(f"unknown specimen {name!r}; {names}; or module:callable, or model.keras")


def _models_like(name: str, known: dict[str, EntryPoint]) -> list[str]:
    """Models that adapters make, whose names are like the last part of `name`."""
    last = re.split("[/.]", name)[-1]
    near = []
    for adapter, entry in known.items():
        # Nothing from an adapter without that function, or whose package is missing.
        with suppress(Exception):
            names: list[str] = import_module(entry.module).model_names()
            near += [f"{adapter}:{model}" for model in _close(last, names, 0.6)]
    return near


def _close(name: str, names: Iterable[str], cutoff: float) -> list[str]:
    return difflib.get_close_matches(name.lower(), names, n=3, cutoff=cutoff)
