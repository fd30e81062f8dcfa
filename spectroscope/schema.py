"""Unit and definition of every column of every table, and of every metric."""

from collections.abc import Iterable
from typing import NamedTuple


class Column(NamedTuple):
    """Unit and definition of a column."""

    unit: str
    definition: str


# Words for the values of the column `side`, in every plot and on the page.
SIDES = {"in": "activation input", "out": "activation output"}

# `above_next_nyquist` of a layer above which plots and findings name it.
ALIASED = 0.05

# The unit "activation" is that of the tensor at the site, whatever it is in the network.
COLUMNS = {
    "site": Column("", "one activation call: module#call or module/function#call"),
    "place": Column("", "the site without its call number: module or module/function"),
    "module": Column(
        "",
        "qualified name of the activation module, or of the module that called the function",
    ),
    "function": Column("", "the function called; empty if the module is the activation"),
    "call": Column("", "number of the call of the module within one forward of the model, from 0"),
    "kind": Column("", "kind of activation: ReLU, ReLU6, Hardtanh, …"),
    "channel": Column("", "channel of the activation, from 0"),
    "source": Column(
        "",
        "convolution or linear layer whose outputs the channels are, through elementwise functions "
        "and pooling; + where outputs are added, “from” the first channel where concatenated; NA: "
        "unknown",
    ),
    "filter": Column("", "index of the channel among the outputs of `source`"),
    "channels": Column("", "number of channels"),
    "channel_axis": Column("", "channel axis of the activation in the model"),
    "shape": Column(
        "", "shape of one input's activation, (C, ...); None along axes where inputs differ"
    ),
    "fs": Column(
        "Hz",
        "sampling rate at the site: fs / decimation (samples of the site per sample of the model's"
        " input if fs was not given)",
    ),
    "nyquist": Column("Hz", "fs / 2 (cycles/sample of the model's input if fs was not given)"),
    "decimation": Column(
        "1",
        "samples of the model's input per sample of the site, along each axis of time or space; "
        "NaN where unknown or different between axes or inputs, or without such an axis",
    ),
    "n_samples": Column("1", "number of inputs (batch items) recorded"),
    "dc_in": Column(
        "activation",
        "mean over inputs of each input's own DC, its mean over time or space, before the "
        "activation. Inputs count alike, whatever their length",
    ),
    "dc_out": Column(
        "activation",
        "mean over inputs of each input's own DC, its mean over time or space, after the "
        "activation. Inputs count alike, whatever their length",
    ),
    "dc_out_std": Column(
        "activation",
        "standard deviation over inputs (of the population) of each input's own output DC: "
        "the variation that can carry information",
    ),
    "ac_rms_in": Column("activation", "RMS of the activation's input minus each input's own DC"),
    "ac_rms_out": Column("activation", "RMS of the activation's output minus each input's own DC"),
    "active_fraction": Column("1", "fraction of output values > 0"),
    "dc_fraction": Column(
        "1",
        "DC power over total power of the output: mean squared DC over mean square; NaN where"
        " the output is all zero",
    ),
    "dc_gaussian": Column(
        "activation",
        "output DC for a Gaussian input with the measured mean μ and standard deviation σ: "
        "σφ(μ/σ) + μΦ(μ/σ) for ReLU; for ReLU6 minus the same at μ − 6; NaN for other kinds",
    ),
    "dc_gaussian_residual": Column(
        "activation", "mean of all output values, minus dc_gaussian, which is of all input values"
    ),
    "dc_tone": Column(
        "activation",
        "output DC if each input were its own DC μ plus its fundamental of amplitude A: mean of "
        "(μθ + A·sin θ)/π, θ = arccos(−μ/A); NaN without f0, and for kinds other than ReLU",
    ),
    "dc_tone_residual": Column(
        "activation", "output DC of the inputs that dc_tone averages, minus dc_tone"
    ),
    "assumption": Column(
        "",
        "assumption about the input. gaussian: Gaussian with the measured mean and standard "
        "deviation (theory.gaussian_dc). tone: each input is its DC plus its fundamental "
        "(theory.cosine_harmonics). tones: bins with more than 1 % of the AC power are tones of "
        "independent phase, the other bins noise (theory.tones_dc). series: the leading term of "
        "the paper's series, ½μ + ½√A with A = ½(|μ| + Σ amplitudes)², over all bins",
    ),
    "dc_predicted": Column("activation", "output DC predicted under the assumption"),
    "dc_residual": Column("activation", "dc_out − dc_predicted"),
    "preserved_fraction": Column(
        "1",
        "fraction of the output's AC power that is a scaled copy of the input: of the output y = "
        "gain·x + (y − gain·x), with regression_gain, the power of gain·x over that of y, both "
        "without each input's own DC, as in ac_rms. In [0, 1]. Of a channel over all its values, "
        "of a site over those of all channels, as are dc_fraction, introduced_fraction and "
        "above_next_nyquist. NaN where the output has no AC, as where an input has one value",
    ),
    "introduced_fraction": Column(
        "1",
        "fraction of the output's AC power that is not: the power of y − gain·x over that of y. "
        "1 − preserved_fraction",
    ),
    "introduced_in_band_fraction": Column(
        "1",
        "part of introduced_fraction at frequencies up to band_edge. With a window other than the "
        "boxcar, or with spectra_every, this and the next column are estimates, and need not add "
        "up to introduced_fraction",
    ),
    "introduced_above_band_fraction": Column("1", "part of introduced_fraction above band_edge"),
    "half_x_ratio": Column(
        "1",
        "of ReLU(x) = ½x + ½|x|, power of ½x over the output's power, both with DC; may exceed 1, "
        "because the halves cancel where x < 0. NaN for other kinds",
    ),
    "half_abs_ratio": Column(
        "1",
        "of ReLU(x) = ½x + ½|x|, power of ½|x| over the output's power, both with DC; may exceed "
        "1. NaN for other kinds",
    ),
    "regression_gain": Column(
        "1",
        "covariance of output and input over the input's variance, both about each input's own DC "
        "(Bussgang gain); Φ(μ/σ) for a ReLU of Gaussian input",
    ),
    "band_edge": Column("see freq_unit", "frequency up to which 99 % of the input's AC power lies"),
    "downsampling": Column(
        "",
        "next function that lowers the sampling rate after the site: module/function; of several "
        "the one with the fewest activations between, then the first to run",
    ),
    "factor": Column(
        "1",
        "decimation factor relative to the site; infinite for a mean over all of time or space; "
        "NaN where it differs between the two axes",
    ),
    "activations_between": Column(
        "1", "number of other activations between the site and the downsampling"
    ),
    "global_pooling": Column(
        "",
        "whether the downsampling is a mean over all of time or space: it leaves the DC, and "
        "nothing folds",
    ),
    "next_nyquist": Column(
        "see freq_unit",
        "Nyquist frequency after the downsampling. For images it holds for either axis: power is "
        "above it if its frequency along the height or the width is",
    ),
    "power_above": Column(
        "activation²",
        "output power above next_nyquist, which the downsampling removes or folds: the sum of "
        "power's bins over the window's equivalent noise bandwidth",
    ),
    "peak_freq": Column(
        "see freq_unit",
        "frequency above next_nyquist with the greatest output power; for images the larger of "
        "its two components",
    ),
    "folds_to": Column(
        "see freq_unit",
        "frequency at which peak_freq appears if a pooling, strided convolution or slicing passes "
        "it; NaN for global pooling and other functions",
    ),
    "above_next_nyquist": Column(
        "1",
        "fraction of the output power above the Nyquist frequency of the next downsampling; NaN"
        " where none follows",
    ),
    "folded_fraction": Column(
        "1",
        "fraction of the output power that appears at other frequencies after the downsampling: "
        "the power above next_nyquist, times the squared frequency response of what is sampled. "
        "Average pooling of k values: sin(πkf)/(k·sin(πf)), f in cycles per sample of the site. "
        "A stride alone: 1. Global pooling: 0. NaN where the response isn't known: of max pooling "
        "and strided convolution, of images before average pooling, and where another function "
        "comes between",
    ),
    "feeds_global_pooling": Column(
        "",
        "whether, by construction, only the DC of the output goes on: each path from it ends in a "
        "mean over all of time or space, with nothing but scaling and mixing of channels before; "
        "NA if unknown",
    ),
    "dead_fraction": Column("1", "fraction of the channels whose output was never > 0"),
    "always_on_fraction": Column(
        "1",
        "fraction of the channels whose output was > 0 at every value: a ReLU passed everything",
    ),
    "nonfinite": Column(
        "1",
        "number of input values that are NaN or ±Inf. DC, AC and active_fraction of a side exclude "
        "these values alone; what is of both sides or of frequencies (preserved, introduced, "
        "spectra, harmonics) excludes an input from a channel in which any of its values isn't "
        "finite. NaN in a table: no value is left",
    ),
    "nonfinite_out": Column(
        "1", "number of output values that are NaN or ±Inf, excluded as in nonfinite"
    ),
    "side": Column("", "in or out: input or output of the activation"),
    "freq": Column(
        "see freq_unit",
        "frequency of the bin; for images of the radial bin, which has all components whose "
        "√(fy² + fx²) is nearest to this multiple of 1/max(H, W) cycles per pixel of the site; for "
        "harmonics of the harmonic, folded (mean over the inputs)",
    ),
    "freq_y": Column(
        "see freq_unit",
        "frequency along the height, from −½ to below ½ of the site's sampling rate",
    ),
    "freq_x": Column(
        "see freq_unit",
        "frequency along the width, ≥ 0: a component also counts for its conjugate",
    ),
    "freq_unit": Column(
        "",
        "Hz if fs was given; otherwise cycles/sample (cycles/pixel for images) "
        "of the model's input, or of the site where its decimation is unknown",
    ),
    "power": Column(
        "activation²",
        "one-sided power spectrum (scipy.signal.periodogram, scaling='spectrum'), averaged over "
        "the inputs, each counted once: a tone A·cos reads A²/2, the DC bin the mean squared DC. "
        "With the boxcar window the bins add up to the mean square. With another the bins other "
        "than DC add up to the AC power times the window's equivalent noise bandwidth in bins, on "
        "average over phases; this, preserved and introduced are not divided by it, while "
        "power_above and all fractions are. For images summed over each radial bin",
    ),
    "power_db": Column(
        "dB re 1 activation²",
        "output power in one cell of the spectrogram's frequencies, mean over channels: bins of "
        "power, divided by the window's equivalent noise bandwidth, each spread evenly over its "
        "width and summed in cells of equal width, around freq; −∞ where there is none",
    ),
    "dc_db": Column("dB re 1 activation²", "mean squared DC of the output, mean over channels"),
    "total_db": Column(
        "dB re 1 activation²", "mean square of the output, DC and AC, mean over channels"
    ),
    "density": Column(
        "activation² per freq_unit",
        "power per frequency (scaling='density'); for images per freq_unit², averaged over each "
        "radial bin",
    ),
    "amplitude": Column(
        "activation",
        "amplitude of the cosine with this power, √(2·power); √power at DC and Nyquist",
    ),
    "cross_real": Column(
        "activation²",
        "real part of the cross-spectrum, mean of conj(X)·Y, one-sided and scaled as power",
    ),
    "cross_imag": Column(
        "activation²", "imaginary part of the cross-spectrum; 0 in the radial bins of images"
    ),
    "coherence": Column(
        "1",
        "magnitude-squared coherence, |cross|²/(power in · power out). Biased towards 1 by 1/n for "
        "an average of n spectra: of n_inputs, times the frames of each; for images times the "
        "number of components in the ring. NaN where n is 1",
    ),
    "preserved": Column(
        "activation²", "power of gain·x at this frequency, gain = regression_gain: gain²·power in"
    ),
    "introduced": Column(
        "activation²",
        "power of y − gain·x at this frequency: power out − 2·gain·cross_real + gain²·power in",
    ),
    "harmonic": Column("", "order k of the harmonic; 1 is the fundamental"),
    "folded": Column(
        "",
        "whether k·f0 lies above the site's Nyquist frequency, and appears at freq",
    ),
    "n_inputs": Column(
        "1",
        "number of inputs averaged in this row (of harmonics, in amplitude_in and _out; of "
        "predictions, in dc_predicted: fewer than in dc_out after spectra_every or without an f0)",
    ),
    "amplitude_in": Column(
        "activation",
        "amplitude of the input's component at freq, fitted by least squares together with the DC "
        "and all harmonics (of those less than 1/T apart the lowest order), RMS over inputs: those "
        "in which it lies 1/T "
        "or more from DC, its own mirror image and every other of the K harmonics, folded or not; "
        "NaN where there are none",
    ),
    "amplitude_out": Column(
        "activation", "amplitude of the output's component at freq, RMS over the same inputs"
    ),
    "n_inputs_noise": Column(
        "1",
        "number of inputs in noise_floor and debiased: those of n_inputs with a frequency half-way "
        "to the next harmonic that is apart from all harmonics",
    ),
    "noise_floor_in": Column(
        "activation",
        "amplitude that noise alone has at freq in the input, RMS over inputs, estimated half-way "
        "to the harmonics below and above: √(4σ²/T) for white noise of variance σ². More inputs "
        "don't lower it",
    ),
    "noise_floor_out": Column("activation", "the same as noise_floor_in, in the output"),
    "debiased_in": Column(
        "activation",
        "amplitude_in without noise: √(mean squared amplitude − noise_floor_in²), of the inputs of "
        "n_inputs_noise; 0 where the noise is greater",
    ),
    "debiased_out": Column(
        "activation",
        "amplitude_out without noise, as debiased_in",
    ),
    "n_inputs_thd": Column(
        "1",
        "number of inputs in thd: those in which all harmonics 1 … K can be measured, and the "
        "fundamental isn't folded",
    ),
    "thd_in": Column(
        "1",
        "total harmonic distortion of the input: RMS of the harmonics 2 … K over the "
        "fundamental's, in the inputs of n_inputs_thd; noise included",
    ),
    "thd_out": Column("1", "total harmonic distortion of the output, as thd_in"),
    "n_inputs_sinad": Column(
        "1",
        "number of inputs in sinad: those whose fundamental can be measured and isn't folded",
    ),
    "sinad_in": Column(
        "dB",
        "power of the input's fundamental over the power of everything else but DC, in the inputs "
        "of n_inputs_sinad",
    ),
    "sinad_out": Column(
        "dB",
        "power of the output's fundamental over the power of everything else but DC, as sinad_in",
    ),
    "f0_confidence": Column(
        "1",
        "of f0='auto': mean over the inputs of n_inputs_sinad of a lower bound of the probability "
        "that noise, white or white in the range that was searched, has no component as strong; "
        "NaN if f0 was given",
    ),
    "input": Column("", "number of the example input, from 0, in the order of recording"),
    "position": Column(
        "see position_unit",
        "time of the value from the beginning of the line. Of a line of more points than are kept, "
        "the times of the smallest and the largest input value in equal parts",
    ),
    "row": Column(
        "see position_unit",
        "height of the value in the image, from the top: the centre of the area that the value is "
        "the mean of",
    ),
    "column": Column("see position_unit", "width of the value in the image, from the left, as row"),
    "position_unit": Column(
        "",
        "s if fs was given; otherwise samples (pixels) of the model's input, or "
        "of the site where its decimation is unknown",
    ),
    "value": Column("activation", "value of that side there; of an image the mean over an area"),
    "dc": Column("activation", "mean of that side over the whole line or image of the channel"),
    "node": Column(
        "",
        "a step of the network: of an activation the site, of others place@call, the call from 0; "
        "input:, output: and unknown: with a name or number",
    ),
    "operation": Column(
        "",
        "what a node is: input, convolution, linear, embedding, recurrent, attention, activation "
        "(those that kinds and select choose), pooling (also a mean over time or space), resampling"
        " (another change of the sampling rate), join (a function of tensors from different nodes: "
        "sum, product, concatenation), module (one whose inside isn't observed), output, or unknown"
        " (a tensor of unknown origin, as from NumPy)",
    ),
    "inputs": Column(
        "",
        "the nodes before; between them and this one tensors went through nothing "
        "but functions of one tensor",
    ),
    "aliasing_from": Column(
        "", "of a downsampling: the site directly before it with the largest above_next_nyquist"
    ),
    "above_nyquist": Column(
        "1",
        "above_next_nyquist of aliasing_from: fraction of its power above the Nyquist frequency "
        "after this node. NaN where no activation is directly before",
    ),
    "status": Column(
        "",
        "fired, never fired, incomplete (something isn't recorded: see reason), cannot be seen, or "
        "not asked for (kinds= records it)",
    ),
    "selected": Column("", "whether the recorder was asked to record it"),
    "fired": Column("1", "number of calls observed"),
    "reason": Column("", "why it cannot be seen, or is not recorded in full"),
    "remark": Column("", "what was assumed of it where that isn't known; nothing is missing"),
}

