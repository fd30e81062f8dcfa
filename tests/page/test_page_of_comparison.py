"""The page of two reports, and its findings."""

import json

import pytest
import torch
from helpers import html_of, report_of
from pages import HOSTILE, Parsed
from torch import nn

import spectroscope
from spectroscope.page import comparison as comparison_page
from spectroscope.page.finding import Reference


def moved(x, **channels):
    for name, by in channels.items():
        x[:, int(name[1:])] += by
    return report_of(nn.ReLU(), x)


@pytest.fixture
def changed():
    """Of 5 channels the first moves, the second dies, the third comes to life."""
    torch.manual_seed(0)
    x, y = torch.rand(12, 5, 32), torch.rand(12, 5, 32)
    return moved(x, c2=-9).compare(moved(y, c0=0.3, c1=-9))


def findings_of_changes(comparison):
    return comparison_page.findings(comparison.sites(), comparison.channels())


def test_changes_name_the_worst_channel(changed):
    by_headline = {result.headline: result for result in findings_of_changes(changed).present}
    table = changed.channels()
    worst = table.loc[table["effect_size"].abs().idxmax()]
    text = by_headline["Channels whose DC changed"]
    assert f"Channel {worst['channel']} of #0" in text.detail
    assert text.references[0] == Reference("#0", "largest change", int(worst["channel"]))
    count = int((table["effect_size"].abs() > 0.5).sum())
    rose = int((table["effect_size"] > 0.5).sum())
    assert text.text.startswith(f"The DC of {count} of 5 channels")
    assert f"rose in {rose} and fell in {count - rose}" in text.detail
    assert by_headline["Channels that died"].text.startswith("1 of 5 channels")
    assert by_headline["Channels that revived"].text.startswith("1 of 5 channels")
    assert "Few inputs" not in by_headline


def test_a_report_compared_with_itself_has_no_findings(known):
    result = findings_of_changes(known.compare(known))
    assert result.present == ()
    assert any("DC changed" in text for text in result.absent)


def test_a_channel_that_became_nan_is_reported():
    x = torch.rand(12, 3, 32)
    y = x.clone()
    y[:, 1] = torch.nan
    result = findings_of_changes(report_of(nn.ReLU(), x).compare(report_of(nn.ReLU(), y)))
    by_headline = {f.headline: f.text for f in result.present}
    assert by_headline["New non-finite values"].startswith("1 of 3 channels")
    assert by_headline["Unknown changes"].startswith(
        "The change of DC is unknown for 1 of 3 channels"
    )


def test_changes_of_one_input_are_unknown():
    one = [report_of(nn.ReLU(), torch.rand(1, 3, 32)) for _ in range(2)]
    result = findings_of_changes(one[0].compare(one[1]))
    assert not any("DC changed" in text for text in result.absent)
    assert "Unknown changes" in {f.headline for f in result.present}


def test_few_inputs_are_reported_of_comparisons(known):
    few = report_of(nn.ReLU(), torch.randn(3, 4, 32))
    (said,) = [
        f for f in findings_of_changes(known.compare(few)).present if f.headline == "Few inputs"
    ]
    assert "12 inputs in A and 3 inputs in B" in said.text


def test_a_comparison_has_both_reports_and_unmatched_sites(known, tmp_path):
    other = report_of(nn.ReLU6(), torch.randn(3, 4, 32), about={"data": HOSTILE})
    for comparison, matched in ((known.compare(other), 0), (known.compare(known), 1)):
        comparison.page(tmp_path / "compare.html")
        result = Parsed((tmp_path / "compare.html").read_text("utf-8"))
        assert len([tr for tr in result.all("tr") if "data-layer" in tr]) == matched
        assert len(json.loads(result.raw[1])["layers"]) == matched
    assert HOSTILE in Parsed(html_of(known.compare(other))).text
    assert "ReLU in A, ReLU6 in B" in Parsed(html_of(known.compare(other))).text
    with pytest.raises(spectroscope.RequestError, match="does not exist"):
        known.compare(known).page(tmp_path / "nowhere" / "x.html")
