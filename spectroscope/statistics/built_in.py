"""The statistics that come with the package. To add one, name it here."""

from spectroscope.statistics.base import Statistic
from spectroscope.statistics.examples import Examples
from spectroscope.statistics.harmonics import HarmonicAmplitudes
from spectroscope.statistics.moments import DCMoments
from spectroscope.statistics.spectra import Spectra

BUILT_IN: dict[str, Statistic] = {
    statistic.name: statistic
    for statistic in (DCMoments(), HarmonicAmplitudes(), Spectra(), Examples())
}
