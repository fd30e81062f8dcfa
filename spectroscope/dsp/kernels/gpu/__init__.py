"""Both sides of a ReLU in one launch over its input: kernels for GPUs, by Triton.

torch takes some 15 launches for the moments of one side, each of which reads float64 from the GPU's
memory and most of which write it. Here the activation is read in its own type, and a second time
from the cache: all rows take two passes, because selecting the ill-conditioned ones, as
:mod:`..cpu` does, would wait for the GPU. Triton comes with torch's CUDA and ROCm builds, and
compiles at first use.
"""

from spectroscope.dsp.kernels.gpu.moments import row_moments as row_moments
from spectroscope.dsp.kernels.gpu.reduction import merge as merge
from spectroscope.dsp.kernels.gpu.reduction import reduce_batch as reduce_batch
from spectroscope.dsp.kernels.gpu.spectra import add_products as add_products
from spectroscope.dsp.kernels.gpu.spectra import to_float64 as to_float64
