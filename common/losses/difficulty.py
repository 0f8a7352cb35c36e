"""How hard a patch was to reconstruct: what a teacher tells AnatoMask (arXiv 2407.06468, section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from common.losses.reconstruction import patch_loss_map, patchify

SCORES = ("denorm", "student", "code")


def patch_difficulty(
    made: Tensor,
    image: Tensor,
    *,
    patch_size: int | Sequence[int],
    score: str = "denorm",
    normalise: bool = True,
    z_score: Sequence[float] = (0.0, 1.0),
) -> Tensor:
    """How badly each patch was reconstructed.

    Args:
        made: reconstruction (B, C, *S); of normalised patches, where ``normalise`` is true.
        image: (B, C, *S).
        patch_size: edge in voxels.
        score: ``"student"``, the error that is trained on (text); ``"denorm"``, the same in units of the image: the
            error times the patch's variance, so that noise in flat patches does not count as hard; ``"code"``, the
            error against the image's z-score, whatever the reconstruction's units (released code).
        normalise: whether the network predicts patches of mean 0 and variance 1.
        z_score: mean and standard deviation of the data in units of the image; only ``"code"`` asks.

    Returns:
        (B, n), float32.
    """
    if score == "code":
        mean, deviation = z_score
        return patch_loss_map(made, (image.float() - mean) / deviation, patch_size=patch_size)
    error = patch_loss_map(made, image, patch_size=patch_size, normalise="unbiased" if normalise else False)
    if score == "denorm" and normalise:
        error = error * patchify(image.float(), patch_size).var(dim=-1)
    return error
