"""Counts, means and second moments that merge, in float64.

A sum of squares loses all its digits at mean 1e4 and standard deviation 1. A count, a mean and the
sum of squared deviations from it (M2) do not, and they merge exactly however a stream was split:
Chan, Golub & LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances",
1979. At 1e4 and 1, M2 of float64 numbers keeps 11 digits or more.

The layouts of the two arrays that the kernels fill are declared here, and only here. numba and
Triton compile these numbers in; numba's cache does not notice a change of them, so delete it
(``__pycache__/*.nb?``) after one.
"""

from typing import NamedTuple

import torch
from torch import Tensor

# Moments of lines of both sides, ``[LINE_FIELDS, C, N, lines]``: x is the input, y the output.
(
    X_MEAN,  # of the finite values
    Y_MEAN,
    X_M2,  # about that mean
    Y_M2,
    XY,  # Σ(x − mean of x)·(y − mean of y), of lines that are finite on both sides
    Y_POSITIVE,  # number of finite values > 0
    X_FINITE,  # number of finite values
    Y_FINITE,
) = range(8)
LINE_FIELDS = 8

# Moments of channels, ``[TABLE_ROWS, C]``: three blocks, `dc`, `sums` and `joint`. The input's rows
# come before the output's.
# `dc`: of each side's means of inputs, the fields of `Moments`, under two weightings: each input
# counts once (BY_ROW), or as often as it has finite values (BY_VALUE).
WEIGHT, MEAN, M2 = range(3)
BY_ROW, BY_VALUE = 0, 3
DC, DC_SIDE = 0, 6  # first row of the block, and rows of one side
# `sums`: over all inputs of a side.
SUM_M2, SUM_POSITIVE, SUM_NONFINITE = range(3)  # positive of the output alone
SUMS, SUMS_SIDE = 12, 3
# `joint`: the fields of `CoMoments`, and AC, the same three sums about each input's own means.
PAIRS, MEAN_X, MEAN_Y, M2_XX, M2_YY, M2_XY, AC_XX, AC_YY, AC_XY = range(9)
JOINT = 18
TABLE_ROWS = 27

# Products of the means of lines, ``[MEAN_ROWS, C]``, summed over the inputs that are finite on both
# sides: number of those inputs, squares of the means of x and of y, and their products.
INPUTS, MEANS_XX, MEANS_YY, MEANS_XY = range(4)
MEAN_ROWS = 4


class Moments(NamedTuple):
    """Weight, mean and M2 of a stream of numbers, per channel.

    Attributes:
        weight: ``[C]``, the sum of the weights.
        mean: ``[C]``, in the unit of the numbers; 0 where `weight` is 0.
        m2: ``[C]``, sum of weight × (number − mean)², in the square of the numbers' unit.
    """

    weight: Tensor
    mean: Tensor
    m2: Tensor

    @classmethod
    def of(cls, values: Tensor, weights: Tensor) -> "Moments":
        """Moments over the last axis of the numbers `values`.

        Args:
            values: float64, ``[C, N]``.
            weights: ``[C, N]``, whole numbers: how often each number counts.
        """
        weight = weights.sum(-1)
        mean = (weights * values).sum(-1) / weight.clamp(min=1)
        deviation = values - mean.unsqueeze(-1)
        return cls(weight, mean, (weights * deviation.square()).sum(-1))

    def merge(self, other: "Moments") -> "Moments":
        """Moments of both streams together."""
        weight = self.weight + other.weight
        fraction = other.weight / weight.clamp(min=1)
        difference = other.mean - self.mean
        between = difference.square() * (self.weight * fraction)
        return Moments(weight, self.mean + difference * fraction, self.m2 + other.m2 + between)


class CoMoments(NamedTuple):
    """Moments of pairs of numbers (x, y), per channel; merged as :class:`Moments` are.

    Attributes:
        weight: ``[C]``, number of pairs.
        mean: ``[2, C]``, of x and of y.
        m2: ``[3, C]``, sums over the pairs of dx², dy² and dx·dy, the deviations from the means.
    """

    weight: Tensor
    mean: Tensor
    m2: Tensor

    @classmethod
    def of(cls, means: Tensor, m2: Tensor, weights: Tensor) -> "CoMoments":
        """Moments of all pairs from those of groups of pairs.

        Args:
            means: float64, ``[2, C, N]``, of each group.
            m2: ``[3, C, N]``, about each group's own means.
            weights: ``[C, N]``, number of pairs in each group; 0 leaves the group out.
        """
        weight = weights.sum(-1)
        mean = (weights * means).sum(-1) / weight.clamp(min=1)
        x, y = means - mean.unsqueeze(-1)
        m2 = m2 + weights * torch.stack([x * x, y * y, x * y])
        return cls(weight, mean, m2.where(weights > 0, 0).sum(-1))

    def merge(self, other: "CoMoments") -> "CoMoments":
        """Moments of both streams together."""
        weight = self.weight + other.weight
        fraction = other.weight / weight.clamp(min=1)
        x, y = difference = other.mean - self.mean
        between = torch.stack([x * x, y * y, x * y]) * (self.weight * fraction)
        return CoMoments(weight, self.mean + difference * fraction, self.m2 + other.m2 + between)


