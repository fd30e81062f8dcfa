"""What several test files need."""

import warnings

import torch
from torch import nn
from torch.nn.modules import module as module_hooks

import spectroscope
from spectroscope import door


class Calls(nn.Module):
    """Calls a function on what it is given."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *args):
        return self.function(*args)


def nothing_is_left():
    """Whether torch is as it was before anything was recorded."""
    hooks = (module_hooks._global_forward_hooks, module_hooks._global_forward_pre_hooks)
    filters = any(entry is door._WRAPPER for entry in warnings.filters)
    modes = torch.overrides._len_torch_function_stack()
    return not (any(hooks) or modes or door._eager or filters or door._visits[0])


def sites_of(model, *args, **options):
    """Names of the sites that one forward records."""
    with spectroscope.record(model, **options) as recorder:
        model(*args)
    return recorder.report().sites()["site"].tolist()


class Swish(nn.Module):
    """A rectifier of the user's own, with a ReLU in it."""

    def forward(self, x):
        return x.relu() * torch.sigmoid(x)
