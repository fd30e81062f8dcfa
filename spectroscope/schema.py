"""Unit and definition of every column of every table: the one place where they are written."""

from typing import NamedTuple


class Column(NamedTuple):
    """Unit and definition of a column."""

    unit: str
    definition: str


# "activation" is the unit of the tensor at the site, whatever that is in this network.
COLUMNS = {
    "site": Column("", "one activation call: module#call or module/function#call"),
    "place": Column("", "the site without its call: module or module/function"),
    "module": Column(
        "",
        "qualified name of the activation module, or of the module that called the function",
    ),
    "function": Column("", "the function called; empty if the module is the activation"),
    "call": Column("", "which call of the module in one forward of the model, from 0"),
    "kind": Column("", "kind of activation: ReLU, ReLU6, Hardtanh, …"),
    "channel": Column("", "channel of the activation, from 0"),
    "channels": Column("", "number of channels"),
    "channel_axis": Column("", "axis of the channels in the activation as the model has it"),
    "shape": Column("", "of one input's activation, (C, ...); None where inputs differ"),
    "fs": Column(
        "Hz",
        "sampling rate at the site: fs over decimation (samples of the site per sample of the"
        " model's input if fs isn't given)",
    ),
    "nyquist": Column("Hz", "fs / 2 (cycles/sample of the model's input if fs isn't given)"),
    "decimation": Column(
        "1",
        "samples of the model's input to one of the site's, on each axis of time or space; "
        "NaN where unknown, or there is none",
    ),
    "n_samples": Column("1", "inputs (batch items) seen"),
    "dc_in": Column("activation", "mean of the activation's input, over time or space and inputs"),
    "dc_out": Column("activation", "mean of its output, likewise"),
    "dc_out_std": Column(
        "activation",
        "standard deviation over inputs (of the population) of each input's own output DC: "
        "what can carry information",
    ),
    "ac_rms_in": Column("activation", "RMS of the activation's input less each input's own DC"),
    "ac_rms_out": Column("activation", "RMS of its output less each input's own DC"),
    "active_fraction": Column("1", "fraction of output values > 0"),
    "dc_fraction": Column(
        "1",
        "DC power over total power of the output: mean squared DC over mean square; NaN where"
        " the output is all zero",
    ),
    "dc_gaussian": Column(
        "activation",
        "output DC, were the input Gaussian with the mean and standard deviation measured: "
        "σφ(μ/σ) + μΦ(μ/σ); NaN for other kinds than ReLU and ReLU6",
    ),
    "dc_gaussian_residual": Column("activation", "dc_out − dc_gaussian"),
    "dc_tone": Column(
        "activation",
        "output DC, were each input its own DC and fundamental alone: mean of (μθ + A·sin "
        "θ)/π, θ = arccos(−μ/A); NaN without f0, and for other kinds than ReLU",
    ),
    "dc_tone_residual": Column("activation", "output DC of the same inputs − dc_tone"),
    "assumption": Column(
        "",
        "what is assumed of the input. gaussian: that it is, with the mean and standard deviation "
        "measured (theory.gaussian_dc). tone: each input its DC and fundamental alone (cosine_"
        "harmonics). tones: its bins with 1 % of the AC power or more are tones of independent "
        "phase, and the rest noise (tones_dc). series: the leading term of the paper's series, "
        "½μ + ½√A, A = ½(|μ| + Σ amplitudes)², over all bins",
    ),
    "dc_predicted": Column("activation", "output DC under the assumption"),
    "dc_residual": Column("activation", "dc_out − dc_predicted"),
    "preserved_fraction": Column(
        "1",
        "power of gain·x over the output's, DC included; x is the activation's input. Of a site: "
        "of all its channels together, as introduced_fraction and above_next_nyquist",
    ),
    "introduced_fraction": Column(
        "1",
        "power of the rest, y − gain·x, over the output's. For ReLU, ½x and ½|x|, as much as "
        "is preserved; the two overlap, and add up to 1 only where x·|x| has mean 0",
    ),
    "introduced_dc_fraction": Column(
        "1",
        "part of introduced_fraction that is DC: squared DC of the rest of each input (of each "
        "frame of video). With a window these three parts are estimates, and needn't add up to it",
    ),
    "introduced_in_band_fraction": Column("1", "part of it at other frequencies up to band_edge"),
    "introduced_above_band_fraction": Column("1", "part of it above band_edge"),
    "split": Column("", "half: gain is ½, as of ReLU; regression: gain is regression_gain"),
    "gain": Column("1", "what x is multiplied by to be called preserved"),
    "regression_gain": Column(
        "1",
        "covariance of output and input over the input's variance, over all values "
        "(Bussgang's gain); Φ(μ/σ) for a ReLU of Gaussian input",
    ),
    "band_edge": Column("see freq_unit", "frequency up to which 99 % of the input's AC power lies"),
    "downsampling": Column(
        "",
        "what lowers the sampling rate next after the site: module/function; of several the one "
        "with the fewest activations between, then the first that runs",
    ),
    "factor": Column(
        "1",
        "by how much, against the rate at the site; infinite: a mean over all; NaN: not the same "
        "along both axes",
    ),
    "activations_between": Column("1", "other activations that the signal goes through before"),
    "global_pooling": Column(
        "", "whether it leaves one value of all of time or space: the DC, and nothing folds"
    ),
    "next_nyquist": Column(
        "see freq_unit",
        "Nyquist frequency after that; of images along either axis, like those that follow: above "
        "it is what is so along the height or the width",
    ),
    "power_above": Column("activation²", "the output's power above it: to be removed, or folded"),
    "peak_freq": Column(
        "see freq_unit",
        "frequency above it with the greatest power; of images the larger of the two",
    ),
    "folds_to": Column(
        "see freq_unit",
        "where that appears if the pooling or strided convolution lets it through; NaN for what "
        "else lowers the rate",
    ),
    "above_next_nyquist": Column(
        "1",
        "part of the output's power above the Nyquist frequency of the next downsampling that"
        " it meets; NaN where it meets none",
    ),
    "feeds_global_pooling": Column(
        "",
        "whether global pooling is what comes next, with no other activation between: then of the "
        "output the DC alone goes on, by construction",
    ),
    "dead_fraction": Column("1", "fraction of the channels whose output was never > 0"),
    "always_on_fraction": Column(
        "1",
        "fraction of the channels whose output was > 0 at every value: a ReLU let all of it pass",
    ),
    "nonfinite": Column("1", "input values that are NaN or ±Inf, kept out of all the others"),
    "nonfinite_out": Column("1", "output values that are NaN or ±Inf, likewise"),
    "side": Column("", "in or out of the activation"),
    "freq": Column(
        "see freq_unit",
        "frequency: of the bin; of a ring of equal √(fy² + fx²) in images; of a harmonic, "
        "folded (mean over the inputs)",
    ),
    "freq_y": Column(
        "see freq_unit",
        "frequency along the height; its negative is the same up to half",
    ),
    "freq_x": Column(
        "see freq_unit",
        "frequency along the width, ≥ 0: a component counts for its conjugate too",
    ),
    "freq_unit": Column(
        "",
        "Hz if fs was given; else cycles/sample, or cycles/pixel of images, of the model's "
        "input, or of the site where its decimation isn't known",
    ),
    "power": Column(
        "activation²",
        "one-sided power spectrum, averaged over inputs: a tone A·cos reads A²/2, the DC bin "
        "mean squared DC; their sum is the mean square (scipy.signal.periodogram, "
        "scaling='spectrum'). Of images summed over the ring",
    ),
    "density": Column(
        "activation² per freq_unit",
        "power per frequency (scaling='density'); of images per freq_unit², the mean over the ring",
    ),
    "amplitude": Column(
        "activation",
        "of the cosine that has this power, √(2·power); at DC and Nyquist √power",
    ),
    "cross_real": Column(
        "activation²",
        "real part of the cross-spectrum, mean of conj(X)·Y, one-sided and scaled as power",
    ),
    "cross_imag": Column("activation²", "imaginary part of it; 0 over rings"),
    "coherence": Column(
        "1",
        "magnitude-squared: |cross|²/(power in · power out), biased by 1/n_inputs",
    ),
    "preserved": Column("activation²", "power of gain·x at this frequency: gain²·power in"),
    "introduced": Column(
        "activation²",
        "power of y − gain·x: power out − 2·gain·cross_real + gain²·power in",
    ),
    "harmonic": Column("", "1 is the fundamental"),
    "folded": Column(
        "",
        "whether k·f0 is above the site's Nyquist frequency, and freq where it appears",
    ),
    "n_inputs": Column("1", "inputs that the figure is of"),
    "amplitude_in": Column(
        "activation",
        "of the input's component at freq, RMS over inputs; NaN where it can't be told from "
        "another harmonic, DC or its own image",
    ),
    "amplitude_out": Column("activation", "of the output's, likewise"),
    "thd_in": Column(
        "1",
        "total harmonic distortion of the input: RMS of the harmonics 2 … K over the fundamental",
    ),
    "thd_out": Column("1", "of the output, likewise"),
    "sinad_in": Column("dB", "power of the input's fundamental over that of all else but DC"),
    "sinad_out": Column("dB", "of the output, likewise"),
    "status": Column(
        "",
        "fired, never fired, incomplete (something isn't recorded: see reason) or cannot be seen",
    ),
    "selected": Column("", "whether the recorder was asked to record it"),
    "fired": Column("1", "calls seen"),
    "reason": Column("", "why it can't be seen, or isn't recorded in full"),
}

