"""What is kept of each site: fixed-size states that merge, whatever way the data was split."""

from spectroscope.statistics.base import Statistic as Statistic
