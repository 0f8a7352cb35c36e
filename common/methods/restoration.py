"""Restoration of a disturbed image: Models Genesis, and the restoring branch of TransVW.

Source: Zhou et al. (arXiv 2004.07882) and Haghighi et al. (arXiv 2102.10680) and their released code: the squared error
of all voxels. Models Genesis shuffles locally (0.5), bends the intensities (0.9) and paints (0.9; outside of boxes 0.8,
in them 0.2), in this order. TransVW does one of the four, each as often, after an elastic deformation that is left out
here; its other branch, the classification of visual words, is not part of this.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from common.masking.generator import MaskGenerator
from common.methods.disturbance import bend_at_random, inner_boxes, outside_of_boxes, random_parts, shuffle_within
from common.methods.views import check_reconstructs
from common.networks.mit_unet import MixTransformerUNet


class Restoration(nn.Module):
    """Restores an image that has been shuffled, bent in its intensities, or painted over with noise.

    Args:
        network: reconstructs its input, through its last convolution as it is.
        shuffle: probability of local shuffling.
        bend: probability of a change of intensities.
        paint: probability of painting.
        outside: share of out-painting among the painted; the rest is in-painting.
        one_at_a_time: one of the four for each image, each as often, in place of these probabilities (TransVW).
        mask_seed: start of the random stream of disturbances; :meth:`seed_masks` starts it anew.

    Raises:
        ValueError: for an argument out of range.
    """

    def __init__(
        self,
        network: MixTransformerUNet,
        *,
        shuffle: float = 0.5,
        bend: float = 0.9,
        paint: float = 0.9,
        outside: float = 0.8,
        one_at_a_time: bool = False,
        mask_seed: int = 0,
    ) -> None:
        super().__init__()
        check_reconstructs(network)
        if not all(0 <= probability <= 1 for probability in (shuffle, bend, paint, outside)):
            raise ValueError(
                f"shuffle, bend, paint, outside: got {shuffle}, {bend}, {paint} and {outside}. Give probabilities, "
                "0 to 1."
            )
        self.network = network
        self.shuffle, self.bend, self.paint, self.outside = shuffle, bend, paint, outside
        self.one_at_a_time = one_at_a_time
        self.masks = MaskGenerator(mask_seed)

    def seed_masks(self, seed: int) -> None:
        """Start the random stream of disturbances anew."""
        self.masks.seed(seed)

    def choose(self, batch_size: int, generator: torch.Generator) -> Tensor:
        """Bool (4, B): who is shuffled, bent, painted in boxes, and painted outside of them."""
        drawn = torch.rand(4, batch_size, generator=generator, device=generator.device)
        if self.one_at_a_time:
            return torch.stack([(4 * drawn[0]).long() == kind for kind in range(4)])
        painted, outside = drawn[2] < self.paint, drawn[3] < self.outside
        return torch.stack([drawn[0] < self.shuffle, drawn[1] < self.bend, painted & ~outside, painted & outside])

    @torch.no_grad()
    def disturb(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """``image`` (B, C, *S) disturbed, and bool (B, 1, *S), where it is painted over."""
        generator = self.masks.on(image.device)
        shuffled, bent, within, outside = self.choose(len(image), generator).view(4, -1, *[1] * (image.ndim - 1))
        with torch.autocast(device_type=image.device.type, enabled=False):
            parts = random_parts(list(image.shape[2:]), len(image), generator=generator, device=image.device)
            seen = torch.where(shuffled, shuffle_within(image, parts, generator=generator), image)
            seen = torch.where(bent, bend_at_random(seen, generator=generator), seen)
            painted = within & inner_boxes(image, generator=generator)
            painted |= outside & outside_of_boxes(image, generator=generator)
            noise = torch.rand(image.shape, generator=generator, device=image.device)
            return torch.where(painted, noise, seen), painted

    def forward(self, image: Tensor) -> dict[str, Any]:
        """Restore ``image`` (B, C, *S), values in [0, 1].

        Returns:
            ``reconstruction`` float32 (1, B, C, *S), not limited to a range; ``target`` (1, B, C, *S), the image;
            ``image`` (1, B, C, *S), what the network saw; ``mask``, nowhere ``True``; ``regions``: ``painted``; and
            ``stats``: ``painted_share``.
        """
        image = image.as_subclass(Tensor).float()
        seen, painted = self.disturb(image)
        return {
            "reconstruction": self.network(seen).float().unsqueeze(0),
            "target": image.unsqueeze(0),
            "image": seen.unsqueeze(0),
            "mask": torch.zeros_like(painted).unsqueeze(0),
            "regions": {"painted": painted.unsqueeze(0)},
            "stats": {"painted_share": painted.float().mean()},
        }