# Of `Comparison`'s tables, beside those above with `_a`, `_b` and `_change` at their ends.
OF_COMPARISONS = {
    "effect_size": Column(
        "1",
        "dc_out_change in units of √((dc_out_std_a² + dc_out_std_b²)/2), the inputs' own spread: "
        "Cohen's d, of population standard deviations; infinite where DC that didn't vary changed; "
        "NaN of fewer than 2 inputs",
    ),
    "welch_t": Column(
        "1",
        "dc_out_change over its standard error, were all inputs independent (Welch's t); of the "
        "same inputs in A and B it is too small rather than too large",
    ),
    "effect_rms": Column("1", "root mean square of effect_size over the channels"),
    "effect_max": Column("1", "the effect_size of the largest magnitude"),
    "channel_max": Column("", "the channel that has it"),
    "died": Column("1", "channels whose output was > 0 somewhere in A and never in B"),
    "revived": Column("1", "channels whose output was never > 0 in A and is somewhere in B"),
    "why": Column("", "why the site can't be compared"),
}

# Metrics of `importance`.
METRICS = {
    "mae": Column("the targets' unit", "mean absolute error"),
    "rmse": Column("the targets' unit", "root of the mean squared error"),
    "accuracy": Column("1", "fraction of the inputs whose largest output is the target's"),
    "agreement": Column(
        "1", "fraction of the inputs whose largest output is that of the unchanged model"
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
    """The data dictionary as it stands in docs/definitions.md."""
    lines = ["# Columns", "", "Written from the code, as `Report.describe()` and the page are."]
    tables = {"Of a report": COLUMNS, "Of a comparison": OF_COMPARISONS}
    for title, columns in tables.items():
        lines += ["", f"## {title}", "", "| column | unit | definition |", "|---|---|---|"]
        for name, (unit, definition) in columns.items():
            text = definition.replace("|", "\\|")
            lines.append(f"| `{name}` | {unit} | {text} |")
    return "\n".join(lines) + "\n"
