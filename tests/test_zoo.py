"""Other people's models: every activation call, its axes, rate, source and numbers.

A model of each family of timm, segmentation-models-pytorch, MONAI, braindecode and Keras, as it is,
with random weights; what is right is found by means of tests/independent.py.
`pip install -e ".[test,zoo]"`, then `pytest -m slow tests/test_zoo.py`.
"""

import random
import re
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
import zoo_models
from helpers import same
from independent import ASKED, Activations, Oracle, channels_second, image_power, line_power

import spectroscope

pytestmark = pytest.mark.slow

KINDS = sorted(set(ASKED.values()))


@pytest.fixture(autouse=True)
def _no_fused_transformers():
    """Their calls can't be seen, as coverage() says; the oracle's hooks bring them out."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    yield
    torch.backends.mha.set_fastpath_enabled(before)


@pytest.mark.parametrize("name", zoo_models.NAMES)
def test_calls_axes_rates_sources_and_numbers_of_the_zoo(name):
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # theirs, and ours about models without a ReLU
        assert not list(disagreements(name))


def disagreements(name):
    """What the report of a model of the zoo says otherwise than it is."""
    model, x, options = zoo_models.build(name)
    weights = list(model.parameters())

    def run(x=x):
        torch.manual_seed(1)
        return model(x)

    def record(keep=(), **more):
        with (
            spectroscope.record(model, kinds=KINDS, **options, **more) as recorder,
            Activations(keep, weights) as seen,
        ):
            output = run()
        return recorder.report(), seen, output

    before = run()
    report, _, during = record(spectra=False)
    with Activations(weights=weights) as seen:
        after = run()
    if not same(before, during):
        yield "outputs differ while recording"
    if not same(before, after):
        yield "outputs differ after recording"
    sites = report.sites()
    if sites["kind"].tolist() != seen.kinds:
        yield f"{len(sites)} sites, but {len(seen.kinds)} calls"
        return
    coverage = report.coverage()
    if coverage["fired"][coverage["status"] != "not asked for"].sum() != len(seen.kinds):
        yield "coverage() has another number of calls than sites()"

    calls = sorted(random.Random(name).sample(range(len(sites)), min(3, len(sites))))
    if not calls:
        return
    # Both at once: two runs may differ by a rounding.
    report, seen, _ = record(calls, spectra="plane", select=[sites["site"][i] for i in calls])
    oracle = Oracle(run, model, x, calls)
    axes = zoo_models.axes_of_time_or_space(name, x)
    places = {axis: oracle.places(axis) for axis in axes}
    for call in calls:
        layer, channel_axis = oracle.channels(call)
        if name.startswith("keras"):  # its layers aren't called as modules; all has channels last
            channel_axis = seen.inputs[call].ndim - 1
        site = sites.loc[call]
        if channel_axis is None:
            channel_axis = site["channel_axis"]
        now = dict(places[axis][call] for axis in axes if call in places[axis])
        if len(now) < len(axes) or channel_axis in now:  # height and width are one axis of tokens
            now = {}
        known = "fs" in options and not np.isnan(site["decimation"])
        time = next(iter(now)) if known and now else None
        problems = (
            *channels_of(site, channel_axis, layer, model),
            *rate_of(site, now.values(), name),
            *numbers_of(report, site, seen, call, channel_axis, time),
        )
        yield from (f"{site['site']} {tuple(seen.inputs[call].shape)}: {p}" for p in problems)


def channels_of(site, channel_axis, layer, model):
    if site["channel_axis"] != channel_axis:
        yield f"channel axis {site['channel_axis']}, but it is {channel_axis}"
    if layer is not None and not pd.isna(site["source"]):  # NA: unknown
        names = {n for n, m in model.named_modules(remove_duplicate=False) if m is layer}
        sources = re.sub(r" from \d+", "", site["source"])
        if not names & set(re.split(r", | \+ ", sources)):
            yield f"source {site['source']}, but it is {names}"


def rate_of(site, measured, name):
    """The decimation, to the accuracy of what was measured, where that was possible."""
    if np.isnan(site["decimation"]) and name in zoo_models.RATE_UNKNOWN:
        return
    for decimation in measured:
        if not 0.7 < site["decimation"] / decimation < 1.4:
            yield f"decimation {site['decimation']}, but it is {decimation:.2f}"


def numbers_of(report, site, seen, call, channel_axis, time):
    """DC and spectra of both sides, against NumPy and SciPy in float64."""
    dc = report.dc().set_index("site").loc[[site["site"]]]
    for side, x in (("in", seen.inputs[call]), ("out", seen.outputs[call])):
        x = channels_second(x, channel_axis)
        others = (0, *range(2, x.ndim))
        total = np.square(x).mean(others)
        expected = x.mean(others)
        if len(dc) != len(expected):
            yield f"{len(dc)} channels, but there are {len(expected)}"
            return
        if np.abs(dc[f"dc_{side}"] - expected).max() > 1e-9 * np.sqrt(total.mean()):
            yield f"DC {side}"
        power = power_of(report, site["site"], side)
        if power is None:
            continue
        allowed = 1e-6 * total[:, None].clip(1e-30)
        if not any(
            theirs.shape == power.shape and (np.abs(power - theirs).sum(1) <= allowed[:, 0]).all()
            for theirs in spectra_of(x, time, channel_axis, site["n_samples"])
        ):
            yield f"spectrum {side}"


def power_of(report, site, side):
    """Power of each component ``[C, F]``, or None if there are no spectra."""
    try:
        rows = report.spectra(site)
    except spectroscope.RequestError:
        return None
    if "pixel" in rows["freq_unit"].iloc[0]:
        rows = report.planes(site)
    return rows[rows["side"] == side]["power"].to_numpy().reshape(rows["channel"].nunique(), -1)


def spectra_of(x, time, channel_axis, samples):
    """Spectra of ``[N, C, ...]`` along time, or else along any axis and any two.

    Along the first only where the report itself doesn't count its inputs there.
    """
    if time is not None:
        order = [axis for axis in range(x.ndim) if axis != channel_axis]
        yield line_power(x, [order[0], channel_axis, *order[1:]].index(time))
        return
    if samples != len(x):
        yield line_power(x, 0)
    for axis in range(2, x.ndim):
        yield line_power(x, axis)
        for other in range(axis + 1, x.ndim):
            yield image_power(np.moveaxis(x, (axis, other), (-2, -1)))
