"""Specimens by name: how adapters that make them are found, in any distribution."""

import difflib
import inspect
from dataclasses import replace
from importlib.metadata import EntryPoint, entry_points

from spectroscope.errors import RequestError
from spectroscope.specimens.specimen import Specimen

GROUP = "spectroscope.adapters"


def adapters() -> dict[str, EntryPoint]:
    """Entry points of the group ``spectroscope.adapters``, by the name of what they make.

    Each leads to a function ``(**options) -> Specimen`` whose docstring's first line says what
    that is, and its licence. One that makes many, ``name:which``, takes `which` as its option
    `model`.
    """
    return {entry.name: entry for entry in sorted(entry_points(group=GROUP))}


def specimen(name: str, **options: object) -> Specimen:
    """The specimen called `name`.

    Args:
        name: of an installed adapter, ``"kid-ppg"``; with what it is to make,
            ``"torchvision:resnet18"``; or a callable of your own, ``"package.module:callable"``,
            that makes a model or a Specimen (:func:`spectroscope.specimens.from_callable.own`).
        options: what its adapter takes.

    Raises:
        RequestError: no adapter has that name, or it doesn't take one of the options, or it
            can't make the specimen (its message says why).
    """
    found = adapters()
    adapter, _, which = name.partition(":")
    if adapter in found:
        make = found[adapter].load()
        given = options | ({"model": which} if which else {})
    elif which:
        # Deferred, as the adapters are: a misspelt name shouldn't have to wait for torch.
        from spectroscope.specimens.from_callable import own

        make, given = own, options | {"path": name}
    else:
        near = difflib.get_close_matches(name, found, n=3, cutoff=0.4)
        known = f"the nearest: {', '.join(near)}" if near else f"there are: {', '.join(found)}"
        raise RequestError(f"unknown specimen {name!r}; {known}; or module:callable")
    signature = inspect.signature(make)
    try:
        signature.bind(**given)
    except TypeError as error:
        names = [name for name in signature.parameters if name != "path"]
        takes = ", ".join(names) or "no options"
        raise RequestError(f"{name} can't be made so ({error}); it takes {takes}") from error
    made = make(**given)
    if not isinstance(made, Specimen):
        raise RequestError(f"the adapter of {name} made a {type(made).__name__}, not a Specimen")
    return replace(made, options=options)
