"""AnatoMask: a slow copy of the network finds the patches that are hard to reconstruct, and those are hidden.

Source: Li et al., "AnatoMask", ECCV 2024, arXiv 2407.06468, section 3.3 and Algorithm 1, and the code published with
it. Where the two disagree, or the code compares different units, the defaults follow METHODS.md (decision table, rows
10-13) and a switch keeps the alternative. Without guidance it is SparK (arXiv 2301.03580).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from common.losses.difficulty import SCORES, patch_difficulty
from common.losses.reconstruction import masked_patch_loss, patchify
from common.masking.enclosed import enclosed_by_tissue
from common.masking.generator import MaskGenerator
from common.masking.guided import COUNTS, hard_patch_mask, n_hard_patches
from common.masking.lesion import eligible_patches
from common.masking.patches import (
    as_patch_size,
    check_mask_ratio,
    grid_size,
    n_masked_patches,
    patch_mask,
    upsample_patch_mask,
)
from common.masking.schedules import linear
from common.methods.teacher import EMATeacher
from common.networks.spark import SparK

GUIDANCES = ("teacher", "student", "frozen", "none")
SELECTIONS = ("hardest", "easiest")
_EPS = 1e-6
_DECAY = 0.99  # of the histogram of hard patches: about the last hundred steps count


class AnatoMask(nn.Module):
    """Hides random patches, lets a teacher reconstruct them, and gives the student the ones that were hardest.

    The rows of the paper's Table 2: ``guidance="none"`` is SparK, at SparK's cost; ``"frozen"`` is without
    self-distillation, a teacher that stays as it was at the start; ``select="easiest"`` is low anatomical significance;
    ``hard_share_start`` above ``hard_share_end`` is hard-to-easy.

    Args:
        network: of :class:`common.networks.spark.SparK`; what is saved and transferred.
        patch_size: edge of a patch in voxels, or one per axis: a multiple of the network's total stride, 16.
        mask_ratio: gamma, share of hidden patches.
        hard_share_start: r_0, share of the hidden patches that is chosen by difficulty, in the first step.
        hard_share_end: r_T, the same in the last step.
        warmup: share of the training in which all masks are random.
        guidance: who reconstructs first: ``"teacher"``, the moving average of the student; ``"student"``, itself;
            ``"frozen"``, the student as it was initialised; or ``"none"``.
        score: see :func:`common.losses.difficulty.patch_difficulty`.
        select: ``"hardest"`` or ``"easiest"`` patches.
        counts: see :func:`common.masking.guided.n_hard_patches`.
        normalise: reconstruct patches of mean 0 and variance 1 (code), or the image as it is (Eq. 2).
        exclude_background: choose only patches that lie in the body by half, see
            :func:`common.masking.enclosed.enclosed_by_tissue`; the random ones come from everywhere.
        tissue_level: value of the first channel above which a voxel is tissue.
        z_score: see :func:`common.losses.difficulty.patch_difficulty`.
        momentum_start: share of the teacher that an update keeps, at the start.
        momentum_end: the same after ``momentum_ramp``.
        momentum_ramp: share of the training in which it changes.
        mask_seed: start of the masks' random stream; :meth:`seed_masks` starts it anew.

    Raises:
        ValueError: for an argument out of range.
    """

    def __init__(
        self,
        network: SparK,
        *,
        patch_size: int | Sequence[int] = 16,
        mask_ratio: float = 0.6,
        hard_share_start: float = 0.0,
        hard_share_end: float = 0.5,
        warmup: float = 0.0,
        guidance: str = "teacher",
        score: str = "denorm",
        select: str = "hardest",
        counts: str = "text",
        normalise: bool = True,
        exclude_background: bool = False,
        tissue_level: float = 0.5,
        z_score: Sequence[float] = (0.0, 1.0),
        momentum_start: float = 0.999,
        momentum_end: float = 0.9999,
        momentum_ramp: float = 0.25,
        mask_seed: int = 0,
    ) -> None:
        super().__init__()
        for name, value, allowed in (
            ("guidance", guidance, GUIDANCES),
            ("score", score, SCORES),
            ("select", select, SELECTIONS),
            ("counts", counts, COUNTS),
        ):
            if value not in allowed:
                raise ValueError(f"{name}: got {value!r}. Allowed are {', '.join(map(repr, allowed))}.")
        shares = {"hard_share_start": hard_share_start, "hard_share_end": hard_share_end, "warmup": warmup}
        for name, share in shares.items():
            if not 0 <= share <= 1:
                raise ValueError(f"{name}: got {share}. Give a share, 0 to 1.")
        if len(z_score) != 2 or not z_score[1] > 0:
            raise ValueError(f"z_score: got {z_score}. Give a mean and a standard deviation above 0.")
        self.network = network
        self.patch_size = as_patch_size(patch_size, network.spatial_dims)
        if any(edge % network.total_stride for edge in self.patch_size):
            raise ValueError(
                f"patch_size: got {patch_size}. Give multiples of the network's total stride, {network.total_stride}."
            )
        self.mask_ratio = check_mask_ratio(mask_ratio)
        self.hard_share_start = hard_share_start
        self.hard_share_end = hard_share_end
        self.warmup = warmup
        self.guidance = guidance
        self.score = score
        self.select = select
        self.counts = counts
        self.normalise = normalise
        self.exclude_background = exclude_background
        self.tissue_level = tissue_level
        self.z_score = tuple(z_score)
        self.teacher: EMATeacher | None = None
        if guidance in ("teacher", "frozen"):
            self.teacher = EMATeacher(
                network, momentum_start=momentum_start, momentum_end=momentum_end, ramp=momentum_ramp
            )
        self.progress = 0.0
        self.masks = MaskGenerator(mask_seed)
        self._histogram: Tensor | None = None

    def seed_masks(self, seed: int) -> None:
        """Start the masks' random stream anew."""
        self.masks.seed(seed)

    def set_progress(self, progress: float) -> None:
        """How much of the training is done, in [0, 1]; the share of hard patches and the momentum follow."""
        self.progress = progress

    def get_extra_state(self) -> Tensor | None:
        """Where hard patches have been: a resumed run logs the entropy that an uninterrupted one would have."""
        return self._histogram

    def set_extra_state(self, state: Tensor | None) -> None:
        """Continue with what :meth:`get_extra_state` gave."""
        self._histogram = state

    def update_teacher(self) -> None:
        """Let the teacher follow, after a step of the optimizer."""
        if self.guidance == "teacher" and self.teacher is not None:
            self.teacher.update(self.network, self.progress)

    @property
    def hard_share(self) -> float:
        """r_t: share of the hidden patches that is chosen by difficulty now (Eq. 3)."""
        if self.guidance == "none" or self.progress < self.warmup:
            return 0.0
        return linear(self.progress, self.hard_share_start, self.hard_share_end)

    @torch.no_grad()
    def difficulty(self, image: Tensor, hidden: Tensor) -> Tensor:
        """Score (B, n) of every patch of ``image`` (B, C, *S), reconstructed with ``hidden`` (B, *grid) hidden."""
        if self.teacher is not None:
            made = self.teacher(image, ~hidden)
        else:
            training = self.network.training
            made = self.network.eval()(image, ~hidden)
            self.network.train(training)
        return patch_difficulty(
            made,
            image,
            patch_size=self.patch_size,
            score=self.score,
            normalise=self.normalise,
            z_score=self.z_score,
        )

    @torch.no_grad()
    def draw_mask(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Mask for ``image`` (B, C, *S).

        Returns:
            bool (B, n), what is hidden; bool (B, n), what of it was chosen by difficulty; and (B, n) the difficulties,
            NaN where the patch was visible to the teacher, or ``None`` where nobody was asked.

        Raises:
            ValueError: when the mask ratio hides all patches of such an image, or none.
        """
        grid = grid_size(image.shape[2:], self.patch_size)
        n = math.prod(grid)
        n_masked = n_masked_patches(n, self.mask_ratio, "round_keep")
        if not 0 < n_masked < n:
            raise ValueError(
                f"mask_ratio: {self.mask_ratio} of {n} patches leaves none hidden or none visible. Give a share that "
                "leaves both, or larger crops."
            )
        n_hard = n_hard_patches(n, n_masked, self.hard_share, self.counts)
        generator = self.masks.on(image.device)
        first = patch_mask(
            len(image), grid, mask_ratio=self.mask_ratio, rule="round_keep", generator=generator, device=image.device
        )
        candidates = first.flatten(1)
        if n_hard == 0:
            return candidates, torch.zeros_like(candidates), None
        scores = self.difficulty(image, first)
        found = scores.masked_fill(~candidates, math.nan)
        # a patch of one value, such as padding, holds nothing to reconstruct
        values = patchify(image, self.patch_size)
        candidates = candidates & (values.amax(-1) > values.amin(-1))
        if self.exclude_background:
            candidates = candidates & self._in_body(image)
        hidden, hard = hard_patch_mask(
            scores if self.select == "hardest" else -scores,
            n_masked=n_masked,
            n_hard=n_hard,
            candidates=candidates,
            generator=generator,
        )
        return hidden, hard, found

    def forward(self, image: Tensor) -> dict[str, Any]:
        """Reconstruct the hidden patches of ``image`` (B, C, *S), values in [0, 1].

        Returns:
            the dictionary of :mod:`common.methods`, V = 1; ``reconstruction`` is in units of the image and for looking
            at, equal to the image where that was visible; ``prediction`` (B, C, *S) is what the loss takes: what the
            network made, of normalised patches where ``normalise`` is true; ``patch_mask`` and ``hard`` bool (B, n);
            ``patch_size``.
        """
        image = image.as_subclass(Tensor)  # metadata costs time in every operation
        grid = grid_size(image.shape[2:], self.patch_size)
        hidden, hard, difficulty = self.draw_mask(image)
        prediction = self.network(image, ~hidden.view(-1, *grid)).float()
        mask = self._to_voxels(hidden, image)
        outputs = {
            "reconstruction": self._in_units_of(image, prediction, mask)[None],
            "prediction": prediction,
            "target": image[None],
            "mask": mask[None],
            "fill": 0.0,
            "patch_mask": hidden,
            "hard": hard,
            "patch_size": self.patch_size,
            "normalise": "unbiased" if self.normalise else False,
            "stats": self._stats(image, mask, hidden, hard),
        }
        if difficulty is not None:
            outputs["maps"] = {"difficulty": self._to_voxels(difficulty, image)[None]}
            outputs["regions"] = {"chosen by difficulty": self._to_voxels(hard, image)[None]}
        return outputs

    @torch.no_grad()
    def _stats(self, image: Tensor, mask: Tensor, hidden: Tensor, hard: Tensor) -> dict[str, Tensor]:
        n = hard.shape[1]
        if self._histogram is None or len(self._histogram) != n:
            self._histogram = torch.zeros(n, device=hard.device)
        self._histogram = self._histogram.to(hard.device) * _DECAY + hard.sum(0)
        places = self._histogram / self._histogram.sum().clamp(min=_EPS)
        air = ~self._in_body(image)
        momentum = self.teacher.momentum(self.progress) if self.guidance == "teacher" and self.teacher else 0.0
        return {
            "mask_share": mask.float().mean(),
            "hard_share": hard.sum() / hidden.sum(),
            "air_share": air.float().mean(),
            "air_share_of_hard": (air & hard).sum() / hard.sum().clamp(min=1),
            # 1: hard patches come from everywhere in the crop; 0: always from the same place
            "hard_entropy": torch.special.entr(places).sum() / math.log(n),
            "teacher_momentum": torch.full((), momentum, device=hard.device),
        }

    def _in_body(self, image: Tensor) -> Tensor:
        return eligible_patches(enclosed_by_tissue(image[:, :1] > self.tissue_level), self.patch_size)

    @torch.no_grad()
    def _in_units_of(self, image: Tensor, prediction: Tensor, mask: Tensor) -> Tensor:
        """The image, with its hidden patches as the network would have them."""
        if self.normalise:
            variance, mean = torch.var_mean(patchify(image.float(), self.patch_size), dim=-1)
            deviation = (variance + _EPS).sqrt()
            prediction = prediction * self._to_voxels(deviation, image) + self._to_voxels(mean, image)
        return torch.where(mask, prediction, image.float())

    def _to_voxels(self, patches: Tensor, image: Tensor) -> Tensor:
        """Values of patches (B, n) as voxels (B, 1, *S)."""
        shape = image.shape[2:]
        return upsample_patch_mask(patches.view(-1, *grid_size(shape, self.patch_size)), self.patch_size, shape)


class AnatoMaskLoss(nn.Module):
    """Mean squared error of the hidden patches, of mean 0 and variance 1 each (section 3.2; METHODS section 3.5).

    Eq. 2 is printed with the mask on the target alone; what is visible does not count here, as in the code.
    """

    def forward(self, outputs: dict[str, Any], target: Tensor | None = None) -> Tensor:
        """Scalar loss of what :class:`AnatoMask` returns; it also goes into ``outputs["losses"]``.

        Args:
            outputs: see :meth:`AnatoMask.forward`.
            target: what MONAI's trainer passes; unused, ``outputs`` holds the target.
        """
        del target
        loss = masked_patch_loss(
            outputs["prediction"],
            outputs["target"][0],
            outputs["patch_mask"],
            patch_size=outputs["patch_size"],
            normalise=outputs["normalise"],
        )
        outputs["losses"] = {"reconstruction": loss.detach()}
        return loss
