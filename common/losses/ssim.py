"""Structural similarity of 2D and 3D images: SSIM (Wang et al. 2004) with a Gaussian window, as a loss.

The gradient is written out instead of recorded, and filtering goes axis by axis (gaussian_filter.py): on a CPU a small
part of the time that convolutions of the whole window take; ``scripts/benchmark.py ssim`` measures it.

With ``s = x + y`` and ``d = x - y``, means ``m`` and variances ``v`` of the two over the window, SSIM reads::

    SSIM = (1 - 2 e) (1 - 2 f),  e = m_d^2 / (m_s^2 + m_d^2 + 2 C1),  f = v_d / (v_s + v_d + 2 C2)

which is the usual formula with four filtered maps instead of five. Clamping both variances at 0 bounds it to [-1, 1]
whatever the rounding, and identical images give exactly 1.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from common.losses.gaussian_filter import PADDINGS, Window, full_float32, smooth

_REDUCTIONS = ("mean", "none")
_WINDOWS = {2: 15, 3: 7}


class _Memory(NamedTuple):
    """What the maps of an image are computed in, one after the other: fresh memory would cost as much as arithmetic."""

    maps: Tensor  # (6, M, *S)
    filtered: Tensor  # (4, M, *S'): what is filtered

    @classmethod
    def like(cls, images: Tensor, window: Window) -> _Memory:
        """Memory for images (M, *S)."""
        lost = 0 if window.padding == "zero" else window.size - 1
        return cls(
            images.new_empty(6, *images.shape),
            images.new_empty(4, len(images), *(size - lost for size in images.shape[1:])),
        )


def _ssim_maps(
    x: Tensor,
    y: Tensor,
    window: Window,
    c1: float,
    c2: float,
    gradients: tuple[Tensor | None, Tensor | None],
    memory: _Memory,
) -> Tensor:
    """Mean SSIM (M,) of ``x`` and ``y`` (M, *S).

    Into ``gradients`` (M, *S), where they are wanted, goes a quarter of the sum's gradient by ``x`` and ``y``.
    """
    maps, filtered = memory
    s, d = torch.add(x, y, out=maps[0]), torch.sub(x, y, out=maps[1])
    torch.mul(s, s, out=maps[2])
    torch.mul(d, d, out=maps[3])
    mean_s, mean_d, v_s, v_d = _smooth(maps[:4], window, filtered)
    # what is left of a variance of 0 after rounding may be negative
    v_s.addcmul_(mean_s, mean_s, value=-1).clamp_(min=0)
    v_d.addcmul_(mean_d, mean_d, value=-1).clamp_(min=0)

    e = mean_d * mean_d
    below_m = torch.addcmul(e, mean_s, mean_s).add_(2 * c1)
    e.div_(below_m)
    below_v = torch.add(v_s, v_d).add_(2 * c2)
    f = v_d / below_v
    light, contrast = torch.rsub(e, 1, alpha=2), torch.rsub(f, 1, alpha=2)
    value = (light * contrast).flatten(1).mean(1)
    if gradients == (None, None):
        return value

    # Half of the derivatives by the variances and, where they enter, by the means; clamping undid rounding alone, so
    # they pass it. All take the place of what is not needed any more.
    by_v = light.div_(below_v)
    by_v_s = torch.mul(by_v, f, out=v_s)
    by_v_d = torch.sub(by_v_s, by_v, out=v_d)
    by_m = contrast.div_(below_m)
    by_square_s = e.mul_(by_m)
    by_square_d = torch.sub(by_square_s, by_m, out=by_m)
    by_m_s = mean_s.mul_(by_square_s.sub_(by_v_s))
    by_m_d = mean_d.mul_(by_square_d.sub_(by_v_d))

    by_x, by_y = gradients
    if by_x is not None and by_y is not None:
        by_s, by_d, back_v_s, back_v_d = _smooth(filtered, window, maps[2:], transposed=True)
        by_s.addcmul_(back_v_s, s)
        by_d.addcmul_(back_v_d, d)
        torch.add(by_s, by_d, out=by_x)
        torch.sub(by_s, by_d, out=by_y)
        return value
    # one argument only: d stands for x - y or y - x, and three maps are enough
    sign, gradient = (1, by_x) if by_y is None else (-1, by_y)
    torch.add(by_m_s, by_m_d, alpha=sign, out=by_m_d)
    back_m, back_v_s, back_v_d = _smooth(filtered[1:], window, maps[3:], transposed=True)
    torch.addcmul(back_m, back_v_s, s, out=gradient).addcmul_(back_v_d, d, value=sign)
    return value


def _smooth(maps: Tensor, window: Window, out: Tensor, *, transposed: bool = False) -> Tensor:
    """Filter maps (K, M, *S) into ``out``."""
    smooth(maps.flatten(0, 1), window, transposed=transposed, out=out.flatten(0, 1))
    return out


class _SSIM(torch.autograd.Function):
    """Mean SSIM per sample. The gradient is found on the way forward, so nothing but it has to be kept."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        y: Tensor,
        window: Window,
        c1: float,
        c2: float,
        wanted: tuple[bool, bool],
    ) -> Tensor:
        batch, channels, *shape = x.shape
        images = [image.detach().reshape(-1, *shape) for image in (x, y)]
        gradients = [torch.empty_like(images[0]) if w else None for w in wanted]
        # One channel at a time stays in a CPU's cache and bounds memory; a GPU is better off with all at once.
        step = 1 if x.device.type == "cpu" else batch * channels
        memory = _Memory.like(images[0][:step], window)
        values = []
        for start in range(0, batch * channels, step):
            part = slice(start, start + step)
            by_a, by_b = (None if g is None else g[part] for g in gradients)
            values.append(_ssim_maps(images[0][part], images[1][part], window, c1, c2, (by_a, by_b), memory))
        ctx.gradients = [None if g is None else g.view(x.shape) for g in gradients]
        ctx.scale = 4 / (channels * memory.filtered[0, 0].numel())
        return torch.cat(values).view(batch, channels).mean(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        scale = grad * ctx.scale
        by_x, by_y = (None if g is None else g * scale.view(-1, *[1] * (g.ndim - 1)) for g in ctx.gradients)
        return by_x, by_y, None, None, None, None


def ssim(
    x: Tensor,
    y: Tensor,
    *,
    spatial_dims: int = 3,
    window_size: int | None = None,
    sigma: float = 1.5,
    data_range: float = 1.0,
    padding: str = "zero",
) -> Tensor:
    """Structural similarity of each sample, averaged over channels and space, computed in float32.

    Args:
        x: images (B, C, *S), floating point; float64 stays float64.
        y: images of the same shape.
        spatial_dims: 2 or 3.
        window_size: edge of the Gaussian window in voxels, odd; ``None`` is 15 in 2D and 7 in 3D.
        sigma: standard deviation of the window in voxels.
        data_range: difference between the largest and the smallest possible value.
        padding: ``"zero"`` keeps the size and counts zeros beyond the border, ``"valid"`` (MONAI's way) uses only
            windows that lie inside.

    Returns:
        similarity (B,), 1 for identical images, at least -1.

    Raises:
        ValueError: for shapes that differ or do not fit, or an argument out of range.
    """
    window_size = _check_window(spatial_dims, window_size, sigma, data_range, padding)
    if x.shape != y.shape or x.ndim != spatial_dims + 2:
        raise ValueError(
            f"ssim: got images of shape {tuple(x.shape)} and {tuple(y.shape)}. "
            f"Give two of the same shape (B, C, *S) with {spatial_dims} spatial axes."
        )
    if padding == "valid" and min(x.shape[2:]) < window_size:
        raise ValueError(
            f"ssim: an image of shape {tuple(x.shape[2:])} holds no window of {window_size} voxels. "
            'Give larger images, a smaller window_size or padding="zero".'
        )
    recording = torch.is_grad_enabled()
    wanted = (recording and x.requires_grad, recording and y.requires_grad)
    dtype = torch.float64 if torch.float64 in (x.dtype, y.dtype) else torch.float32
    # subclasses (MetaTensor) would carry their bookkeeping through every product
    x, y = (image.as_subclass(Tensor).to(dtype).contiguous() for image in (x, y))
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    with torch.autocast(device_type=x.device.type, enabled=False), full_float32():
        result: Tensor = _SSIM.apply(x, y, Window(window_size, float(sigma), padding), c1, c2, wanted)
    return result


def _check_window(spatial_dims: int, window_size: int | None, sigma: float, data_range: float, padding: str) -> int:
    """Window size after the defaults; raises ``ValueError`` for what makes no window."""
    if spatial_dims not in _WINDOWS:
        raise ValueError(f"spatial_dims: got {spatial_dims}. Allowed are 2 and 3.")
    if window_size is None:
        window_size = _WINDOWS[spatial_dims]
    if window_size < 1 or window_size % 2 == 0:
        raise ValueError(f"window_size: got {window_size}. Give an odd number of voxels.")
    if sigma <= 0 or data_range <= 0:
        raise ValueError(f"sigma, data_range: got {sigma} and {data_range}. Both must be positive.")
    if padding not in PADDINGS:
        raise ValueError(f"padding: got {padding!r}. Allowed are {', '.join(map(repr, PADDINGS))}.")
    return window_size


class SSIMLoss(nn.Module):
    """``1 - SSIM``, in [0, 2]: ISD-MAE's and TCS-MAE's reconstruction loss.

    Sources: Wang et al., "Image quality assessment", IEEE TIP 13(4), 2004; ISD-MAE (arXiv 2411.13198) Eq. 14, with the
    reconstruction as argument. The released ISD-MAE code replicates a 2D window along the third axis, so that it sums
    to 7 and rewards flat output; this window sums to 1. With ``padding="valid"`` the value and the gradient are those
    of ``monai.losses.SSIMLoss`` at the same ``win_size`` and ``kernel_sigma``.

    Args:
        spatial_dims: 2 or 3.
        window_size: edge of the Gaussian window in voxels, odd; ``None`` is 15 in 2D and 7 in 3D.
        sigma: standard deviation of the window in voxels.
        data_range: difference between the largest and the smallest possible value.
        padding: ``"zero"`` keeps the size and counts zeros beyond the border (released code), ``"valid"`` uses only
            windows that lie inside.
        reduction: ``"mean"`` over the batch or ``"none"``, one value per sample.

    Example:
        >>> image = torch.rand(2, 1, 16, 16, 16)
        >>> SSIMLoss(spatial_dims=3)(image, image).item()
        0.0
    """

    def __init__(
        self,
        *,
        spatial_dims: int = 3,
        window_size: int | None = None,
        sigma: float = 1.5,
        data_range: float = 1.0,
        padding: str = "zero",
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        if reduction not in _REDUCTIONS:
            raise ValueError(f"reduction: got {reduction!r}. Allowed are {', '.join(map(repr, _REDUCTIONS))}.")
        self.spatial_dims = spatial_dims
        self.window_size = _check_window(spatial_dims, window_size, sigma, data_range, padding)
        self.sigma = sigma
        self.data_range = data_range
        self.padding = padding
        self.reduction = reduction

    def forward(self, reconstruction: Tensor, target: Tensor) -> Tensor:
        """Loss of ``reconstruction`` against ``target``, both (B, C, *S): a scalar, or (B,) without reduction."""
        loss = 1 - ssim(
            reconstruction,
            target,
            spatial_dims=self.spatial_dims,
            window_size=self.window_size,
            sigma=self.sigma,
            data_range=self.data_range,
            padding=self.padding,
        )
        return loss.mean() if self.reduction == "mean" else loss
