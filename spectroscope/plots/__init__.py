"""Plots of a report's frames: each function takes a frame and optionally Axes, and returns Axes.

Without Axes a new pyplot figure is made, as in pandas, which a notebook shows by itself. With Axes
the user's style is left as it is. No function calls `show`.
"""

from spectroscope.plots.examples import feature_maps as feature_maps
from spectroscope.plots.examples import waveforms as waveforms
from spectroscope.plots.filter_response import filter_response as filter_response
from spectroscope.plots.harmonics import harmonics as harmonics
from spectroscope.plots.layers import aliasing as aliasing
from spectroscope.plots.layers import dc as dc
from spectroscope.plots.layers import depth as depth
from spectroscope.plots.layers import importance as importance
from spectroscope.plots.layers import predictions as predictions
from spectroscope.plots.network import network as network
from spectroscope.plots.planes import planes as planes
from spectroscope.plots.save import save as save
from spectroscope.plots.spectra import radial as radial
from spectroscope.plots.spectra import spectra as spectra
from spectroscope.plots.spectrogram import spectrogram as spectrogram
