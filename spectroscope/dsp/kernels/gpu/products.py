"""Products of the spectra of both sides."""

import torch
import triton
import triton.language as tl
from torch import Tensor

# Components times spectra that a program reads at a time.
_TILE = 1024


@triton.jit(do_not_specialize=["channels", "components", "spectra", "lines"])
def _products(
    x,
    y,
    sums,
    channels,
    components,
    spectra,
    lines,
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
        row = ((spectrum // lines) * channels + channel) * lines + spectrum % lines
        at = 2 * (row[:, None] * components + component[None, :])
        a = tl.load(x + at, inside, 0.0).to(tl.float64)
        b = tl.load(x + at + 1, inside, 0.0).to(tl.float64)
        c = tl.load(y + at, inside, 0.0).to(tl.float64)
        d = tl.load(y + at + 1, inside, 0.0).to(tl.float64)
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


def products(x: Tensor, y: Tensor, sums: Tensor) -> None:
    """|X|², |Y|² and conj(X)·Y, summed over spectra.

    Args:
        x: real and imaginary parts, ``[n, c, lines, F, 2]``.
        y: likewise.
        sums: float64, ``[4, c, F]``, written to: |X|², |Y|², and real and imaginary parts of
            conj(X)·Y.
    """
    samples, channels, lines, components, _ = x.shape
    spectra = samples * lines
    spectrum_block = min(32, triton.next_power_of_2(spectra))
    component_block = min(256, _TILE // spectrum_block)
    with torch.cuda.device(x.device):
        _products[(channels * triton.cdiv(components, component_block),)](
            x.contiguous(), y.contiguous(), sums, channels, components, spectra,
            lines, spectrum_block, component_block,
        )  # fmt: skip
