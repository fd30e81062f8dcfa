"""See what the ReLUs of a trained CNN do to its signals: DC and spectra, layer by layer."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spectroscope.dsp import theory as theory
    from spectroscope.errors import RequestError as RequestError
    from spectroscope.experiments.ablation import importance as importance
    from spectroscope.experiments.filter_response import filter_response as filter_response
    from spectroscope.experiments.interventions import intervene as intervene
    from spectroscope.experiments.operations import Firing as Firing
    from spectroscope.experiments.operations import high_pass as high_pass
    from spectroscope.experiments.operations import introduced_only as introduced_only
    from spectroscope.experiments.operations import low_pass as low_pass
    from spectroscope.experiments.operations import mean_dc as mean_dc
    from spectroscope.experiments.operations import only_dc as only_dc
    from spectroscope.experiments.operations import preserved_only as preserved_only
    from spectroscope.experiments.operations import remove_dc as remove_dc
    from spectroscope.experiments.operations import remove_harmonics as remove_harmonics
    from spectroscope.experiments.operations import shuffle_dc as shuffle_dc
    from spectroscope.experiments.per_sample import dc_by_sample as dc_by_sample
    from spectroscope.experiments.probing import probe as probe
    from spectroscope.recorder import Recorder as Recorder
    from spectroscope.recorder import record as record
    from spectroscope.report import Report as Report
    from spectroscope.report import assert_close as assert_close
    from spectroscope.report import load as load
    from spectroscope.specimens.catalog import specimen as specimen
    from spectroscope.specimens.specimen import Specimen as Specimen
    from spectroscope.training.tracker import Tracker as Tracker

# Each public name is imported when it is first asked for: `import spectroscope` costs
# milliseconds and brings neither pandas nor seaborn nor torchvision with it.
_PUBLIC = {
    "Firing": "spectroscope.experiments.operations",
    "Recorder": "spectroscope.recorder",
    "Report": "spectroscope.report",
    "RequestError": "spectroscope.errors",
    "Specimen": "spectroscope.specimens.specimen",
    "Tracker": "spectroscope.training.tracker",
    "assert_close": "spectroscope.report",
    "dc_by_sample": "spectroscope.experiments.per_sample",
    "filter_response": "spectroscope.experiments.filter_response",
    "high_pass": "spectroscope.experiments.operations",
    "importance": "spectroscope.experiments.ablation",
    "intervene": "spectroscope.experiments.interventions",
    "introduced_only": "spectroscope.experiments.operations",
    "load": "spectroscope.report",
    "low_pass": "spectroscope.experiments.operations",
    "mean_dc": "spectroscope.experiments.operations",
    "only_dc": "spectroscope.experiments.operations",
    "preserved_only": "spectroscope.experiments.operations",
    "probe": "spectroscope.experiments.probing",
    "record": "spectroscope.recorder",
    "remove_dc": "spectroscope.experiments.operations",
    "remove_harmonics": "spectroscope.experiments.operations",
    "shuffle_dc": "spectroscope.experiments.operations",
    "specimen": "spectroscope.specimens.catalog",
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
