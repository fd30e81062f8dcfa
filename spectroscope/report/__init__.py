"""What was measured, as tidy pandas frames with units."""

from spectroscope.report.closeness import assert_close as assert_close
from spectroscope.report.columns import COLUMNS as COLUMNS
from spectroscope.report.comparison import Comparison as Comparison
from spectroscope.report.tables import FILE as FILE
from spectroscope.report.tables import Report as Report
from spectroscope.report.tables import load as load
