"""What several test files need."""

import tempfile
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.signal
import torch
from torch import nn
from torch.nn.modules import module as module_hooks

import spectroscope
from spectroscope.capture import hooks

# How closely numbers agree, by "What always holds" in docs/architecture.md. Means, counts and sums
# are added in float64: relative.
DC_TABLE = 1e-9
# Transforms of float32 are in float32: of a channel's total power.
SPECTRUM = 1e-6
# Activations of other implementations, where they are.
REFERENCE = Path(__file__).parents[2] / "shared" / "data" / "heart_rate"


class Calls(nn.Module):
    """Calls a function on what it is given."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *args):
        return self.function(*args)


def nothing_is_left():
    """Whether torch is as it was before anything was recorded."""
    registered = (module_hooks._global_forward_hooks, module_hooks._global_forward_pre_hooks)
    filters = any(entry is hooks._WARNING_FILTER for entry in warnings.filters)
    modes = torch.overrides._len_torch_function_stack()
    return not (
        any(registered) or modes or hooks._eager_stance or filters or hooks._borrowing_threads
    )


def sites_of(model, *args, **options):
    """Names of the sites that one forward records."""
    with spectroscope.record(model, **options) as recorder:
        model(*args)
    return recorder.report().sites()["site"].tolist()


def same(a, b):
    """Whether two outputs are bit-identical."""
    if isinstance(a, torch.Tensor):
        return a.shape == b.shape and torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if a is None:
        return b is None
    return len(a) == len(b) and all(map(same, a, b))


class Swish(nn.Module):
    """A activation of the user's own, with a ReLU in it."""

    def forward(self, x):
        return x.relu() * torch.sigmoid(x)


def report_of(model, *batches, **options):
    with spectroscope.record(model, **options) as recorder:
        for batch in batches:
            model(batch.clone())
    return recorder.report()


def tone(f0, length, amplitude=1.0, offset=0.0, phase=0.4):
    """``[1, 1, T]``, `f0` in cycles per sample."""
    time = torch.arange(length, dtype=torch.float64)
    return (offset + amplitude * torch.cos(2 * torch.pi * f0 * time + phase)).view(1, 1, -1)


def html_of(report, **options):
    """The page of a report or a comparison, as text."""
    with tempfile.TemporaryDirectory() as folder:
        report.page(Path(folder, "page.html"), **options)
        return Path(folder, "page.html").read_text("utf-8")


def values(table, column, side=None):
    """One column as ``[C, F]``."""
    rows = table if side is None else table[table["side"] == side]
    return rows[column].to_numpy().reshape(rows["channel"].nunique(), -1)


def assert_close(found, expected):
    """Equal to rounding in float64, which in tiny bins is that of the others."""
    np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-13 * np.abs(expected).mean())


def assert_spectra_close(found, expected, total, dtype=torch.float32):
    """``[C, F]`` are equal to rounding of transforms of `dtype`; `total` power is ``[C]``."""
    if dtype == torch.float64:
        assert_close(found, expected)
    assert (np.abs(found - expected) <= SPECTRUM * np.asarray(total)[:, None]).all()


def cross_spectrum(x, y, window="boxcar"):
    """Scipy's, ``[C, F]``, mean over inputs; what a taper leaves in the DC bin is put right."""
    x, y = (np.asarray(side, np.float64) for side in (x, y))
    detrend = False if window == "boxcar" else "constant"
    _, cross = scipy.signal.csd(
        x, y, window=window, nperseg=x.shape[-1], detrend=detrend, scaling="spectrum"
    )
    cross[..., 0] = x.mean(-1) * y.mean(-1)
    return cross.mean(0)


def power_spectrum(x, window="boxcar"):
    return cross_spectrum(x, x, window).real


TABLES = ["dc", "sites", "spectra", "cross_spectra", "introduced"]


def assert_same_tables(found, expected, names=TABLES):
    for name in names:
        pd.testing.assert_frame_equal(
            getattr(found, name)(), getattr(expected, name)(), rtol=1e-10, atol=1e-14
        )
