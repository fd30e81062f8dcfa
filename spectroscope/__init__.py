"""See what the ReLUs of a trained CNN do to its signals: DC and spectra, layer by layer."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spectroscope.catalog import specimen as specimen
    from spectroscope.dsp import theory as theory
    from spectroscope.errors import RequestError as RequestError
    from spectroscope.filters import filter_response as filter_response
    from spectroscope.recorder import Recorder as Recorder
    from spectroscope.recorder import record as record
    from spectroscope.report import Report as Report
    from spectroscope.report import load as load
    from spectroscope.specimens import Specimen as Specimen
    from spectroscope.trackers import Tracker as Tracker

# Each public name is imported when it is first asked for: `import spectroscope` costs
# milliseconds and brings neither pandas nor seaborn nor torchvision with it.
_PUBLIC = {
    "RequestError": "spectroscope.errors",
    "Recorder": "spectroscope.recorder",
    "Report": "spectroscope.report",
    "Specimen": "spectroscope.specimens",
    "Tracker": "spectroscope.trackers",
    "filter_response": "spectroscope.filters",
    "load": "spectroscope.report",
    "record": "spectroscope.recorder",
    "specimen": "spectroscope.catalog",
    "theory": "spectroscope.dsp",
}
__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(_PUBLIC[name])
    value = import_module("spectroscope.dsp.theory") if name == "theory" else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
