"""Selection among the candidates that a diffusion model drew, by the logits and features of a teacher."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field

from rsdistill.codecs.base import Codec
from rsdistill.codecs.store import LatentStore
from rsdistill.diffusion.teacher import LatentTeacher, margin
from rsdistill.distilled import quantise
from rsdistill.distillers.matching_networks import MatchingNetworks
from rsdistill.imaging.similarity import copy_ratios
from rsdistill.utils.clustering import greedy_herding

_PART = 256
_DECODED = 64
# Smaller gains are rounding, and could go round in circles.
_LEAST_GAIN = 1e-9
_MOST_EXCHANGES = 1000

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class SelectionOptions:
    """How one candidate of each prototype is chosen.

    Attributes:
        kind: ``margin`` takes the largest target-logit margin of the teacher, slot by slot, as in the paper;
            ``set`` chooses all tiles of a class together for confidence, coverage and mutual distance;
            ``herding`` chooses them together, among the candidates of all slots, so that their mean features are
            those of the class's train chips in the matching networks.
        coverage: Weight of the coverage of real latents beside the teacher's confidence (``set``).
        veto: Candidates whose copy ratio in latents is below this are taken only where a prototype has no
            other: the distance to the nearest train latent over the mean distance to its 50 nearest,
            smallest over the views that are stored. 0 turns the veto off.
    """

    RENAMED: ClassVar[dict[str, str]] = {
        "diversity": "the mutual distance always has the weight 1; no other weight was measured"
    }

    kind: Literal["margin", "set", "herding"] = "margin"
    coverage: Annotated[float, Field(ge=0)] = 1.0
    veto: Annotated[float, Field(ge=0, lt=1)] = 0.0


@torch.no_grad()
def teacher_view(teacher: LatentTeacher, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (n, classes) and features (n, width) that the teacher gives latents (n, C, h, w), on the CPU."""
    device = next(teacher.parameters()).device
    features = torch.cat([teacher.features(part.to(device)).cpu() for part in latents.split(_PART)])
    logits: torch.Tensor = teacher.head(features.to(device)).cpu()
    return logits, features


def by_set(
    confidence: FloatArray, features: FloatArray, real: FloatArray, options: SelectionOptions
) -> NDArray[np.int64]:
    """Candidate of each slot such that the whole set is best.

    The set maximises ``mean confidence + coverage·c + d``: c is the mean, over real latents, of the
    largest cosine similarity to a tile of the set; d is the mean, over tiles, of one minus the largest similarity
    to another tile. It begins with the most confident candidates and makes the best exchange of one slot's
    candidate again and again, until none helps.

    Args:
        confidence: Teacher's probability of the class, (slots, candidates).
        features: Of unit length, (slots, candidates, D).
        real: Features of the class's real latents, of unit length, (m, D).
        options: Weights.

    Returns:
        Candidate of each slot, int64 (slots,).
    """
    chosen: NDArray[np.int64] = confidence.argmax(axis=1).astype(np.int64)
    while True:
        gains = _gains(chosen, confidence, features, features @ real.T, options)
        slot, candidate = np.unravel_index(int(gains.argmax()), gains.shape)
        if gains[slot, candidate] <= _LEAST_GAIN:
            return chosen
        chosen[slot] = candidate


def herded(features: FloatArray, target: FloatArray, count: int) -> NDArray[np.int64]:
    """Candidates whose mean comes nearest to a target: the greedy choice, then the best exchange as long as one helps.

    Args:
        features: Features of the candidates, (n, D).
        target: What their mean is to be, (D,).
        count: Candidates to choose, at most n.

    Returns:
        Positions of the chosen ones, int64 (count,).

    Source: Welling 2009, as in :func:`greedy_herding`; the exchanges are ours.
    """
    # All distances follow from inner products about the target.
    centred = features - target
    products = centred @ centred.T
    own, chosen = np.diag(products), greedy_herding(features, target, count)
    to_sum, free = products[chosen].sum(axis=0), np.ones(len(features), bool)
    free[chosen] = False
    for _ in range(_MOST_EXCHANGES):
        # Square of the sum after candidate j takes the place of chosen one i, less what it is now.
        change = (
            own[chosen][:, None]
            + own[None, :]
            - 2.0 * products[chosen]
            - 2.0 * to_sum[chosen][:, None]
            + 2.0 * to_sum[None, :]
        )
        change[:, ~free] = np.inf
        place, candidate = np.unravel_index(int(change.argmin()), change.shape)
        if change[place, candidate] >= -_LEAST_GAIN:
            break
        free[chosen[place]], free[candidate] = True, False
        to_sum += products[candidate] - products[chosen[place]]
        chosen[place] = candidate
    return chosen


