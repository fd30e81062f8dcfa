"""A report as one HTML page that needs nothing else: no network, no server, no other file."""

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
from markupsafe import Markup

from spectroscope.errors import RequestError
from spectroscope.io import output_folder

if TYPE_CHECKING:
    import pandas as pd

    from spectroscope.report import Comparison, Report

_HERE = Path(__file__).parent


def write(report: "Report", path: str | os.PathLike[str], *, title: str | None = None) -> None:
    """`report` as a page at `path`; see :meth:`spectroscope.Report.page`."""
    save(render_report(report, title), path)


def render_report(report: "Report", title: str | None = None) -> str:
    """The page of one report."""
    from spectroscope.page import findings, payload

    sites, dc, coverage = report.sites(), report.dc(), report.coverage()
    try:
        aliasing = report.aliasing()
    except RequestError:  # nothing lowers the rate, or there are no spectra
        aliasing = None
    about = report.about
    sections = {"about": "What was looked at", "coverage": "What was seen", "findings": "Findings"}
    if not sites.empty:
        sections |= {"layers": "Layers"}
    return render(
        "page.html",
        title=title or _name(about),
        sections=[*sections.items(), ("definitions", "Definitions")],
        about={key: about[key] for key in sorted(about, key=_rank)},
        totals={
            "sites": len(sites),
            "channels": len(dc),
            "inputs": 0 if sites.empty else int(sites["n_samples"].max()),
        },
        seen=payload.seen(coverage),
        findings=findings.findings(sites, dc, aliasing),
        sites=payload.site_table(sites),
        numbers={site: number for number, site in enumerate(sites["site"])},
        definitions=definitions(report.describe()),
        data=payload.embedded(report, sites, dc),
    )


def render_comparison(comparison: "Comparison", title: str | None = None) -> str:
    """The page of what changed between two reports."""
    from spectroscope.page import comparison as changes

    sites, channels = comparison.sites(), comparison.channels()
    abouts = comparison.a.about, comparison.b.about
    sections = {"about": "What was compared", "coverage": "What matches", "findings": "Findings"}
    if not sites.empty:
        sections |= {"layers": "Layers"}
    return render(
        "comparison.html",
        title=title or f"What changed in {' and '.join(dict.fromkeys(map(_name, abouts)))}",
        sections=[*sections.items(), ("definitions", "Definitions")],
        about=[
            (key, *(about.get(key, "—") for about in abouts))
            for key in sorted({**abouts[0], **abouts[1]}, key=_rank)
        ],
        matched=len(sites),
        unmatched=comparison.unmatched(),
        findings=changes.findings(sites, channels),
        sites=changes.site_table(sites),
        numbers={site: number for number, site in enumerate(sites["site"])},
        definitions=definitions(comparison.describe()),
        data=changes.embedded(sites, channels),
    )


def summary(report: "Report") -> str:
    """A few lines of HTML for notebooks: how much there is, and the first layers."""
    from spectroscope.page import payload

    sites = report.sites()
    template = _environment().get_template("summary.html")
    return template.render(
        name=_name(report.about),
        channels=int(sites["channels"].sum()),
        inputs=0 if sites.empty else int(sites["n_samples"].max()),
        seen=payload.seen(report.coverage()),
        sites=sites[payload.IN_SUMMARY].head(payload.ROWS_IN_SUMMARY),
        total=len(sites),
    )


def render(template: str, *, data: dict[str, Any], **context: Any) -> str:
    """A page from a template that extends ``base.html``.

    Args:
        template: its file in this folder.
        data: what the script gets, JSON but for NaN; `definitions` of `context` are added.
        context: what the template wants: `title`, `sections` (pairs of id and label),
            `definitions` (of :func:`definitions`), and its own.
    """
    style, script = (_HERE.joinpath(name).read_text("utf-8") for name in ("page.css", "page.js"))
    columns = {name: c["definition"] + _in_unit(c) for name, c in context["definitions"].items()}
    return (
        _environment()
        .get_template(template)
        .render(
            style=Markup(style),
            script=Markup(script),
            style_hash=_hash(style),
            script_hash=_hash(script),
            data=_embeddable({**data, "definitions": columns}),
            **context,
        )
    )


def save(html: str, path: str | os.PathLike[str]) -> None:
    """Write `html` to `path`, whole or not at all.

    Raises:
        RequestError: it can't be written there.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise RequestError(f"cannot write {path}: there is no folder {path.parent}")
    try:
        with output_folder(path.parent) as staging:
            # The name of a module may have half of a surrogate pair in it, which is no text.
            (staging / path.name).write_bytes(html.encode("utf-8", "replace"))
    except OSError as error:
        raise RequestError(f"cannot write {path}: {error.strerror or error}") from error


def definitions(described: "pd.DataFrame") -> dict[str, dict[str, str]]:
    """Unit and definition by column, of `Report.describe()`."""
    columns: dict[str, dict[str, str]] = described.set_index("column").to_dict("index")
    return columns


def _name(about: Mapping[str, str]) -> str:
    """What was looked at, in a word: the specimen, or the model."""
    return re.split("[:,] ", about.get("specimen") or about.get("model") or "a model")[0]


def _rank(key: str) -> tuple[int, str]:
    """What was looked at before how; what users added in between."""
    order = ["specimen", "model", "data", "license"]
    last = ["recorded", "command", "versions"]
    if key in order:
        return order.index(key), ""
    return (len(order) + 1 + last.index(key), "") if key in last else (len(order), key)


def _embeddable(data: Any) -> Markup:
    """JSON that can stand in a script element, whatever the strings in it."""
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
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "shown": shown,
        "exact": lambda value: f"{value:.9g}".replace("inf", "Infinity"),
        "breakable": _breakable,
        "in_unit": _in_unit,
    }
    environment.tests["fraction"] = is_fraction
    return environment


def is_fraction(name: str) -> bool:
    """Whether the numbers of a column are parts of a whole."""
    return name.endswith("_fraction") or name == "above_next_nyquist"


def shown(value: Any, name: str) -> str:
    """A value of the column `name` as people read it; the page's script writes the same."""
    if isinstance(value, tuple):  # a shape
        return " × ".join("?" if length is None else str(length) for length in value)
    if isinstance(value, bool):
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
    """The name of a column, which may be broken after an underscore."""
    return Markup("_<wbr>").join(name.split("_"))


def _in_unit(column: dict[str, str]) -> str:
    return f" ({column['unit']})" if column["unit"] not in ("", "1") else ""
