"""What all plots of a report share: colours, width and frame."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Told apart by most colour-blind readers (Okabe and Ito, 2008).
GENERATED, REAL, REFERENCE = "#0072B2", "#D55E00", "#666666"
# Inches; the width of the page on a screen.
WIDTH = 11.0


def set_style(synthetic: bool) -> tuple[str, str]:
    """Name and colour of a distilled set: generated images differ from selected real chips."""
    return ("distilled", GENERATED) if synthetic else ("selected", REAL)


def plain_frame(axes: Axes) -> None:
    """Axes without a frame above and to the right, grid lines beneath the marks."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
