"""What theory says a ReLU does to a signal: the paper's series, and exact results.

Every function takes NumPy arrays (or lists, or numbers) or tensors, and returns the same kind, in
float64. Derivations and measurements are in ``docs/theory.md``.

- The paper's Taylor expansion: :func:`relu_series`, :func:`series_coefficients`,
  :func:`relu_series_terms`, :func:`relu_series_phasors`; :func:`relu_chebyshev`, a better
  polynomial of the same degree; :func:`approximation_error`.
- Tones, exact: :func:`cosine_harmonics`, :func:`tones_dc`, :func:`intermodulation`.
- Gaussian signals, exact: :func:`gaussian_dc`, :func:`gaussian_gain`,
  :func:`gaussian_autocorrelation`, :func:`gaussian_spectrum`.
"""

from spectroscope.dsp.theory.gaussian import gaussian_autocorrelation as gaussian_autocorrelation
from spectroscope.dsp.theory.gaussian import gaussian_dc as gaussian_dc
from spectroscope.dsp.theory.gaussian import gaussian_gain as gaussian_gain
from spectroscope.dsp.theory.gaussian import gaussian_spectrum as gaussian_spectrum
from spectroscope.dsp.theory.series import ApproximationError as ApproximationError
from spectroscope.dsp.theory.series import approximation_error as approximation_error
from spectroscope.dsp.theory.series import relu_chebyshev as relu_chebyshev
from spectroscope.dsp.theory.series import relu_series as relu_series
from spectroscope.dsp.theory.series import relu_series_phasors as relu_series_phasors
from spectroscope.dsp.theory.series import relu_series_terms as relu_series_terms
from spectroscope.dsp.theory.series import series_coefficients as series_coefficients
from spectroscope.dsp.theory.tones import cosine_harmonics as cosine_harmonics
from spectroscope.dsp.theory.tones import intermodulation as intermodulation
from spectroscope.dsp.theory.tones import tones_dc as tones_dc