def unit_features(features: torch.Tensor, centre: torch.Tensor) -> FloatArray:
    """Features (n, D) about a centre (D,), at unit length: without the centre all would point the same way."""
    return F.normalize(features - centre, dim=1).double().numpy()


def latent_copy_ratios(latents: torch.Tensor, real: torch.Tensor) -> FloatArray:
    """How much nearer latents are to one chip than to the chips around it.

    Args:
        latents: Candidates of one class, (n, C, h, w).
        real: Views of the class's train latents, (m, views, C, h, w).

    Returns:
        Distance to the nearest chip over the mean distance to the 50 nearest, (n,); a chip is as near as the
        nearest of its views.

    Source: Carlini et al., Extracting training data from diffusion models, 2023, there in pixels.
    """
    flat = latents.flatten(1)
    # The usual way by matrix products loses the small distances of copies to rounding.
    exact = "donot_use_mm_for_euclid_dist"
    views = [torch.cdist(flat, real[:, view].flatten(1), compute_mode=exact) for view in range(real.shape[1])]
    return copy_ratios(torch.stack(views).amin(0).double().numpy())


def _gains(
    chosen: NDArray[np.int64],
    confidence: FloatArray,
    features: FloatArray,
    to_real: FloatArray,
    options: SelectionOptions,
) -> FloatArray:
    """What each exchange of one slot's candidate adds to the value of the set, (slots, candidates)."""
    slots, each = len(confidence), np.arange(len(confidence))
    values = np.empty_like(confidence)
    for slot in range(slots):
        others = each != slot
        tiles = features[each, chosen][others]
        covered = to_real[each, chosen][others].max(axis=0, initial=-1.0)
        values[slot] = confidence[slot] / slots
        values[slot] += options.coverage * np.maximum(to_real[slot], covered).mean(axis=1)
        if slots > 1:
            values[slot] += _spread(features[slot] @ tiles.T, tiles)
    return values - values[each, chosen][:, None]


def _spread(similar: FloatArray, others: FloatArray) -> FloatArray:
    """Mean distance of a set to its nearest other tile for each candidate of one slot.

    Args:
        similar: Similarity of each candidate to the other slots' tiles, (candidates, slots - 1).
        others: Features of those tiles, (slots - 1, D).
    """
    among = others @ others.T
    np.fill_diagonal(among, -np.inf)
    nearest = among.max(axis=1, initial=-np.inf)
    of_others = 1.0 - np.maximum(nearest[None, :], similar)
    own = 1.0 - similar.max(axis=1)
    spread: FloatArray = (of_others.sum(axis=1) + own) / (len(others) + 1)
    return spread


@dataclass(frozen=True, eq=False)
class Choice:
    """What was chosen.

    Attributes:
        position: Position of each slot's tile among the candidates, int64 (slots,).
        latents: Latents of each slot's tile, (slots, C, h, w).
        margin: Target-logit margin of each tile, float32 (slots,).
        logits: The teacher's logits of each tile, (slots, classes).
        vetoed: Candidates that the veto set aside.
        conceded: Slots whose candidates were all vetoed, so that the least like a copy was taken.
    """

    position: NDArray[np.int64]
    latents: torch.Tensor
    margin: NDArray[np.float32]
    logits: torch.Tensor
    vetoed: int
    conceded: int

    def summary(self) -> dict[str, int]:
        """What the veto did, for the manifest."""
        return {"vetoed": self.vetoed, "conceded": self.conceded}

    def moved(self, latents: torch.Tensor, labels: NDArray[np.int64], teacher: LatentTeacher) -> Choice:
        """The same choice with other latents (slots, C, h, w) of these classes, and the teacher's logits of those."""
        logits = teacher_view(teacher, latents)[0]
        return replace(self, latents=latents, margin=margin(logits, torch.from_numpy(labels)).numpy(), logits=logits)


