"""A report's frames as pictures: each function takes a frame and Axes, and returns Axes.

Without Axes a new pyplot figure is made, as pandas does it, which a notebook shows by itself; on
Axes that are given nothing of the user's style is changed. Nothing here calls `show`.
"""

from spectroscope.plots.layers import aliasing as aliasing
from spectroscope.plots.layers import dc as dc
from spectroscope.plots.layers import depth as depth
from spectroscope.plots.layers import importance as importance
from spectroscope.plots.layers import predictions as predictions
from spectroscope.plots.panels import filters as filters
from spectroscope.plots.panels import planes as planes
from spectroscope.plots.spectra import filter_response as filter_response
from spectroscope.plots.spectra import radial as radial
from spectroscope.plots.spectra import spectra as spectra
from spectroscope.plots.tones import harmonics as harmonics
