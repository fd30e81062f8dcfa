"""Products of the spectra of both sides."""

import torch
import triton
import triton.language as tl
from torch import Tensor

# Components times spectra that a program reads at a time.
_TILE = 1024


@triton.jit(do_not_specialize=["channels", "components", "spectra"])
def _products(
    both,
    sums,
    channels,
    components,
    spectra,
    SPECTRA: tl.constexpr,  # noqa: N803
    COMPONENTS: tl.constexpr,  # noqa: N803
):
    """Products of some components of one channel, summed over its spectra."""
    blocks = tl.cdiv(components, COMPONENTS)
    channel = (tl.program_id(0) // blocks).to(tl.int64)
    component = (tl.program_id(0) % blocks) * COMPONENTS + tl.arange(0, COMPONENTS)
    valid = component < components
    xx = tl.zeros((SPECTRA, COMPONENTS), tl.float64)
    yy = tl.zeros((SPECTRA, COMPONENTS), tl.float64)
    xy = tl.zeros((SPECTRA, COMPONENTS), tl.float64)
    xy_imag = tl.zeros((SPECTRA, COMPONENTS), tl.float64)
    for first in range(0, spectra, SPECTRA):
        spectrum = first + tl.arange(0, SPECTRA)
        inside = (spectrum < spectra)[:, None] & valid[None, :]
        row = channel * 2 * spectra + spectrum
        x = both + 2 * (row[:, None] * components + component[None, :])
        y = x + 2 * spectra.to(tl.int64) * components
        a = tl.load(x, inside, 0.0).to(tl.float64)
        b = tl.load(x + 1, inside, 0.0).to(tl.float64)
        c = tl.load(y, inside, 0.0).to(tl.float64)
        d = tl.load(y + 1, inside, 0.0).to(tl.float64)
        xx += a * a + b * b
        yy += c * c + d * d
        xy += a * c + b * d
        xy_imag += a * d - b * c
    at = channel * components + component
    size = channels.to(tl.int64) * components
    tl.store(sums + at, tl.sum(xx, 0), valid)
    tl.store(sums + at + size, tl.sum(yy, 0), valid)
    tl.store(sums + at + 2 * size, tl.sum(xy, 0), valid)
    tl.store(sums + at + 3 * size, tl.sum(xy_imag, 0), valid)


def products(both: Tensor, sums: Tensor) -> None:
    """|X|², |Y|² and conj(X)·Y, summed over spectra.

    Args:
        both: real and imaginary parts, ``[c, 2, pairs, lines, F, 2]``, contiguous.
        sums: float64, ``[4, c, F]``, written to: |X|², |Y|², and real and imaginary parts of
            conj(X)·Y.
    """
    channels, _, pairs, lines, components, _ = both.shape
    spectra = pairs * lines
    spectrum_block = min(32, triton.next_power_of_2(spectra))
    component_block = min(256, _TILE // spectrum_block)
    with torch.cuda.device(both.device):
        _products[(channels * triton.cdiv(components, component_block),)](
            both, sums, channels, components, spectra, spectrum_block, component_block
        )
