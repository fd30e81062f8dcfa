"""A report as one self-contained HTML page: no network, no server, no second file.

The page is made from frames: `render_report`, `render_comparison` and `summary` take the tables
that `Report` and `Comparison` return, and neither class is imported.
"""

import base64
import hashlib
import json
import math
import os
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np
from markupsafe import Markup

from spectroscope.errors import RequestError
from spectroscope.io import output_folder
from spectroscope.schema import headline

if TYPE_CHECKING:
    import pandas as pd

    from spectroscope.page.payload import FrameOf

_FOLDER = Path(__file__).parent


def render_report(
    *,
    title: str | None = None,
    about: Mapping[str, str],
    sites: "pd.DataFrame",
    dc: "pd.DataFrame",
    coverage: "pd.DataFrame",
    describe: "pd.DataFrame",
    aliasing: "pd.DataFrame | None",
    harmonics: "pd.DataFrame | None",
    predictions: "pd.DataFrame | None",
    spectrogram: "pd.DataFrame | None",
    network: "pd.DataFrame",
    spectra: "FrameOf",
    examples: "FrameOf",
) -> str:
    """HTML of a report.

    Args:
        title: heading of the page; None: the specimen's name, or the model's.
        about: `Report.about`.
        sites: `Report.sites()`.
        dc: `Report.dc()`. Columns unknown to :mod:`spectroscope.schema` are the last ones of a
            layer's table of channels.
        coverage: `Report.coverage()`.
        describe: `Report.describe()`.
        aliasing: `Report.aliasing()`; None if no downsampling or no spectra were recorded.
        harmonics: `Report.harmonics()`; None if none were recorded.
        predictions: `Report.predictions()`; None if there are none.
        spectrogram: `Report.spectrogram()`; None if nothing was recorded.
        network: `Report.network()`; without rows the page says why it has no map.
        spectra: called with the name of a site; returns `Report.spectra()` of that site, or None.
            One site at a time, because spectra of all sites may not fit into memory.
        examples: likewise of `Report.examples()`.
    """
    from spectroscope.page import findings, overview, payload, templates
    from spectroscope.page import network as maps
    from spectroscope.page.coverage import summarize_coverage

    sections = {"findings": "Findings", "about": "Run details", "coverage": "Coverage"}
    drawn, caption, has_spectra = dict(templates.templates()), "", False
    if not sites.empty and spectrogram is not None:
        sections = {"findings": "Findings", "layers": "Layers", **sections}
        frame, panels = payload.cells(spectrogram), payload.panels(sites)
        drawn |= overview.overview(frame, overview.POWER, panels)
        caption, has_spectra = overview.caption(frame), bool(frame["freq"].notna().any())
    data: dict[str, Any] = {"figures": drawn}
    if not sites.empty and not network.empty:
        sections = {"network": "Map", **sections}
        drawn["network"] = maps.figure_of(network, sites)
        data["network"] = maps.embedded(network, sites)
    return render(
        "page.html",
        title=title or _subject(about),
        sections=[*sections.items(), ("definitions", "Definitions")],
        about={key: about[key] for key in sorted(about, key=_rank)},
        totals={
            "layers": len(sites),
            "channels": len(dc),
            "inputs": 0 if sites.empty else int(sites["n_samples"].max()),
        },
        caption=caption,
        has_spectra=has_spectra,
        network=maps.table(network),
        legend=maps.legend(network, sites),
        coverage=summarize_coverage(coverage),
        findings=findings.findings(sites, dc, aliasing),
        sites=payload.site_table(sites),
        numbers={site: number for number, site in enumerate(sites["site"])},
        definitions=definitions(describe),
        data={
            **data,
            **payload.embedded(
                sites,
                dc,
                spectra=spectra,
                examples=examples,
                aliasing=aliasing,
                harmonics=harmonics,
                predictions=predictions,
            ),
        },
    )


def render_comparison(
    *,
    title: str | None = None,
    about: tuple[Mapping[str, str], Mapping[str, str]],
    sites: "pd.DataFrame",
    channels: "pd.DataFrame",
    unmatched: "pd.DataFrame",
    describe: "pd.DataFrame",
    spectrograms: "tuple[pd.DataFrame, pd.DataFrame] | None",
    spectra: "tuple[FrameOf, FrameOf]",
) -> str:
    """HTML of the changes between two reports.

    Args:
        title: heading of the page; None: made of the names of both.
        about: `Report.about` of A and of B.
        sites: `Comparison.sites()`.
        channels: `Comparison.channels()`.
        unmatched: `Comparison.unmatched()`.
        describe: `Comparison.describe()`.
        spectrograms: `Report.spectrogram()` of A and of B; None if either recorded nothing.
        spectra: of A and of B, as of `render_report`.
    """
    from spectroscope.page import comparison, overview, templates

    sections = {"findings": "Findings", "about": "Reports compared", "coverage": "Matching"}
    drawn, caption, has_spectra = dict(templates.templates("A", "B")), "", False
    if not sites.empty and spectrograms is not None:
        sections = {"findings": "Findings", "layers": "Layers", **sections}
        frame, panels = comparison.cells(sites, spectrograms), comparison.panels(sites)
        drawn |= overview.overview(frame, overview.change_scale(frame), panels)
        caption, has_spectra = overview.caption(frame), bool(frame["freq"].notna().any())
    return render(
        "comparison.html",
        title=title or f"Changes in {' and '.join(dict.fromkeys(map(_subject, about)))}",
        sections=[*sections.items(), ("definitions", "Definitions")],
        about=[
            (key, *(entries.get(key, "—") for entries in about))
            for key in sorted({**about[0], **about[1]}, key=_rank)
        ],
        matched=len(sites),
        unmatched=unmatched,
        caption=caption,
        has_spectra=has_spectra,
        findings=comparison.findings(sites, channels),
        sites=comparison.site_table(sites),
        numbers={site: number for number, site in enumerate(sites["site"])},
        definitions=definitions(describe),
        data={"figures": drawn, **comparison.embedded(sites, channels, spectra)},
    )


