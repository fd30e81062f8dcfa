"""Both sides of a ReLU in one pass over its input: loops for the CPU, compiled by numba.

torch would convert an activation to float64 in memory and pass over that once per sum. These loops
read it once, in its own type, and add in float64. Only :mod:`..dispatch` imports this package, when
there is something to reduce: loading numba takes a third of a second, compiling a few seconds on a
machine's first use. Compiled code is kept on disk.
"""

from spectroscope.dsp.kernels.cpu.moments import (
    row_moments_channels_last as row_moments_channels_last,
)
from spectroscope.dsp.kernels.cpu.moments import row_moments_contiguous as row_moments_contiguous
from spectroscope.dsp.kernels.cpu.moments import row_moments_two_pass as row_moments_two_pass
from spectroscope.dsp.kernels.cpu.reduction import merge as merge
from spectroscope.dsp.kernels.cpu.reduction import reduce_batch as reduce_batch
from spectroscope.dsp.kernels.cpu.reduction import reduce_batch_finite as reduce_batch_finite
from spectroscope.dsp.kernels.cpu.spectra import add_products as add_products
from spectroscope.dsp.kernels.cpu.spectra import to_float64 as to_float64
