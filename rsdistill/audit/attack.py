"""Figures of a membership attack: area under the curve, and the share found at few false alarms."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsdistill.errors import OptionError
from rsdistill.evaluation.leakage import clopper_pearson

FloatArray = NDArray[np.float64]

_NORMAL_95 = 1.959963984540054
# Two bounds that each hold with 97.5 % hold together with 95 %.
_EACH = 0.975


@dataclass(frozen=True, eq=False)
class Attack:
    """What an attack scored chips that were in a training set, and chips that were not.

    The mean over all chips says little: an attack that is sure of a few chips is worse for their owner
    than one that is unsure of all. Therefore the share found at few false alarms stands first.

    Attributes:
        member: Scores of the chips that were in, (m,); larger is more likely in.
        non_member: Scores of the chips that were not, (n,).

    Raises:
        OptionError: If there are no scores of either kind, or one is not finite.

    Source: Carlini et al., Membership inference attacks from first principles, 2022.
    """

    member: FloatArray
    non_member: FloatArray

    def __post_init__(self) -> None:
        """Refuse what gives no figures."""
        for name, scores in (("members", self.member), ("non-members", self.non_member)):
            if not scores.size or not np.isfinite(scores).all():
                raise OptionError(f"a membership attack needs finite scores of {name}; got {scores.size}")

    @property
    def auc(self) -> float:
        """Chance that a member scores above a non-member, ties counting half; 0.5 is what no leak would give."""
        return float(self._placements()[0].mean())

    @property
    def auc_interval(self) -> tuple[float, float]:
        """95 % interval of the area under the curve.

        Source: DeLong et al., Comparing the areas under correlated ROC curves, 1988.
        """
        above, below = self._placements()
        deviation = math.sqrt(_mean_variance(above) + _mean_variance(below))
        auc = float(above.mean())
        return max(0.0, auc - _NORMAL_95 * deviation), min(1.0, auc + _NORMAL_95 * deviation)

    def tpr(self, fpr: float) -> float:
        """Largest share of members found at a share of at most ``fpr`` false alarms.

        With fewer than 1 / ``fpr`` non-members that is the share found without any false alarm.

        Raises:
            OptionError: If the share is out of range.
        """
        return self._found(self._allowed(fpr)) / len(self.member)

    def tpr_interval(self, fpr: float) -> tuple[float, float]:
        """Interval of :meth:`tpr` that holds at least 95 % of the time, for any distribution of scores.

        It joins two exact bounds: how far the threshold of ``fpr`` may lie from the one seen, by order
        statistics of the non-members, and the share of members beyond it after Clopper and Pearson (1934).
        Few non-members make it wide: the lower limit is 0 if not even one false alarm is expected.

        Raises:
            OptionError: If the share is out of range.
        """
        from scipy.stats import binom

        self._allowed(fpr)
        tail = (1.0 - _EACH) / 2.0
        fewest, most = (int(binom.ppf(q, len(self.non_member), fpr)) for q in (tail, 1.0 - tail))
        # The true threshold lies below the score of rank ``fewest``, and not below that of rank ``most`` + 1.
        low = 0 if fewest == 0 else self._found(fewest - 1)
        count = len(self.member)
        return clopper_pearson(low, count, _EACH)[0], clopper_pearson(self._found(most), count, _EACH)[1]

    def figures(self) -> dict[str, Any]:
        """The figures of a report as plain types: shares found at 1 % and 0.1 % false alarms, and the area."""
        return {
            "tpr_at_1_percent": self.tpr(0.01),
            "tpr_at_1_percent_interval": list(self.tpr_interval(0.01)),
            "tpr_at_0.1_percent": self.tpr(0.001),
            "tpr_at_0.1_percent_interval": list(self.tpr_interval(0.001)),
            "auc": self.auc,
            "auc_interval": list(self.auc_interval),
            "members": len(self.member),
            "non_members": len(self.non_member),
        }

    def _allowed(self, fpr: float) -> int:
        if not 0.0 <= fpr <= 1.0:
            raise OptionError(f"a share of false alarms of {fpr} was asked for; it must lie between 0 and 1")
        # 0.01 x 700 is 7 false alarms, though its floating-point product is below 7.
        return int(np.floor(fpr * len(self.non_member) * (1.0 + 1e-12)))

    def _found(self, false_alarms: int) -> int:
        """Number of members that score above all but so many non-members."""
        if false_alarms >= len(self.non_member):
            return len(self.member)
        threshold = np.sort(self.non_member)[::-1][false_alarms]
        return int((self.member > threshold).sum())

    def _placements(self) -> tuple[FloatArray, FloatArray]:
        """Share of non-members below each member (m,), and of members above each non-member (n,)."""
        return _share_below(self.member, self.non_member), 1.0 - _share_below(self.non_member, self.member)


def _share_below(scores: FloatArray, others: FloatArray) -> FloatArray:
    """Share of the others below each score, ties counting half."""
    ordered = np.sort(others)
    both = np.searchsorted(ordered, scores, "left") + np.searchsorted(ordered, scores, "right")
    return np.asarray(both / (2.0 * len(others)))


def _mean_variance(values: FloatArray) -> float:
    """Variance of the mean; a single value tells nothing of it, so the largest possible one is taken."""
    return float(values.var(ddof=1)) / len(values) if len(values) > 1 else 0.25


@dataclass(frozen=True, eq=False)
class MembershipResult:
    """What the attack found.

    Attributes:
        dataset: Name of the dataset.
        method: Method of the set; ``full`` for all real train chips.
        ipc: Images per class; None for ``full``.
        label_type: ``hard`` or ``soft`` labels.
        variant: ``online`` or ``offline``.
        shadows: Number of shadow students.
        targets: Number of students under attack.
        in_view: Members are chips of the train view, which the set was made from.
        in_set: Members are the real chips that the set itself holds; None for generated sets. A coreset has
            nothing to do with the train chips that it left out, so its ``in_view`` mixes few chips that are
            found with many that nobody could find.
    """

    dataset: str
    method: str
    ipc: int | None
    label_type: str
    variant: str
    shadows: int
    targets: int
    in_view: Attack
    in_set: Attack | None

    def figures(self) -> dict[str, Any]:
        """The figures without the scores, for manifests and tables."""
        return {
            **vars(self),
            "in_view": self.in_view.figures(),
            "in_set": None if self.in_set is None else self.in_set.figures(),
        }
