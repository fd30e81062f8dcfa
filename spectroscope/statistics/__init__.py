"""Statistics of each site: states of fixed size that merge, however the data were split."""

from spectroscope.statistics.base import Statistic as Statistic