# The columns of `Report.dc()` and `Report.sites()` that come first, and that `print(report)` shows.
HEADLINE = ["site", "source", "shape", "channel", "dc_out", "dc_out_std", "dc_fraction",
            "active_fraction", "dead_fraction"]  # fmt: skip


def headline(columns: Iterable[str]) -> list[str]:
    """Those of `columns` that come first, in their order."""
    present = set(columns)
    return [name for name in HEADLINE if name in present]


# Columns of `Comparison`'s tables, beside those above with the suffixes `_a`, `_b` and `_change`.
COMPARISON_COLUMNS = {
    "effect_size": Column(
        "1",
        "dc_out_change over √((dc_out_std_a² + dc_out_std_b²)/2), the spread between inputs: "
        "Cohen's d, with population standard deviations; infinite where a DC that did not vary "
        "changed; NaN with fewer than 2 inputs",
    ),
    "welch_t": Column(
        "1",
        "dc_out_change over its standard error for independent inputs (Welch's t). If A and B have "
        "the same inputs, spectroscope.paired_t of each input's DC is the test",
    ),
    "effect_rms": Column("1", "root mean square of effect_size over the channels"),
    "effect_max": Column("1", "the effect_size of largest magnitude"),
    "channel_max": Column("", "channel of effect_max"),
    "died": Column("1", "number of channels whose output was > 0 somewhere in A and never in B"),
    "revived": Column(
        "1", "number of channels whose output was never > 0 in A and is somewhere in B"
    ),
    "why": Column("", "why the site cannot be compared"),
}