class ChannelMoments(NamedTuple):
    """DC and AC of both sides of an activation, per channel, in one table that merges in one call.

    Attributes:
        table: float64, ``[TABLE_ROWS, C]``, in the layout declared at the top of this module.
    """

    table: Tensor

    @classmethod
    def of(cls, dc: Moments, sums: Tensor, joint: CoMoments, ac: Tensor) -> "ChannelMoments":
        """The table of these, each as the property of the same name."""
        blocks = [torch.stack(dc, 2).flatten(0, 2), sums.flatten(0, 1)]
        return cls(torch.cat([*blocks, joint.weight.unsqueeze(0), joint.mean, joint.m2, ac]))

    @property
    def dc(self) -> Moments:
        """Moments of the inputs' means, each field ``[2, 2, C]``.

        The first axis is the side, input and output. The second is the weighting: each input
        counts once, or as often as it has finite values.
        """
        return Moments(*self.table[DC:SUMS].view(2, 2, 3, -1).unbind(2))

    @property
    def sums(self) -> Tensor:
        """``[2, 3, C]``, of each side: M2, values > 0 (of the output alone), values not finite."""
        return self.table[SUMS:JOINT].view(2, SUMS_SIDE, -1)

    @property
    def joint(self) -> CoMoments:
        """Moments of the pairs (input, output) in those inputs that are finite on both."""
        joint = self.table[JOINT:]
        return CoMoments(joint[PAIRS], joint[MEAN_X : MEAN_Y + 1], joint[M2_XX : M2_XY + 1])

    @property
    def ac(self) -> Tensor:
        """``[3, C]``, of the same pairs: sums of dx², dy² and dx·dy about each input's means."""
        return self.table[JOINT + AC_XX :]

    def merge(self, other: "ChannelMoments") -> "ChannelMoments":
        """Moments of both streams together."""
        return ChannelMoments.of(
            self.dc.merge(other.dc),
            self.sums + other.sums,
            self.joint.merge(other.joint),
            self.ac + other.ac,
        )


class LineMoments(NamedTuple):
    """Moments of lines of both sides of an activation.

    A line is what is transformed together: an input's T values, an image, or a frame of a video.

    Attributes:
        fields: float64, ``[LINE_FIELDS, C, N, lines]``, in the layout declared above.
        length: number of values of a line.
    """

    fields: Tensor
    length: int

    @classmethod
    def of(cls, x: Tensor, y: Tensor) -> "LineMoments":
        """Moments of the finite values of both sides, in two passes.

        Args:
            x: float64, ``[C, N, lines, T]`` with T ≥ 1, of the input.
            y: likewise, of the output.

        >>> x = torch.tensor([1.0, 3.0, torch.inf], dtype=torch.float64).view(1, 1, 1, 3)
        >>> LineMoments.of(x, x).fields[X_MEAN].item()
        2.0
        """
        sides = []
        for side in (x, y):
            valid = side.isfinite()
            finite = valid.sum(-1, dtype=torch.float64)
            mean = side.where(valid, 0).sum(-1) / finite.clamp(min=1)
            centered = (side - mean.unsqueeze(-1)).where(valid, 0)
            sides.append((mean, centered, centered.square().sum(-1), finite))
        (x_mean, a, x_m2, x_finite), (y_mean, b, y_m2, y_finite) = sides
        positive = ((y > 0) & y.isfinite()).sum(-1, dtype=torch.float64)
        fields = x_mean, y_mean, x_m2, y_m2, (a * b).sum(-1), positive, x_finite, y_finite
        return cls(torch.stack(fields), x.shape[-1])

    @property
    def finite(self) -> Tensor:
        """``[C, N]``, which inputs are finite on both sides."""
        return (self.fields[X_FINITE:] == self.length).all(0).all(-1)

    @property
    def means(self) -> Tensor:
        """``[2, C, N, lines]``, of both sides; 0 in inputs that aren't `finite`."""
        return self.fields[X_MEAN : Y_MEAN + 1].where(self.finite.unsqueeze(-1), 0)

    def of_inputs(self) -> "LineMoments":
        """Moments of the inputs as one line each."""
        fields, lines = self.fields, self.fields.shape[3]
        if lines == 1:
            return self
        within = Moments.of(fields[:2], fields[X_FINITE : Y_FINITE + 1])
        pairs = torch.full_like(fields[0], self.length)
        joint = CoMoments.of(fields[:2], fields[[X_M2, Y_M2, XY]], pairs)
        sums = fields.sum(-1)
        sums[: Y_MEAN + 1] = within.mean
        sums[X_M2 : Y_M2 + 1] += within.m2
        sums[XY] = joint.m2[2]
        return LineMoments(sums.unsqueeze(-1), self.length * lines)

    def of_channels(self) -> ChannelMoments:
        """Moments of the channels, if each input is one line."""
        fields = self.fields.squeeze(-1)
        finite = fields[X_FINITE : Y_FINITE + 1]
        by_weight = [Moments.of(fields[:2], weights) for weights in (finite.clamp(max=1), finite)]
        dc = Moments(*(torch.stack(each, 1) for each in zip(*by_weight, strict=True)))
        positive = torch.stack([torch.zeros_like(fields[0]), fields[Y_POSITIVE]])
        sums = torch.stack([fields[X_M2 : Y_M2 + 1], positive, self.length - finite], 1).sum(-1)
        pairs = self.finite * float(self.length)
        within = fields[[X_M2, Y_M2, XY]]
        joint = CoMoments.of(fields[:2], within, pairs)
        return ChannelMoments.of(dc, sums, joint, within.where(pairs > 0, 0).sum(-1))

    def mean_products(self) -> Tensor:
        """``[MEAN_ROWS, C]``, in the layout declared above."""
        x, y = self.means
        inputs = self.finite.sum(1, dtype=torch.float64)
        return torch.stack([inputs, *torch.stack([x * x, y * y, x * y]).sum((2, 3))])
