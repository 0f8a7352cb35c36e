"""selfMedHPM: a 3D masked autoencoder whose slow copy says which patches are hard, and hides them.

Source: "selfMedHPM", arXiv 2504.02524, sections 2.1 to 2.3; no code was published. Hard patches mining is that of HPM
(arXiv 2304.05919), the masked autoencoder that of SelfMedMAE (arXiv 2203.05573); where the paper is silent, the
defaults follow the code of these two (METHODS.md, decision table, rows 18-21).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from common.losses.ranking import REDUCTIONS, pairwise_ranking_loss, rank_correlation
from common.losses.reconstruction import NORMALISATIONS, normalise_patches
from common.losses.total import total_loss
from common.masking.generator import MaskGenerator
from common.masking.guided import hard_patch_mask
from common.masking.patches import n_masked_patches, patchify, unpatchify, upsample_patch_mask
from common.masking.schedules import linear
from common.methods.teacher import EMATeacher
from common.networks.masked_autoencoder import MaskedAutoencoder

TEACHER_INPUTS = ("full", "masked")


class SelfMedHPM(nn.Module):
    """Hides patches, the predicted hardest ones among them, and reconstructs them and their difficulty.

    Without ``mining`` all hidden patches are random and there is no teacher; without the network's loss predictor too,
    this is MAE.

    Args:
        network: what is saved and transferred; its ``vit`` becomes the encoder of UNETR.
        mask_ratio: share of hidden patches (paper: 0.75).
        mining: hide hard patches; needs a network with a loss predictor.
        alpha_start: share of the hidden patches that are the hardest ones, in the first step.
        alpha_end: the same in the last step; linear in between (HPM's code: 0 to 0.5).
        teacher_input: what the teacher sees when it rates patches: the ``"full"`` image (paper), or a ``"masked"`` one,
            as in its own training; then only patches that it did not see are chosen by difficulty.
        momentum_start: of the teacher, see :class:`common.methods.teacher.EMATeacher`.
        momentum_end: of the teacher.
        momentum_ramp: of the teacher.
        normalise: reconstruct patches with mean 0 and variance 1, ``"biased"`` (SelfMedMAE) or ``"unbiased"`` (HPM);
            ``False``: voxels as they are.
        mask_seed: start of the masks' random stream; :meth:`seed_masks` starts it anew.

    Raises:
        ValueError: for an argument out of range, or mining without a loss predictor.
    """

    def __init__(
        self,
        network: MaskedAutoencoder,
        *,
        mask_ratio: float = 0.75,
        mining: bool = True,
        alpha_start: float = 0.0,
        alpha_end: float = 0.5,
        teacher_input: str = "full",
        momentum_start: float = 0.999,
        momentum_end: float = 0.9999,
        momentum_ramp: float = 0.125,
        normalise: bool | str = "biased",
        mask_seed: int = 0,
    ) -> None:
        super().__init__()
        embedding = network.vit.patch_embedding
        n = math.prod(embedding.grid)
        if not 0 < n_masked_patches(n, mask_ratio) < n:
            raise ValueError(
                f"mask_ratio: {mask_ratio} of {n} patches leaves none hidden or none visible. Give a share that leaves "
                "both."
            )
        if not (0 <= alpha_start <= 1 and 0 <= alpha_end <= 1):
            raise ValueError(f"alpha_start, alpha_end: got {alpha_start} and {alpha_end}. Give shares in [0, 1].")
        if teacher_input not in TEACHER_INPUTS:
            allowed = ", ".join(map(repr, TEACHER_INPUTS))
            raise ValueError(f"teacher_input: got {teacher_input!r}. Allowed are {allowed}.")
        if normalise not in NORMALISATIONS:
            raise ValueError(f"normalise: got {normalise!r}. Allowed are {', '.join(map(repr, NORMALISATIONS))}.")
        if mining and network.predictor is None:
            raise ValueError("mining: it needs a loss predictor, and predictor_depth is 0. Switch mining off, too.")
        self.network = network
        self.grid = embedding.grid
        self.patch_size = embedding.patch_size
        self.mask_ratio = mask_ratio
        self.alpha_start = alpha_start
        self.alpha_end = alpha_end
        self.teacher_input = teacher_input
        self.normalise = normalise
        self.progress = 0.0
        self.masks = MaskGenerator(mask_seed)
        self.teacher: EMATeacher | None = None
        if mining:
            self.teacher = EMATeacher(
                network.difficulty_network(),
                momentum_start=momentum_start,
                momentum_end=momentum_end,
                ramp=momentum_ramp,
            )

    def seed_masks(self, seed: int) -> None:
        """Start the masks' random stream anew."""
        self.masks.seed(seed)

    def set_progress(self, progress: float) -> None:
        """How much of the training is done, in [0, 1]; the share of hard patches and the momentum follow."""
        self.progress = progress

    def update_teacher(self) -> None:
        """Let the teacher follow, after a step of the optimizer."""
        if self.teacher is not None:
            self.teacher.update(self.network.difficulty_network(), self.progress)

    @property
    def n_hidden(self) -> int:
        """Hidden patches of every sample."""
        return n_masked_patches(math.prod(self.grid), self.mask_ratio)

    @property
    def alpha(self) -> float:
        """Share of the hidden patches that are the hardest ones now; 0 without mining."""
        return 0.0 if self.teacher is None else linear(self.progress, self.alpha_start, self.alpha_end)

    @torch.no_grad()
    def choose(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """What to hide of ``image`` (B, C, *S).

        Returns:
            bool (B, n) each: hidden patches, and those of them chosen by difficulty; and the difficulties (B, n) that
            the teacher predicted, NaN where it saw the patch of a masked image; ``None`` without mining.
        """
        generator = self.masks.on(image.device)
        nothing = torch.zeros(len(image), math.prod(self.grid), device=image.device)
        random, _ = hard_patch_mask(nothing, n_masked=self.n_hidden, n_hard=0, generator=generator)
        if self.teacher is None:
            return random, torch.zeros_like(random), None
        candidates = None
        if self.teacher_input == "full":
            difficulty = self.teacher(image).float()
        else:
            candidates = random
            difficulty = self.teacher(image, self._split(random)[0]).float().masked_fill(~candidates, float("nan"))
        hidden, hard = hard_patch_mask(
            difficulty,
            n_masked=self.n_hidden,
            n_hard=math.floor(self.n_hidden * self.alpha + 1e-9),
            candidates=candidates,
            generator=generator,
        )
        return hidden, hard, difficulty

    def forward(self, image: Tensor) -> dict[str, Any]:
        """Hide patches of ``image`` (B, C, *S), values in [0, 1], and reconstruct them.

        Returns:
            the dictionary of :mod:`common.methods`, V = 1. ``reconstruction`` is made to be looked at and has no graph:
            hidden patches get the mean and variance that were taken out of their target, visible ones are the image's.
            What is trained is in ``patch_losses``, the reconstruction loss of each of the M hidden patches, (B, M), and
            with a loss predictor in ``scores``, their predicted difficulties. ``patch_mask`` and ``hard``, bool (B, n),
            are the hidden patches and those of them chosen by difficulty.

        Raises:
            ValueError: for an image of another size than the network's.
        """
        image = image.as_subclass(Tensor)  # metadata costs time in every operation
        patches = patchify(image, self.patch_size)
        if patches.shape[1] != math.prod(self.grid):
            raise ValueError(
                f"image: its {tuple(image.shape[2:])} voxels do not make the network's {self.grid} patches of "
                f"{self.patch_size} voxels. Give it the network's img_size."
            )
        hidden, hard, difficulty = self.choose(image)
        visible_places, hidden_places = self._split(hidden)
        made, scores = self.network(image, visible_places, hidden_places)
        made, true = made.float(), patches.gather(1, _along(hidden_places, patches)).float()
        mean, sd = torch.zeros_like(true[..., :1]), torch.ones_like(true[..., :1])
        if self.normalise:
            true, mean, sd = normalise_patches(true, variance=str(self.normalise))
        losses = (made - true).square().mean(dim=2)

        stats = {
            "mask_share": hidden.float().mean(),
            "hard_share": hard.sum() / hidden.sum(),
            "alpha": torch.full((), self.alpha, device=image.device),
        }
        maps = {"measured loss": self._spread(losses, hidden_places)}
        outputs: dict[str, Any] = {}
        if scores is not None:
            outputs["scores"] = scores.float()
            stats["rank_correlation"] = rank_correlation(scores, losses)
            maps["predicted difficulty"] = self._spread(scores, hidden_places)
        if self.teacher is not None and difficulty is not None:
            momentum = self.teacher.momentum(self.progress)
            stats["momentum"] = torch.full((), momentum, device=image.device)
            maps["predicted difficulty"] = difficulty
            if self.teacher_input == "full":
                stats["teacher_rank_correlation"] = rank_correlation(difficulty.gather(1, hidden_places), losses)
        shown = (made.detach() * sd + mean).to(patches.dtype)
        shown = patches.scatter(1, _along(hidden_places, patches), shown)
        return {
            **outputs,
            "patch_losses": losses,
            "reconstruction": unpatchify(shown, self.patch_size, image.shape[2:])[None],
            "target": image[None],
            "mask": self._to_voxels(hidden, image)[None],
            "fill": 0.0,
            "patch_mask": hidden,
            "hard": hard,
            "maps": {name: self._to_voxels(value, image)[None] for name, value in sorted(maps.items())},
            "stats": stats,
        }

    def _split(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Indices (B, k) of the visible and (B, M) of the hidden patches, in the order of the grid."""
        places = hidden.to(torch.uint8).argsort(dim=1, stable=True)
        k = hidden.shape[1] - self.n_hidden
        return places[:, :k], places[:, k:]

    def _spread(self, values: Tensor, places: Tensor) -> Tensor:
        """Values (B, M) of the patches at ``places``, NaN elsewhere: (B, n)."""
        empty = torch.full((len(values), math.prod(self.grid)), float("nan"), device=values.device)
        return empty.scatter(1, places, values.detach().float())

    def _to_voxels(self, patches: Tensor, image: Tensor) -> Tensor:
        """Patches (B, n) as voxels (B, 1, *S)."""
        return upsample_patch_mask(patches.unflatten(1, self.grid), self.patch_size, image.shape[2:])


def _along(places: Tensor, patches: Tensor) -> Tensor:
    """Places (B, M) as an index of whole patches (B, M, P)."""
    return places[..., None].expand(-1, -1, patches.shape[2])


class SelfMedHPMLoss(nn.Module):
    """Squared error of the hidden patches, plus the ranking loss of their predicted difficulties (Eq. 1).

    Args:
        prediction_weight: of the ranking loss (HPM's code: 1; the paper names two objectives and no weight).
        ranking: ``"mean"`` over pairs (HPM's code) or ``"sum"``, as Eq. 1 is printed, which outweighs the
            reconstruction 10 000 times; see :func:`common.losses.ranking.pairwise_ranking_loss`.

    Raises:
        ValueError: for an argument out of range.
    """

    def __init__(self, *, prediction_weight: float = 1.0, ranking: str = "mean") -> None:
        super().__init__()
        if not prediction_weight > 0:
            raise ValueError(
                f"prediction_weight: got {prediction_weight}. Give a number above 0; without a loss predictor there is "
                "no ranking loss."
            )
        if ranking not in REDUCTIONS:
            raise ValueError(f"ranking: got {ranking!r}. Allowed are {', '.join(map(repr, REDUCTIONS))}.")
        self.prediction_weight = prediction_weight
        self.ranking = ranking

    def forward(self, outputs: dict[str, Any], target: Tensor | None = None) -> Tensor:
        """Scalar loss of what :class:`SelfMedHPM` returns; its parts, weighted, go into ``outputs["losses"]``.

        Args:
            outputs: see :meth:`SelfMedHPM.forward`.
            target: what MONAI's trainer passes; unused, ``outputs`` holds the losses of the patches.
        """
        del target
        parts = {"reconstruction": outputs["patch_losses"].mean()}
        if "scores" in outputs:
            ranking = pairwise_ranking_loss(outputs["scores"], outputs["patch_losses"], reduction=self.ranking)
            parts["prediction"] = self.prediction_weight * ranking
        return total_loss(outputs, parts)
