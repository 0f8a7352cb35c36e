"""Random windows, blur and noise of a batch on its device, and the views that contrastive methods make with them.

Sources: SimCLR (arXiv 2002.05709), MoCo v2 (arXiv 2003.04297), BYOL (arXiv 2006.07733) and DINO (arXiv 2104.14294), and
the code published with them. CT has windows in place of colours: brightness and contrast become a window's level and
width; grey-scale, hue, saturation and solarisation have no counterpart.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from common.methods.augmentation import random_crop, warp

_NARROWEST = 1e-3  # a blur of so few voxels leaves each voxel as it is, exactly


def random_window(
    image: Tensor, *, width: float, level: float, probability: float, generator: torch.Generator | None = None
) -> Tensor:
    """Another window for each channel: contrast and brightness, values in [0, 1] again.

    What the first window cut off stays lost, so that a wider one shows it as flat.

    Args:
        image: (B, C, *S) in [0, 1], channels cut to windows.
        width: largest relative change of contrast, around the middle of the window.
        level: largest shift, in parts of the window.
        probability: that a sample is changed.
        generator: random stream on the image's device.

    Returns:
        (B, C, *S) in [0, 1].
    """
    batch, channels, *shape = image.shape
    drawn = 2 * torch.rand(2, batch, channels, generator=generator, device=image.device) - 1
    changed = torch.rand(batch, 1, generator=generator, device=image.device) < probability
    factor, shift = (drawn * changed).view(2, batch, channels, *[1] * len(shape))
    return ((image - 0.5) * (1 + width * factor) + 0.5 + level * shift).clamp(0, 1)


def random_blur(
    image: Tensor, *, sigma: Sequence[float], probability: float, generator: torch.Generator | None = None
) -> Tensor:
    """Gaussian blur, as wide for each sample as is drawn; at the border, over the voxels that are there.

    Args:
        image: (B, C, *S).
        sigma: smallest and largest standard deviation in voxels.
        probability: that a sample is blurred.
        generator: random stream on the image's device.

    Returns:
        (B, C, *S).
    """
    drawn = torch.rand(2, len(image), generator=generator, device=image.device)
    deviation = torch.where(drawn[1] < probability, sigma[0] + (sigma[1] - sigma[0]) * drawn[0], 0.0)
    deviation = deviation.clamp(min=_NARROWEST)[:, None, None]
    for axis in range(2, image.ndim):
        place = torch.arange(image.shape[axis], device=image.device)
        weights = (-0.5 * ((place[:, None] - place) / deviation).square()).exp()
        weights = weights / weights.sum(2, keepdim=True)  # (B, S, S): one product filters an axis of all samples
        along = image.movedim(axis, 1)
        image = torch.bmm(weights, along.flatten(2)).view(along.shape).movedim(1, axis)
    return image.contiguous()


def random_noise(image: Tensor, *, sd: float, generator: torch.Generator | None = None) -> Tensor:
    """Image (B, C, *S) with Gaussian noise of a deviation drawn from 0 to ``sd`` for each sample; in [0, 1] again."""
    shape = [len(image), *[1] * (image.ndim - 1)]
    deviation = sd * torch.rand(shape, generator=generator, device=image.device)
    noise = torch.randn(image.shape, generator=generator, device=image.device)
    return (image + deviation * noise).clamp(0, 1)


class RandomView:
    """A random part of each image at the image's size or another, mirrored, in another window, blurred and noisy.

    Defaults are those of MoCo v2's code, for all methods alike.

    Args:
        min_share: smallest share of the image that a view shows: 0.2 in MoCo v2, 0.08 in SimCLR and BYOL.
        max_share: largest share.
        aspect: see :func:`common.methods.augmentation.random_crop`.
        flip_axes: spatial axes to mirror along; ``None`` is all but the first. Views that agree whether they are
            mirrored or not would teach the network that left and right are alike, and structures have sides.
        width, level: see :func:`random_window`. A brightness between 0.6 and 1.4 shifts the middle of a window by 0.2.
        window_probability: that the window changes.
        sigma: see :func:`random_blur`.
        blur_probability: that a sample is blurred.
        noise_sd: see :func:`random_noise`. The papers add none; a scanner does.

    Raises:
        ValueError: for an argument out of range.
    """

    def __init__(
        self,
        *,
        min_share: float = 0.2,
        max_share: float = 1.0,
        aspect: float = 4 / 3,
        flip_axes: Sequence[int] | None = None,
        width: float = 0.4,
        level: float = 0.2,
        window_probability: float = 0.8,
        sigma: Sequence[float] = (0.1, 2.0),
        blur_probability: float = 0.5,
        noise_sd: float = 0.05,
    ) -> None:
        if not (0 < min_share <= max_share <= 1 and aspect >= 1):
            raise ValueError(
                f"min_share, max_share, aspect: got {min_share}, {max_share} and {aspect}. Give shares above 0 and at "
                "most 1, the smallest first, and 1 or more."
            )
        if not (0 <= window_probability <= 1 and 0 <= blur_probability <= 1):
            raise ValueError(
                f"window_probability, blur_probability: got {window_probability} and {blur_probability}. "
                "Give probabilities, 0 to 1."
            )
        if not (min(width, level, noise_sd) >= 0 and width < 1 and len(sigma) == 2 and 0 <= sigma[0] <= sigma[1]):
            raise ValueError(
                f"width, level, noise_sd, sigma: got {width}, {level}, {noise_sd} and {sigma}. Give 0 or more, a width "
                "below 1, and the smallest and the largest sigma."
            )
        self.min_share = min_share
        self.max_share = max_share
        self.aspect = aspect
        self.flip_axes = flip_axes
        self.width = width
        self.level = level
        self.window_probability = window_probability
        self.sigma = tuple(sigma)
        self.blur_probability = blur_probability
        self.noise_sd = noise_sd

    @torch.no_grad()
    def __call__(self, image: Tensor, generator: torch.Generator, *, shape: Sequence[int] | None = None) -> Tensor:
        """View float32 (B, C, *shape) of ``image`` (B, C, *S), both in [0, 1]; ``shape`` is S where none is given."""
        dims = image.ndim - 2
        box = random_crop(
            len(image),
            dims,
            min_share=self.min_share,
            max_share=self.max_share,
            aspect=self.aspect,
            flip_axes=range(1, dims) if self.flip_axes is None else self.flip_axes,
            generator=generator,
            device=image.device,
        )
        with torch.autocast(device_type=image.device.type, enabled=False):
            view = warp(image, box, beyond="border", shape=shape)
            view = random_window(
                view, width=self.width, level=self.level, probability=self.window_probability, generator=generator
            )
            view = random_blur(view, sigma=self.sigma, probability=self.blur_probability, generator=generator)
            return random_noise(view, sd=self.noise_sd, generator=generator)
