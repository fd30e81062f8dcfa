"""Amplitudes at the multiples of a fundamental, at their exact frequencies.

Frequencies are in cycles per sample. Amplitudes are of cosines: A·cos(2πft + φ) reads A.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

# Samples projected at once.
_CHUNK = 1 << 14
# `strongest_tone`: frequencies of the grid per bin; values transformed at once; steps of the
# refinement, each of which squares the error; confidence from which on there is a tone; fewest
# components of a signal.
_PAD = 8
_PADDED = 1 << 22
_STEPS = 6
_CONFIDENT = 0.95
_MIN_ORDERS = 7


class Harmonics(NamedTuple):
    """Frequencies of the harmonics of some fundamentals, in sampled signals of a given length.

    Attributes:
        f0: ``[N]``, the fundamentals, float64.
        freq: ``[N, K]``, the frequency of harmonic 1 … K, folded into [0, 1/2].
        folded: ``[N, K]``, whether k·f0 lies above the Nyquist frequency.
        fitted: ``[N, K]``, whether the harmonic is part of a fit: all that is at its frequency.
        usable: ``[N, K]``, whether the harmonic's amplitude can be separated from all others.
        between: ``[N, K + 1]``, whether ½·f0, 1½·f0 … (K + ½)·f0 are apart from all harmonics.
    """

    f0: Tensor
    freq: Tensor
    folded: Tensor
    fitted: Tensor
    usable: Tensor
    between: Tensor

    @classmethod
    def of(cls, f0: Tensor, orders: int, length: int) -> "Harmonics":
        """The harmonics of `f0`, as signals of `length` samples resolve them.

        A harmonic isn't usable if it lies less than 1/length, the width of a bin, from DC, from
        its own mirror image at Nyquist, or from another of the orders 1 … `orders`, folded or not.
        Of those that lie together the lowest is fitted.

        Args:
            f0: ``[N]``, in cycles per sample; NaN: unknown, and no harmonic is usable.
            orders: K ≥ 1.
            length: T.
        """
        f0 = f0.double()
        order = torch.arange(1, orders + 1, dtype=torch.float64, device=f0.device)
        true = f0.unsqueeze(-1) * order
        freq = (true - true.round()).abs()
        # Less rounding: f0 = 1/T is the fundamental of a whole period.
        bin_width = (1 - 1e-9) / length

        def resolved(freq: Tensor) -> Tensor:
            inside = (freq >= bin_width) & (1 - 2 * freq >= bin_width)
            return inside & (f0.unsqueeze(-1) >= bin_width)

        near = (freq.unsqueeze(-1) - freq.unsqueeze(-2)).abs() < bin_width
        near &= ~torch.eye(orders, dtype=torch.bool, device=f0.device)
        half = f0.unsqueeze(-1) * (torch.arange(orders + 1, device=f0.device) + 0.5)
        half = (half - half.round()).abs()
        apart = (half.unsqueeze(-1) - freq.unsqueeze(-2)).abs() >= bin_width
        return cls(
            f0,
            freq,
            folded=true > 0.5,
            fitted=resolved(freq) & ~near.tril(-1).any(-1),
            usable=resolved(freq) & ~near.any(-1),
            between=resolved(half) & apart.all(-1),
        )

    @property
    def noise_known(self) -> Tensor:
        """``[N, K]``, whether the noise at a usable harmonic can be estimated next to it."""
        return self.usable & (self.between[:, :-1] | self.between[:, 1:])


class Fit(NamedTuple):
    """Result of :func:`fit`.

    Attributes:
        dc: ``[N, C]``, in x's unit.
        amplitude: ``[N, C, K]``, likewise; 0 where not usable.
        noise: ``[N, C, K]``, the square of the amplitude that noise alone has there on average; 0
            where not known.
        noise_and_distortion: ``[N, C]``, power of x without the DC and the fundamental.
    """

    dc: Tensor
    amplitude: Tensor
    noise: Tensor
    noise_and_distortion: Tensor


def fit(x: Tensor, harmonics: Harmonics, mean: Tensor, power: Tensor) -> Fit:
    """Fit DC and harmonics to x, all together, by least squares.

    So neither the DC nor a harmonic leaks into another, at any f0: where 1, cos and sin at the
    fitted frequencies explain x, the amplitudes are exact (the multi-harmonic extension of IEEE
    Std 1057's sine fit). Anything else in x leaks as in a boxcar periodogram. The cosines and sines
    are powers of one rotating phasor, which aliases as the samples do, so folding is no special
    case.

    The noise at a harmonic is estimated from what the fit leaves of x half-way to the harmonics
    below and above it. Of noise that is white over that range the estimate is unbiased.

    Args:
        x: float64, ``[N, C, T]``.
        harmonics: of N fundamentals, or of one for all, resolved at T.
        mean: ``[N, C]``, x's mean over T.
        power: likewise, its mean squared deviation from that.
    """
    samples, channels, length = x.shape
    count, orders = harmonics.freq.shape
    f0 = harmonics.f0.nan_to_num(0.25)  # unknown, so no harmonic is usable
    # Orders ½, 1, 1½ … K + ½: odd places are harmonics, even ones lie between them.
    every = x.new_zeros(samples, channels, 2 * orders + 1, 2)
    for start in range(0, length, _CHUNK):
        time = torch.arange(
            start, min(start + _CHUNK, length), dtype=torch.float64, device=x.device
        )
        phase = math.pi * f0.unsqueeze(-1) * (time - (length - 1) / 2)
        phasor = torch.polar(torch.ones_like(phase), -phase)
        power_of_phasor, basis = phasor, []
        for _ in range(2 * orders + 1):
            basis.append(torch.view_as_real(power_of_phasor))
            power_of_phasor = power_of_phasor * phasor
        table = torch.stack(basis, dim=-2).flatten(-2)  # [count, time, 2·(2K + 1)]
        chunk = x[..., start : start + _CHUNK]
        every += torch.matmul(chunk, table).view(every.shape)
    every = every / length
    right, between = every[:, :, 1::2], every[:, :, ::2]
    # Normal equations of x - mean = Σ c_j·exp(2πi·j·f0·t), j = -K … K. Time is counted from the
    # middle, so that the Gram matrix is real, and conjugate symmetry of c leaves one equation for
    # real and imaginary parts.
    order = torch.arange(-orders, orders + 1, dtype=torch.float64, device=x.device)
    gram = _dirichlet(f0.view(-1, 1, 1) * (order - order.unsqueeze(-1)), length)
    zero = right.new_zeros(samples, channels, 1, 2)
    mirrored = torch.stack([right[..., 0], -right[..., 1]], -1).flip(2)
    right = torch.cat([mirrored, zero, right], dim=2)
    right[..., 0] -= mean.unsqueeze(-1) * gram[:, orders].unsqueeze(1)
    right[:, :, orders] = 0
    fitted = harmonics.fitted
    used = torch.cat([fitted.flip(-1), fitted.new_ones(count, 1), fitted], dim=-1)
    both = used.unsqueeze(-1) & used.unsqueeze(-2)
    gram = torch.where(both, gram, torch.eye(2 * orders + 1, dtype=gram.dtype, device=x.device))
    right = (right * used.view(count, 1, -1, 1)).transpose(1, 2).flatten(2)  # [N, 2K + 1, 2C]
    # Inverted, because each solve with many right sides would start threads and wait for them.
    inverse = torch.linalg.inv_ex(gram).inverse
    solved = torch.matmul(inverse, right)
    # The residual of the fit, and the power of the fitted harmonics beyond the fundamental.
    distortion = solved.clone()
    distortion[:, orders - 1 : orders + 2] = 0
    remainder = (torch.matmul(gram, distortion) * distortion - solved * right).sum(1)
    remainder = power + remainder.view(samples, channels, 2).sum(-1)
    coefficients = solved.view(samples, 2 * orders + 1, channels, 2).transpose(1, 2)
    positive = coefficients[:, :, orders + 1 :]
    amplitude = 2 * torch.hypot(positive[..., 0], positive[..., 1])
    # What is left half-way between the harmonics. The fit takes a part of the noise there too.
    half = torch.arange(orders + 1, dtype=torch.float64, device=x.device) + 0.5
    towards = _dirichlet(f0.view(-1, 1, 1) * (half.unsqueeze(-1) - order), length)
    explained = torch.matmul(towards, solved).view(samples, -1, channels, 2).transpose(1, 2)
    left = between - explained
    left[..., 0] -= mean.unsqueeze(-1) * towards[:, :, orders].unsqueeze(1)
    taken = (torch.matmul(towards * used.unsqueeze(1), inverse) * towards).sum(-1)
    known = harmonics.between
    per_bin = left.square().sum(-1) * torch.where(known, 1 / (1 - taken), 0.0).unsqueeze(1)
    neighbours = (known[:, :-1].double() + known[:, 1:]).clamp_min(1).unsqueeze(1)
    per_bin = (per_bin[..., :-1] + per_bin[..., 1:]) / neighbours
    noise = 4 * inverse.diagonal(dim1=-2, dim2=-1)[:, orders + 1 :].unsqueeze(1) * per_bin
    return Fit(
        mean + coefficients[:, :, orders, 0],
        amplitude * harmonics.usable.unsqueeze(1),
        noise * harmonics.noise_known.unsqueeze(1),
        remainder.clamp_min(0),
    )


class Tone(NamedTuple):
    """Result of :func:`strongest_tone`.

    Attributes:
        freq: ``[N]``, float64, in cycles per sample; NaN where no tone is.
        confidence: ``[N]``, float64, from 0 to 1: a lower bound of the probability that white noise
            has no component as strong at any frequency. NaN where x is constant or isn't finite.
    """

    freq: Tensor
    confidence: Tensor


def strongest_tone(x: Tensor, band: tuple[float, float] | None = None) -> Tone:
    """The tone that fits each signal best, by least squares.

    DC, amplitude, phase and frequency are fitted as in IEEE Std 1057, one frequency to all
    channels. The fit starts at the peak of the least-squares periodogram (M. Zechmeister and M.
    Kürster, "The generalised Lomb-Scargle periodogram", *Astronomy & Astrophysics* 496, 2009). A
    tone's mirror image doesn't move that peak, as it does in a windowed periodogram.

    With a `band`, cosines outside it, of the discrete cosine transform, are fitted and removed
    together with the DC. So neither slow drift nor a hum, however strong, is taken for the tone,
    and the confidence is against noise that is white inside the band.

    The frequency is NaN if the confidence is below 0.95, if the power rises up to the lowest or the
    highest frequency, or if fewer than 7 cosines are left, as of all if T < 8. The strongest
    component of coloured noise may pass for a tone, because the confidence is against white noise.

    Args:
        x: real, ``[N, C, T]``.
        band: lowest and highest frequency, in cycles per sample; None: from half a cycle in T to as
            far below the Nyquist frequency.
    """
    samples, channels, length = x.shape
    points, lowest = _PAD * length, _PAD // 2
    highest = points // 2 - lowest
    order = torch.arange(1, length, device=x.device)  # cosines of order/2 cycles in T
    if band is not None:
        lowest = max(lowest, math.ceil(band[0] * points * (1 - 1e-9)))
        highest = min(highest, math.floor(band[1] * points * (1 + 1e-9)))
        # And those within a bin of the band, into which a tone at its end leaks.
        low, high = (2 * length * end for end in band)
        order = order[(order >= low - 2) & (order <= high + 2)]
    if len(order) < _MIN_ORDERS or highest - lowest < 2 or not x.numel():
        unknown = torch.full((samples,), math.nan, dtype=torch.float64, device=x.device)
        return Tone(unknown, unknown)
    at_once = max(1, _PADDED // (channels * points))
    if samples > at_once:
        parts = zip(*(strongest_tone(part, band) for part in torch.split(x, at_once)), strict=True)
        return Tone(*map(torch.cat, parts))
    x = x.double()
    scale = x.square().mean((1, 2))
    x = _of_orders(x, order)
    power = x.square().mean((1, 2))
    freq = torch.arange(lowest, highest + 1, device=x.device).double() / points
    spectrum = torch.fft.rfft(x, n=points)[..., lowest : highest + 1]
    spectrum = spectrum * torch.polar(torch.ones_like(freq), math.pi * (length - 1) * freq)
    cosine, sine = _squared_norms(freq, length)
    fitted = (spectrum.real.square() / cosine + spectrum.imag.square() / sine).sum(1)
    best = fitted.argmax(-1)
    f = start = freq[best]
    time = torch.arange(length, dtype=torch.float64, device=x.device) - (length - 1) / 2
    for _ in range(_STEPS):
        step, explained = _improvement(x, time, f, order)
        # The peak lies between the neighbours of the best frequency on the grid.
        f = (f + step).clamp(start - 1 / points, start + 1 / points)
    fraction = (explained / (power * channels * length)).clamp(0, 1)
    # (1 − fraction)^((K − 2)/2): the probability that white noise of K components, T − 1 without a
    # band, has that much of its power at one frequency. There are some 2·K frequencies.
    chance = 2 * (len(order) + 1) * torch.exp((len(order) - 2) / 2 * torch.log1p(-fraction))
    confidence = (1 - chance).clamp_min(0)
    # A constant leaves nothing but rounding errors.
    known = power > torch.finfo(torch.float64).eps ** 2 * length * scale
    confidence = torch.where(known, confidence, math.nan)
    inside = (best > 0) & (best < len(freq) - 1)
    return Tone(torch.where(inside & (confidence >= _CONFIDENT), f, math.nan), confidence)


def _of_orders(x: Tensor, order: Tensor) -> Tensor:
    """`x` without its mean, and without all cosines of its DCT-II but those of `order`."""
    x = x - x.mean(-1, keepdim=True)
    length = x.shape[-1]
    if len(order) == length - 1:
        return x
    # The transform of a signal and its mirror image has the coefficients, times a phase.
    spectrum = torch.fft.rfft(torch.cat([x, x.flip(-1)], -1))
    kept = torch.zeros_like(spectrum)
    kept[..., order] = spectrum[..., order]
    both: Tensor = torch.fft.irfft(kept, n=2 * length)
    return both[..., :length]


def _improvement(x: Tensor, time: Tensor, freq: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
    """A Gauss-Newton step of the frequencies, and the sum of squares that the tones explain.

    Args:
        x: ``[N, C, T]``, as :func:`_of_orders` returns it.
        time: ``[T]``, from the middle, so that 1, the cosine without its mean and the sine are
            orthogonal, as are their parts of `order`: even and odd.
        freq: ``[N]``.
        order: of the cosines that `x` consists of.

    Returns:
        Each ``[N]``.
    """
    phase = 2 * math.pi * freq.unsqueeze(-1) * time
    cosine, sine = phase.cos(), phase.sin()
    basis = _of_orders(torch.stack([cosine, sine], 1), order)  # [N, 2, T]
    norms = basis.square().sum(-1, keepdim=True).sqrt()
    basis = basis / norms
    along = torch.matmul(x, basis.mT)  # [N, C, 2]
    residual = x - torch.matmul(along, basis)
    # Derivative of the tone a·cos + b·sin with respect to the frequency, less what a, b and the
    # cosines that were removed make up for.
    a, b = (along / norms.mT).unsqueeze(-1).unbind(2)  # [N, C, 1]
    slope = time * (b * cosine.unsqueeze(1) - a * sine.unsqueeze(1))
    slope = _of_orders(slope, order)
    slope = slope - torch.matmul(torch.matmul(slope, basis.mT), basis)
    steepness = 2 * math.pi * slope.square().sum((1, 2))
    step = (residual * slope).sum((1, 2)) / torch.where(steepness > 0, steepness, 1.0)
    return step, along.square().sum((1, 2))


def _squared_norms(freq: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Of the cosine without its mean and of the sine, time counted from the middle."""
    double, single = _dirichlet(2 * freq, length), _dirichlet(freq, length)
    return length * ((1 + double) / 2 - single.square()), length * (1 - double) / 2


def _dirichlet(freq: Tensor, length: int) -> Tensor:
    """Mean of exp(2πi·freq·t) over `length` samples around t = 0: sin(πTf) / (T·sin(πf))."""
    ratio = torch.sin(math.pi * length * freq) / (length * torch.sin(math.pi * freq))
    return torch.where(freq == 0, 1.0, ratio)
