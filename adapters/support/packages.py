"""Packages that only adapters need: the extra `adapters`."""

from importlib import import_module
from typing import Any

from spectroscope.errors import RequestError, first_line


def import_extra(name: str) -> Any:
    """Import the module `name` from a package of the extra `adapters`.

    Raises:
        RequestError: the package is missing.
    """
    try:
        return import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise RequestError(
            f'this specimen needs {package} ({first_line(error)}): pip install -e ".[adapters]"'
        ) from error
