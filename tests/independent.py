"""What is true of the activation calls of a model, by means that share nothing with the package.

Calls are seen at the ATen dispatcher. An axis is what it is because something changes along it
alone: one channel of a layer's output, or a part of the model's input.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import scipy.signal
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

# Kinds that are recorded when asked for, by what the dispatcher calls them.
ASKED = {"leaky_relu": "LeakyReLU", "prelu": "PReLU", "_prelu_kernel": "PReLU", "elu": "ELU",
         "gelu": "GELU", "silu": "SiLU", "hardswish": "Hardswish"}  # fmt: skip
LAYERS = (nn.modules.conv._ConvNd, nn.Linear)


def kind_of(function, args, kwargs):
    """The kind of activation that a call at the dispatcher is, or None."""
    name = function.overloadpacket.__name__.removesuffix("_")
    first, second = (*args[1:], None, None)[:2]
    low, high = kwargs.get("min", first), kwargs.get("max", second)
    if name == "relu" or (name == "threshold" and (first, second) == (0, 0)):
        return "ReLU"
    if name == "relu6":
        return "ReLU6"
    if name in ("hardtanh", "clamp", "clamp_min") and low == 0:
        if high is None:
            return "ReLU"
        return "ReLU6" if high == 6 else "Hardtanh" if name == "hardtanh" else None
    if name == "elu" and set(args[2:]) - {1}:
        return None  # SELU
    return ASKED.get(name)


class Activations(TorchDispatchMode):
    """Notes the activation calls that reach the dispatcher, whatever API made them.

    Args:
        keep: numbers of the calls whose input and output are kept.
        weights: storage of tensors that are no activations.

    Attributes:
        kinds: of the calls, as they came.
        inputs: by number.
        outputs: by number.
    """

    def __init__(self, keep=(), weights=()):
        super().__init__()
        self.keep, self.weights = keep, {w.untyped_storage().data_ptr() for w in weights}
        self.kinds, self.inputs, self.outputs = [], {}, {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        kind = kind_of(function, args, kwargs)
        if kind is None or args[0].untyped_storage().data_ptr() in self.weights:
            return function(*args, **kwargs)
        number = len(self.kinds)
        self.kinds.append(kind)
        if number in self.keep:
            self.inputs[number] = args[0].clone()
        output = function(*args, **kwargs)
        if number in self.keep:
            self.outputs[number] = output.clone()
        return output


@dataclass
class Oracle:
    """Runs a model again and again, and sees what some of its activations get.

    Args:
        run: runs the model on an input; must be deterministic.
        model: whose convolutions and linear layers are modules.
        x: the input.
        keep: numbers of the activation calls that are looked at.
    """

    run: Callable
    model: nn.Module
    x: torch.Tensor
    keep: list
    layers: list = field(default_factory=list)  # (module, activation calls before), as called

    def __post_init__(self):
        self.inputs, self.outputs = self.see(self.x)

    def see(self, x, changed=None, change=None):
        """Inputs and outputs of the calls; the output of layer call `changed` is changed."""
        self.layers = []

        def hook(module, args, output):
            self.layers.append((module, len(seen.kinds)))
            return change(module, output) if len(self.layers) - 1 == changed else None

        handles = [
            module.register_forward_hook(hook)
            for module in self.model.modules()
            if isinstance(module, LAYERS)
        ]
        try:
            with Activations(self.keep, self.model.parameters()) as seen:
                self.run(x)
        finally:
            for handle in handles:
                handle.remove()
        return seen.inputs, seen.outputs

    def differences(self, *args):
        """Energy, for each call, of what a change of input or layer changes of its input."""
        inputs, _ = self.see(*args)
        return {
            number: (x.double() - self.inputs[number].double()).square()
            for number, x in inputs.items()
            if number in self.inputs and x.shape == self.inputs[number].shape
        }

    def channels(self, number, tries=4):
        """The layer whose output channels are a call's channels, and the axis they are along.

        One channel of a layer's output becomes noise. If the call's input changes at one index of
        one axis, mostly, those are the channels. (None, None) where that isn't so.
        """
        before = [(n, module) for n, (module, calls) in enumerate(self.layers) if calls <= number]
        for n, module in before[: -tries - 1 : -1]:
            energy = self.differences(self.x, n, noise_in_one_channel).get(number)
            if energy is None or not 0 < energy.sum() < torch.inf:
                continue
            along = [profile(energy, axis) for axis in range(energy.ndim)]
            axes = [
                axis
                for axis, values in enumerate(along)
                if values.size > 1 and values.max() > max(0.6, 3 / values.size)
            ]
            return (module, axes[0]) if len(axes) == 1 else (None, None)
        return None, None

    def places(self, axis):
        """For each call, which axis of it the input's `axis` became, and its decimation.

        Two parts of the input are changed, one at a time: what changes of the call's input moves
        by the distance over the decimation. Calls for which that isn't clear are left out.
        """
        length = self.x.shape[axis]
        starts, centres = (length // 4, length * 5 // 8), []
        for start in starts:
            x = self.x.clone()
            part = x.narrow(axis, start, max(1, length // 16))
            part += torch.randn_like(part) * 2 * x.std()
            centres.append(
                {
                    number: np.array([centre(profile(energy, i)) for i in range(energy.ndim)])
                    for number, energy in self.differences(x).items()
                }
            )
        places = {}
        for number in centres[0].keys() & centres[1].keys():
            moved = centres[1][number] - centres[0][number]
            shape = np.array(self.inputs[number].shape)
            best = int((moved / shape).argmax())
            # Where all of the input is mixed nothing moves; the length must tell the same.
            decimation = (starts[1] - starts[0]) / max(moved[best], 1e-9)
            if shape[best] >= 8 and 0.7 < decimation * shape[best] / length < 1.4:
                places[number] = best, decimation
        return places


def noise_in_one_channel(module, output):
    axis = output.ndim - 1
    if not isinstance(module, nn.Linear):
        axis -= len(module.kernel_size)
    output = output.clone()
    channel = output.select(axis, output.shape[axis] // 2)
    channel += torch.randn_like(channel) * (output.std(correction=0) + 1e-3)
    return output


def profile(energy, axis):
    """Part of the energy at each index of an axis."""
    along = energy.movedim(axis, 0).flatten(1).sum(1).numpy()
    return along / max(along.sum(), 1e-300)


def centre(along):
    """Centre of what stands out along an axis."""
    along = np.maximum(along - np.median(along), 0)
    return (along * np.arange(along.size)).sum() / max(along.sum(), 1e-300)


def channels_second(x, channel_axis):
    """``[N, C, ...]`` in float64."""
    return np.moveaxis(x.double().numpy(), channel_axis, 1)


def line_power(x, axis):
    """One-sided power ``[C, F]`` of ``[N, C, ...]`` along an axis, by SciPy."""
    power = scipy.signal.periodogram(x, axis=axis, scaling="spectrum", detrend=False)[1]
    power = np.moveaxis(power, (1, axis), (0, -1))
    return power.reshape(len(power), -1, power.shape[-1]).mean(1)


def image_power(x):
    """One-sided power ``[C, H·F]`` of ``[N, C, ..., H, W]`` along the last two, by NumPy."""
    power = np.abs(np.fft.rfft2(x, norm="forward")) ** 2
    columns = np.arange(power.shape[-1])
    power *= 1 + ((columns > 0) & (2 * columns != x.shape[-1]))
    power = np.moveaxis(power, 1, 0)
    power = power.reshape(len(power), -1, *power.shape[-2:]).mean(1)
    return power.reshape(len(power), -1)
