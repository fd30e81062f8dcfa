"""The tables of a recording, as tidy pandas frames with units."""

from spectroscope.report.comparison import Comparison as Comparison
from spectroscope.report.report import FILE as FILE
from spectroscope.report.report import Report as Report
from spectroscope.report.report import load as load
from spectroscope.report.testing import assert_close as assert_close
from spectroscope.schema import COLUMNS as COLUMNS
