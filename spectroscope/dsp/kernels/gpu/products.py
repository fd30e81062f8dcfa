"""Products of the spectra of both sides."""

import torch
import triton
import triton.language as tl
from torch import Tensor

# Components times spectra that a program reads at a time.
_TILE = 1024


@triton.jit(do_not_specialize=["channels", "components", "spectra"])
def _add_products(
    x,
    y,
    sums,
    imag,
    channels,
    components,
    spectra,
    IMAG: tl.constexpr,  # noqa: N803
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
        row = channel * spectra + spectrum
        at = 2 * (row[:, None] * components + component[None, :])
        a = tl.load(x + at, inside, 0.0).to(tl.float64)
        b = tl.load(x + at + 1, inside, 0.0).to(tl.float64)
        c = tl.load(y + at, inside, 0.0).to(tl.float64)
        d = tl.load(y + at + 1, inside, 0.0).to(tl.float64)
        xx += a * a + b * b
        yy += c * c + d * d
        xy += a * c + b * d
        if IMAG:
            xy_imag += a * d - b * c
    at = channel * components + component
    size = channels.to(tl.int64) * components
    tl.store(sums + at, tl.load(sums + at, valid, 0.0) + tl.sum(xx, 0), valid)
    at += size
    tl.store(sums + at, tl.load(sums + at, valid, 0.0) + tl.sum(yy, 0), valid)
    at += size
    tl.store(sums + at, tl.load(sums + at, valid, 0.0) + tl.sum(xy, 0), valid)
    if IMAG:
        at -= 2 * size
        tl.store(imag + at, tl.load(imag + at, valid, 0.0) + tl.sum(xy_imag, 0), valid)


def add_products(x: Tensor, y: Tensor, sums: Tensor, imag: Tensor) -> None:
    """As :func:`spectroscope.dsp.kernels.dispatch.add_products`.

    Args:
        x: real and imaginary parts, ``[c, m, F, 2]``.
        y: likewise.
        sums: ``[3, c, F]``, added to.
        imag: ``[c, F]``, added to, or of no channels.
    """
    channels, spectra, components, _ = x.shape
    spectrum_block = min(32, triton.next_power_of_2(spectra))
    component_block = min(256, _TILE // spectrum_block)
    with torch.cuda.device(x.device):
        _add_products[(channels * triton.cdiv(components, component_block),)](
            x.contiguous(), y.contiguous(), sums, imag, channels, components, spectra,
            len(imag) > 0, spectrum_block, component_block,
        )  # fmt: skip
