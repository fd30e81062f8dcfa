"""See what the ReLUs of a trained CNN do to its signals: DC and spectra, layer by layer."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spectroscope.ablation import importance as importance
    from spectroscope.by_sample import dc_by_sample as dc_by_sample
    from spectroscope.catalog import specimen as specimen
    from spectroscope.dsp import theory as theory
    from spectroscope.errors import RequestError as RequestError
    from spectroscope.filters import filter_response as filter_response
    from spectroscope.interventions import intervene as intervene
    from spectroscope.operations import Firing as Firing
    from spectroscope.operations import high_pass as high_pass
    from spectroscope.operations import introduced_only as introduced_only
    from spectroscope.operations import low_pass as low_pass
    from spectroscope.operations import mean_dc as mean_dc
    from spectroscope.operations import only_dc as only_dc
    from spectroscope.operations import preserved_only as preserved_only
    from spectroscope.operations import remove_dc as remove_dc
    from spectroscope.operations import remove_harmonics as remove_harmonics
    from spectroscope.operations import shuffle_dc as shuffle_dc
    from spectroscope.probes import probe as probe
    from spectroscope.recorder import Recorder as Recorder
    from spectroscope.recorder import record as record
    from spectroscope.report import Report as Report
    from spectroscope.report import assert_close as assert_close
    from spectroscope.report import load as load
    from spectroscope.specimens import Specimen as Specimen
    from spectroscope.trackers import Tracker as Tracker

# Each public name is imported when it is first asked for: `import spectroscope` costs
# milliseconds and brings neither pandas nor seaborn nor torchvision with it.
_PUBLIC = {
    "Firing": "spectroscope.operations",
    "Recorder": "spectroscope.recorder",
    "Report": "spectroscope.report",
    "RequestError": "spectroscope.errors",
    "Specimen": "spectroscope.specimens",
    "Tracker": "spectroscope.trackers",
    "assert_close": "spectroscope.report",
    "dc_by_sample": "spectroscope.by_sample",
    "filter_response": "spectroscope.filters",
    "high_pass": "spectroscope.operations",
    "importance": "spectroscope.ablation",
    "intervene": "spectroscope.interventions",
    "introduced_only": "spectroscope.operations",
    "load": "spectroscope.report",
    "low_pass": "spectroscope.operations",
    "mean_dc": "spectroscope.operations",
    "only_dc": "spectroscope.operations",
    "preserved_only": "spectroscope.operations",
    "probe": "spectroscope.probes",
    "record": "spectroscope.recorder",
    "remove_dc": "spectroscope.operations",
    "remove_harmonics": "spectroscope.operations",
    "shuffle_dc": "spectroscope.operations",
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
