"""What is kept of each site: a fixed-size state that merges, whatever way the data was split."""

from spectroscope.statistics.blocks import unrecordable as unrecordable
from spectroscope.statistics.harmonics import HarmonicSums as HarmonicSums
from spectroscope.statistics.sides import SideStatistics as SideStatistics
from spectroscope.statistics.site import Analysis as Analysis
from spectroscope.statistics.site import SiteStatistics as SiteStatistics
from spectroscope.statistics.spectra import SpectralSums as SpectralSums