def summary(*, about: Mapping[str, str], sites: "pd.DataFrame", coverage: "pd.DataFrame") -> str:
    """A few lines of HTML for notebooks: totals and the first layers.

    Args:
        about: `Report.about`.
        sites: `Report.sites()`.
        coverage: `Report.coverage()`.
    """
    from spectroscope.page import payload
    from spectroscope.page.coverage import summarize_coverage

    template = _environment().get_template("summary.html")
    return template.render(
        name=_subject(about),
        channels=int(sites["channels"].sum()),
        inputs=0 if sites.empty else int(sites["n_samples"].max()),
        coverage=summarize_coverage(coverage),
        sites=sites[headline(sites.columns)].head(payload.SUMMARY_ROWS),
        total=len(sites),
    )


def render(template: str, *, data: dict[str, Any], **context: Any) -> str:
    """A page from a template that extends ``base.html``.

    Args:
        template: its file in this folder.
        data: for the script; JSON without NaN. The `definitions` of `context` are added.
        context: variables of the template: `title`, `sections` (pairs of id and label),
            `definitions` (of :func:`definitions`), and others.
    """
    from spectroscope.page import figures

    names = ("page.css", "figures.js", "tables.js", "page.js")
    style, *own = (_FOLDER.joinpath(name).read_text("utf-8") for name in names)
    bokeh, script = figures.script(), "\n".join(own)
    columns = {name: c["definition"] + _in_unit(c) for name, c in context["definitions"].items()}
    return (
        _environment()
        .get_template(template)
        .render(
            style=Markup(style),
            bokeh=Markup(bokeh),
            bokeh_hash=_hash(bokeh),
            script=Markup(script),
            script_hash=_hash(script),
            data=_embeddable({**data, "definitions": columns}),
            **context,
        )
    )


def save(html: str, path: str | os.PathLike[str]) -> None:
    """Write `html` to `path` atomically.

    Raises:
        RequestError: the file cannot be written.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise RequestError(f"cannot write {path}: folder {path.parent} does not exist")
    try:
        with output_folder(path.parent) as staging:
            # A module's name may contain a lone surrogate, which UTF-8 cannot encode.
            (staging / path.name).write_bytes(html.encode("utf-8", "replace"))
    except OSError as error:
        raise RequestError(f"cannot write {path}: {error.strerror or error}") from error


def definitions(describe: "pd.DataFrame") -> dict[str, dict[str, str]]:
    """Unit and definition by column, from `describe()`."""
    columns: dict[str, dict[str, str]] = describe.set_index("column").to_dict("index")
    return columns


def _subject(about: Mapping[str, str]) -> str:
    """Short name of the specimen or the model."""
    return re.split("[:,] ", about.get("specimen") or about.get("model") or "a model")[0]


def _rank(key: str) -> tuple[int, str]:
    """Sort key: model and data first, provenance last, the user's own entries in between."""
    first = ["specimen", "model", "data", "license"]
    last = ["recorded", "command", "versions"]
    if key in first:
        return first.index(key), ""
    return (len(first) + 1 + last.index(key), "") if key in last else (len(first), key)


def _embeddable(data: Any) -> Markup:
    """JSON that is safe in a script element, whatever its strings contain."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))  # ASCII: no U+2028 either
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "formatted": formatted,
        "exact": lambda value: f"{value:.9g}".replace("inf", "Infinity"),
        "breakable": _breakable,
        "in_unit": _in_unit,
    }
    environment.tests["fraction"] = is_fraction
    return environment


def is_fraction(name: str) -> bool:
    """Whether the values of a column are fractions of a total."""
    return name.endswith("_fraction") or name == "above_next_nyquist"


def formatted(value: Any, name: str) -> str:
    """A value of the column `name` as text; `formatted` in tables.js must give the same."""
    if isinstance(value, tuple):  # a shape
        return "\u00a0×\u00a0".join("?" if length is None else str(length) for length in value)
    from pandas import NA  # loaded already, by the frame

    if value is NA:
        return "—"
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if not isinstance(value, int | float):
        return str(value)
    size = abs(value)
    if math.isnan(value):
        return "—"
    if math.isinf(value):
        text = "∞"
    elif size == int(size) and size < 1e7:
        text = f"{size:,.0f}"
    elif size >= 1e5 or size < 1e-3:
        text = f"{size:.2e}"
    elif is_fraction(name) and size < 10:
        text = f"{size:.3f}"
    else:
        text = f"{size:.4g}"
    return f"−{text}" if value < 0 else text


def _breakable(name: str) -> Markup:
    """A column's name with a possible line break after each underscore."""
    return Markup("_<wbr>").join(name.split("_"))


def _in_unit(column: dict[str, str]) -> str:
    return f" ({column['unit']})" if column["unit"] not in ("", "1") else ""