@dataclass(frozen=True)
class SoftLabelOptions:
    """Soft labels of the tiles, from the teacher.

    Attributes:
        top_k: Classes kept of each tile, in eight bits each; 0 gives hard labels alone.
    """

    RENAMED: ClassVar[dict[str, str]] = {
        "top": "top_k",
        "temperature": "soft labels are always the teacher's own probabilities; no other temperature was measured",
    }

    top_k: Annotated[int, Field(ge=0)] = 0

    def of(self, logits: torch.Tensor) -> NDArray[np.float32] | None:
        """Soft labels (n, classes) from logits (n, classes), rounded as they are kept; None where they are off.

        Raises:
            OptionError: If more classes are to be kept than there are.
        """
        if not self.top_k:
            return None
        return quantise(logits.softmax(1).double().numpy(), self.top_k).unpack()


def choose(
    drawn: torch.Tensor,
    labels: NDArray[np.int64],
    candidates: int,
    latents: LatentStore,
    teacher: LatentTeacher,
    options: SelectionOptions,
    networks: MatchingNetworks | None = None,
) -> Choice:
    """Choose one candidate for each slot.

    Args:
        drawn: Candidates, those of one slot after another, (slots x candidates, C, h, w).
        labels: Class position of each slot, int64 (slots,).
        candidates: Candidates of a slot.
        latents: Real latents that coverage and veto compare with.
        teacher: The latent teacher.
        options: How to choose.
        networks: The matching networks, for ``herding``.
    """
    logits, features = teacher_view(teacher, drawn)
    position, vetoed, conceded = np.empty(len(labels), np.int64), 0, 0
    for label in np.unique(labels).tolist():
        slots = np.flatnonzero(labels == label)
        these = (slots[:, None] * candidates + np.arange(candidates)).ravel()
        barred = np.zeros((len(slots), candidates), bool)
        if options.veto:
            ratios = latent_copy_ratios(drawn[these], _views_of(latents, label)).reshape(barred.shape)
            barred = ratios < options.veto
            lost = barred.all(axis=1)
            # A slot without any other gets the candidate that is least like a copy.
            barred[lost, ratios[lost].argmax(axis=1)] = False
            vetoed, conceded = vetoed + int(barred.sum()), conceded + int(lost.sum())
        if options.kind == "margin":
            worth = margin(logits[these], torch.full((len(these),), label)).double().numpy().reshape(barred.shape)
            chosen = np.where(barred, -np.inf, worth).argmax(axis=1)
        elif options.kind == "herding":
            assert networks is not None
            wanted, seen = matched_features(drawn[these], label, latents.codec, networks)
            open_ = np.flatnonzero(~barred.ravel())
            position[slots] = these[open_[herded(seen[open_], wanted, len(slots))]]
            continue
        else:
            confidence = logits[these].softmax(1)[:, label].double().numpy().reshape(barred.shape)
            real = _features_of(latents, teacher, label)
            centre = real.mean(dim=0)
            tiles = unit_features(features[these], centre).reshape(*barred.shape, -1)
            chosen = by_set(np.where(barred, -np.inf, confidence), tiles, unit_features(real, centre), options)
        position[slots] = slots * candidates + chosen
    chosen_ones = torch.from_numpy(position)
    kept = logits[chosen_ones]
    return Choice(position, drawn[chosen_ones], margin(kept, torch.from_numpy(labels)).numpy(), kept, vetoed, conceded)


@torch.no_grad()
def matched_features(
    latents: torch.Tensor, label: int, codec: Codec, networks: MatchingNetworks
) -> tuple[FloatArray, FloatArray]:
    """Class mean (D,) and features of candidates (n, D) in the matching networks, all of them side by side."""
    count = networks.options.count
    rows = []
    for part in latents.split(_DECODED):
        seen = networks.prepare(codec.decode(part)).to(networks.device)
        rows.append(torch.cat([networks.see(number, seen)[0] for number in range(count)], 1).cpu())
    wanted = torch.cat([networks.means(number)[label] for number in range(count)]).cpu()
    return wanted.double().numpy(), torch.cat(rows).double().numpy()


def _views_of(latents: LatentStore, label: int) -> torch.Tensor:
    """Every stored view of the train latents of a class, (chips, views, C, h, w)."""
    positions = latents.positions("train", views=True)
    positions = positions[latents.label[positions] == label]
    positions = positions[np.lexsort((latents.view[positions], latents.chip[positions]))]
    views = len(np.unique(latents.view[positions]))
    means: torch.Tensor = latents.read(positions).mean.unflatten(0, (-1, views))
    return means


def _features_of(latents: LatentStore, teacher: LatentTeacher, label: int) -> torch.Tensor:
    """Teacher's features of the train latents of a class, (chips, width)."""
    positions = latents.positions("train")
    return teacher_view(teacher, latents.read(positions[latents.label[positions] == label]).mean)[1]
