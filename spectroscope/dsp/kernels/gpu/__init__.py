"""Both sides of an activation in one launch: kernels for GPUs, by Triton.

torch takes some 15 launches for the moments of one side, each of which reads float64 from the GPU's
memory and most of which write it. Here the activation is read in its own type, and a second time
from the cache. Triton comes with torch's CUDA and ROCm builds, and compiles at first use.
"""

from spectroscope.dsp.kernels.gpu.lines import center_lines as center_lines
from spectroscope.dsp.kernels.gpu.products import products as products
from spectroscope.dsp.kernels.gpu.reduction import add_means as add_means
from spectroscope.dsp.kernels.gpu.reduction import add_moments as add_moments
from spectroscope.dsp.kernels.gpu.reduction import merge as merge