# Columns of `importance`, beside `site` … `kind` and `n_samples`.
IMPORTANCE_COLUMNS = {
    "operation": Column("", "what was changed in the activation's output"),
    "metric": Column("", "what baseline and value are"),
    "unit": Column("", "unit of the metric; empty: unknown"),
    "baseline": Column("see unit", "metric of the unchanged model"),
    "value": Column("see unit", "metric with this site changed"),
    "change": Column("see unit", "value − baseline"),
    "change_low": Column(
        "see unit",
        "lower end of the 95 % confidence interval of change over inputs, from the paired scores "
        "of each input; NaN where interval begins with unknown",
    ),
    "change_high": Column("see unit", "upper end of it"),
    "interval": Column(
        "",
        "how the interval was computed: by studentized bootstrap, of blocks of consecutive inputs "
        "if neighbours depend on each other; or why it is unknown",
    ),
    "by_construction": Column(
        "",
        "why nothing but the DC is read after the site, whatever the model has learned: one value "
        "per channel, or only the mean is read (feeds_global_pooling). Then only_dc changes "
        "nothing and remove_dc leaves nothing. Empty: more is read, or the operation is another; "
        "NA: unknown",
    ),
}

# Metrics of `importance`.
METRICS = {
    "mae": Column("the targets' unit", "mean absolute error"),
    "rmse": Column("the targets' unit", "root mean squared error"),
    "accuracy": Column("1", "fraction of the inputs whose largest output is the target's"),
    "agreement": Column(
        "1", "fraction of the inputs whose largest output is also that of the unchanged model"
    ),
    "kl": Column(
        "nats",
        "Kullback-Leibler divergence of the softmax of the outputs from that of the unchanged "
        "model's outputs",
    ),
    "relative_l2": Column(
        "1", "‖output − unchanged output‖ / ‖unchanged output‖, mean over the inputs"
    ),
}


def markdown() -> str:
    """The data dictionary: the text of docs/definitions.md."""
    source = "Generated from spectroscope/schema.py, as are `Report.describe()` and the HTML page."
    lines = ["# Columns", "", source]
    tables = {
        "Report": COLUMNS,
        "Comparison": COMPARISON_COLUMNS,
        "importance": IMPORTANCE_COLUMNS,
    }
    for title, columns in tables.items():
        lines += ["", f"## {title}", "", "| column | unit | definition |", "|---|---|---|"]
        for name, (unit, definition) in columns.items():
            text = definition.replace("|", "\\|")
            lines.append(f"| `{name}` | {unit} | {text} |")
    return "\n".join(lines) + "\n"
