"""Draw what TCS-MAE and AMLP would hide in a volume of yours, before any training.

python scripts/draw_masks.py tissue VOLUME.nii.gz OUT.png           TCS-MAE: the tissue in each intensity interval
python scripts/draw_masks.py lesion VOLUME.nii.gz OUT.png           AMLP: what k-means calls foreground
python scripts/draw_masks.py lesion VOLUME.nii.gz OUT.png --label LABEL.nii.gz     and how much of the tumour it is
"""

from __future__ import annotations

import argparse
import sys

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import Identity

from common.data.structures import ALL_STRUCTURES
from common.handlers.reconstruction_pictures import tinted
from common.masking.enclosed import enclosed_by_tissue
from common.masking.intensity import luminosity
from common.methods.amlp import AMLP
from common.preview import plane_view, save_figure
from common.recipes import preprocessing
from common.reconstruction_figure import reconstruction_figure
from common.transforms.chest_channels import ChestChannels
from common.transforms.hu_window import hu_window

TUMOR = ALL_STRUCTURES["tumor"]


def bins_in_hu(n_bins: int) -> list[str]:
    """HU of each interval of the luminosity of lung and mediastinal window, where there is no edge."""
    hu = torch.arange(-1100, 401, dtype=torch.float32)
    flat = ChestChannels(spatial_dims=2)(hu[None, :, None].expand(1, -1, 3))[:2, :, 1]
    gray = luminosity(torch.cat([flat, torch.zeros_like(flat[:1])])[None, :, :, None])[0, 0, :, 0]
    inside = [hu[(gray * n_bins).long().clamp(max=n_bins - 1) == i] for i in range(n_bins)]
    names = [f"{int(x[0])} to {int(x[-1])} HU" if len(x) else "edges only" for x in inside]
    names[0] = f"up to {int(inside[0][-1])} HU"
    last = max(i for i, x in enumerate(inside) if len(x))
    names[last] = f"from {int(inside[last][0])} HU"
    return names


def draw_tissue(hu: Tensor, n_bins: int) -> Figure:
    """A panel per interval: the axial slice through the middle of the body, the interval's voxels tinted."""
    channels = torch.as_tensor(ChestChannels()(hu))
    bins = (luminosity(channels[None])[0] * n_bins).long().clamp(max=n_bins - 1)
    body = enclosed_by_tissue(hu[None] > -500)[0]
    area = body[0].sum((0, 1)).cumsum(0)
    k = int(torch.searchsorted(area, area[-1] // 2))
    columns = (n_bins + 1) // 2
    figure = Figure(figsize=(3 * columns, 6), dpi=110, layout="constrained")
    for i, (axes, name) in enumerate(zip(figure.subplots(2, columns).flat, bins_in_hu(n_bins), strict=False)):
        picture = tinted(channels[:2], bins == i).movedim(0, -1).numpy()
        axes.imshow(plane_view(picture, "axial", k))
        share = (bins == i)[body].float().mean().item()
        axes.set_title(f"{i}: {name}\n{share:.0%} of the body", fontsize=9)
    for axes in figure.axes:
        axes.set_axis_off()
    return figure


def draw_lesion(hu: Tensor, label: Tensor | None, *, patch_size: int, roi: int, window: tuple[float, float]) -> Figure:
    """A row per number of clusters: a crop, its tumour, what is called foreground, and what is hidden first."""
    where = torch.ones_like(hu) if label is None or not (label == TUMOR).any() else label == TUMOR
    centre = where[0].nonzero().float().mean(0).long().tolist()
    edges = [min(roi, s) // patch_size * patch_size for s in hu.shape[1:]]
    first = [min(max(c - e // 2, 0), s - e) for c, e, s in zip(centre, edges, hu.shape[1:], strict=True)]
    crop = (slice(None), *(slice(f, f + e) for f, e in zip(first, edges, strict=True)))
    level, width = window
    image = hu_window(hu[crop], level, width)[None]
    rows = []
    for n_clusters in (2, 3):
        tissue_level = max(0.0, 0.5 - (500 + level) / width)
        amlp = AMLP(Identity(), patch_size=patch_size, n_clusters=n_clusters, tissue_level=tissue_level)
        outputs = amlp(image)
        pictures = {"input": image[0]}
        if label is not None:
            tumour = label[crop] == TUMOR
            pictures["tumour"] = tinted(image[0], tumour)
            found = outputs["mask"][0, 0][tumour].float().mean().item()
            share = outputs["stats"]["mask_share"].item()
            sys.stdout.write(f"k = {n_clusters}: {found:.0%} of the tumour is among the {share:.0%} hidden first\n")
        pictures["foreground"] = tinted(image[0], outputs["regions"]["k-means foreground"][0, 0])
        pictures["hidden first"] = torch.where(outputs["mask"][0, 0], outputs["fill"], image[0])
        rows.append((f"k = {n_clusters}", pictures))
    return reconstruction_figure(rows)


def main() -> None:
    """Draw what the command line asks for."""
    parser = argparse.ArgumentParser(description="What TCS-MAE and AMLP would hide in a volume.")
    parser.add_argument("what", choices=["tissue", "lesion"])
    parser.add_argument("volume", help="NIfTI file or DICOM series folder, HU")
    parser.add_argument("picture", help="PNG to write")
    parser.add_argument("--label", help="NIfTI file of structure ids; tumour is 24")
    parser.add_argument("--spacing", type=float, default=1.5, help="mm (default: 1.5)")
    parser.add_argument("--n_bins", type=int, default=8, help="intensity intervals (default: 8)")
    parser.add_argument("--patch_size", type=int, default=16, help="voxels (default: 16)")
    parser.add_argument("--roi_size", type=int, default=96, help="edge of the crop, voxels (default: 96)")
    parser.add_argument("--hu_window", type=float, nargs=2, default=(-300, 1400), metavar=("LEVEL", "WIDTH"))
    chosen = parser.parse_args()
    structures = ALL_STRUCTURES if chosen.label else None
    item = {"image": chosen.volume, **({"label": chosen.label} if chosen.label else {})}
    data = preprocessing(spacing=[chosen.spacing] * 3, structures=structures)(item)
    hu = data["image"].as_tensor().float()
    label = data["label"].as_tensor() if chosen.label else None
    if chosen.what == "tissue":
        figure = draw_tissue(hu, chosen.n_bins)
    else:
        window = (chosen.hu_window[0], chosen.hu_window[1])
        figure = draw_lesion(hu, label, patch_size=chosen.patch_size, roi=chosen.roi_size, window=window)
    save_figure(figure, chosen.picture)


if __name__ == "__main__":
    main()
