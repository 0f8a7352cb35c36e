"""What the random mask transforms share: drawing from MONAI's random state, filling, storing the mask."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.data.meta_obj import get_track_meta
from monai.transforms import MapTransform, RandomizableTransform
from monai.utils import TransformBackends, convert_to_dst_type, convert_to_tensor
from torch import Tensor

from common.masking.generator import MaskGenerator


class RandMask(RandomizableTransform):
    """Hide part of an image: all channels of a hidden voxel become ``fill``. Subclasses say where.

    Args:
        prob: probability that an image is masked at all.
        fill: value of hidden voxels.
    """

    backend = [TransformBackends.TORCH]  # noqa: RUF012  # MONAI's convention

    def __init__(self, *, prob: float, fill: float) -> None:
        super().__init__(prob)
        self.fill = float(fill)
        self._seed = 0
        self._generator = MaskGenerator()

    @abstractmethod
    def draw(self, image: Tensor, generator: torch.Generator) -> Tensor:
        """Mask bool (1, 1, *S) of a batch of one image (1, C, *S)."""

    def randomize(self, data: Any = None) -> None:
        """Draw whether to mask, and a seed for the mask."""
        super().randomize(data)
        self._seed = int(self.R.randint(np.iinfo(np.int32).max))

    def mask(self, img: NdarrayOrTensor) -> Tensor:
        """Mask bool (1, *S) of an image (C, *S) for the seed drawn last; all ``False`` when it is not to be masked."""
        image = convert_to_tensor(img, track_meta=False)
        if not self._do_transform:
            return torch.zeros_like(image[:1], dtype=torch.bool)
        self._generator.seed(self._seed)
        return self.draw(image[None], self._generator.on(image.device))[0]

    def hide(self, img: NdarrayOrTensor, mask: Tensor) -> Tensor:
        """Image (C, *S) with the hidden voxels filled; integers become float32."""
        image = convert_to_tensor(img, track_meta=get_track_meta())
        values = convert_to_tensor(image, track_meta=False)
        values = values if values.is_floating_point() else values.float()
        return convert_to_dst_type(values.masked_fill(mask, self.fill), dst=image, dtype=values.dtype)[0]

    def __call__(self, img: NdarrayOrTensor, randomize: bool = True) -> Tensor:
        """Masked image (C, *S). ``randomize=False`` repeats the mask drawn last."""
        if randomize:
            self.randomize()
        return self.hide(img, self.mask(img))


class RandMaskd(MapTransform, RandomizableTransform):
    """Dictionary twin of a :class:`RandMask`: one mask, that of the first key, hides the same voxels of all keys.

    Args:
        keys: images (C, *S) of one grid.
        masker: the array transform.
        mask_key: where the mask, bool (1, *S), is stored; ``None`` stores none.
        allow_missing_keys: leave absent keys alone instead of raising.
    """

    backend = RandMask.backend

    def __init__(
        self, keys: KeysCollection, *, masker: RandMask, mask_key: str | None, allow_missing_keys: bool
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, masker.prob)
        self.masker = masker
        self.mask_key = mask_key

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> RandMaskd:
        """Seed this transform and the array transform that draws for it."""
        super().set_random_state(seed, state)
        self.masker.set_random_state(seed, state)
        return self

    def __call__(self, data: Mapping[Hashable, NdarrayOrTensor]) -> dict[Hashable, Any]:
        """The dictionary with its images masked and the mask beside them."""
        d: dict[Hashable, Any] = dict(data)
        mask: Tensor | None = None
        self.masker.randomize()
        for key in self.key_iterator(d):
            if mask is None:
                mask = self.masker.mask(d[key])
            d[key] = self.masker.hide(d[key], mask)
        if mask is not None and self.mask_key is not None:
            d[self.mask_key] = mask
        return d
