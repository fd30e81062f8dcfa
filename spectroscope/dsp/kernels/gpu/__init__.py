"""Both sides of a ReLU in one reading, as :mod:`..native` does for CPUs: for GPUs, by Triton.

Torch takes some 15 kernels for the moments of one side, each of which reads float64 from the GPU's
memory and most of which write it; here the activation is read as it is, and a second time from the
cache, for all values are taken twice: which rows' sums lose digits can't be asked without waiting
for the GPU. Triton comes with torch where that has CUDA or ROCm, and compiles at first use.
"""

from spectroscope.dsp.kernels.gpu.moments import fold as fold
from spectroscope.dsp.kernels.gpu.moments import merge as merge
from spectroscope.dsp.kernels.gpu.moments import read as read
from spectroscope.dsp.kernels.gpu.spectra import products as products
from spectroscope.dsp.kernels.gpu.spectra import widen as widen
