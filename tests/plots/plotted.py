"""What several tests of plots need."""

import pytest
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

LAST = "4#0"


def given(**options):
    return Figure(layout="constrained", **options).subplots()


def rows_of(frame, channel, side, value="power"):
    return frame[(frame["channel"] == channel) & (frame["side"] == side)][value].to_numpy()


def refused(draw, *arguments, match, **options):
    with pytest.raises(ValueError, match=match) as result:
        draw(*arguments, **options)
    assert "\n" not in str(result.value)
    assert not plt.get_fignums()
