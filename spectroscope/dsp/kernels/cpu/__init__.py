"""Both sides of an activation in one reading: loops for the CPU, compiled by numba.

torch would pass over an activation once per sum. These loops read it once, in its own type, and add
in float64. Only :mod:`..dispatch` imports this package, when there is something to reduce: loading
numba takes a third of a second, compiling a few seconds on a machine's first use. Compiled code is
kept on disk.
"""

from spectroscope.dsp.kernels.cpu.lines import read_lines as read_lines
from spectroscope.dsp.kernels.cpu.products import add_products as add_products
from spectroscope.dsp.kernels.cpu.products import scale_products as scale_products
from spectroscope.dsp.kernels.cpu.tables import merge as merge
