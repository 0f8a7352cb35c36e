"""The few compositions that pretraining, fine-tuning and inference must share.

A volume takes the same way to the network whoever asks: load, check, orient to RAS, resample, cut to the box around the
body, and turn HU into network channels. Training crops between the last two.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import torch
from monai.transforms import (
    CastToTyped,
    ClassesToIndicesd,
    Compose,
    CropForegroundd,
    EnsureTyped,
    MapTransform,
    Orientationd,
    RandAffined,
    RandCropByLabelClassesd,
    RandFlipd,
    RandGaussianNoised,
    RandScaleIntensityd,
    RandShiftIntensityd,
    RandSpatialCropd,
    ResizeWithPadOrCropd,
    SaveImaged,
    SelectItemsd,
    SpatialPadd,
    SqueezeDimd,
    ThresholdIntensityd,
    Transform,
)

from common.data.archive import MAX_CENTRES
from common.data.mask_writer import CaseLayout, MaskWriter, ProbabilityWriter
from common.transforms.argmax import ArgmaxChannelsd
from common.transforms.check_volume import CheckLabeld, CheckVolumed
from common.transforms.load import LoadVolumed
from common.transforms.outside_body import BodyMaskd, ClearOutsideBodyd, MarkOutsideBodyd
from common.transforms.prepared import OpenPrepared
from common.transforms.restore import RestoreGridd
from common.transforms.round_hu import RoundHUd
from common.transforms.spacing import SafeSpacingd
from common.transforms.structures import MAX_ID, ChannelsToIdsd, StructuresToChannelsd

AIR_HU = -1024.0
BODY_HU = -500.0
BODY_MARGIN = 4  # voxels of the network's grid


def preprocessing(
    *, spacing: Sequence[float], channels: MapTransform | None = None, structures: Mapping[str, int] | None = None
) -> Compose:
    """From a file to the body on the network's grid: what every stage does first.

    Training crops come from the box around the body, so inference looks there too: a network that has never seen the
    far air, or the table, may find anything in it. On the way back what was cut away is background.

    Args:
        spacing: mm; an entry of 0 or less keeps the scan's own spacing on that axis.
        channels: turns HU (1, *S) into the network's input; left out where cropping comes first.
        structures: load the ``label`` too, as channel indices (see :mod:`common.transforms.structures`).
    """
    label: list[Transform] = [] if structures is None else [StructuresToChannelsd(keys="label", structures=structures)]
    steps = _body_on_grid(spacing, label)
    if channels is not None:
        steps += [BodyMaskd(keys="image", level=BODY_HU), channels]
    return Compose(steps)


def _body_on_grid(spacing: Sequence[float], label: Sequence[Transform], box: str | None = None) -> list[Transform]:
    """Load, check, orient, resample and cut to the body; the label too, where there are steps for it.

    Args:
        spacing: see :func:`preprocessing`.
        label: what is done to the loaded ``label``.
        box: entries ``<box>_start`` and ``<box>_end`` receive the body's box in voxels of the resampled grid.
    """
    keys = ["image", "label"] if label else ["image"]
    linear_then_nearest = ["bilinear", "nearest"][: len(keys)]
    return [
        LoadVolumed(keys=keys),
        CheckVolumed(keys="image"),
        *label,
        Orientationd(keys=keys, axcodes="RAS", labels=None),
        SafeSpacingd(keys=keys, pixdim=spacing, mode=linear_then_nearest, padding_mode="border", dtype="float32"),
        CropForegroundd(
            keys=keys,
            source_key="image",
            select_fn=in_body,
            margin=BODY_MARGIN,
            allow_smaller=True,
            start_coord_key=box and f"{box}_start",
            end_coord_key=box and f"{box}_end",
        ),
    ]


def prepared_volume(*, spacing: Sequence[float], label: bool, known_ids: Collection[int] | None = None) -> Compose:
    """What an archive holds of a case: :func:`cached_volume` without what a training chooses, structures and crop.

    Image int16 HU, label uint8 ids, both (1, H, W, D) with their affine, and ``body_start`` and ``body_end``.

    Args:
        spacing: see :func:`preprocessing`.
        label: there is one.
        known_ids: see :class:`common.transforms.check_volume.CheckLabeld`.
    """
    ids: list[Transform] = [
        CheckLabeld(keys="label", known_ids=known_ids),
        ThresholdIntensityd(keys="label", threshold=MAX_ID + 1, above=False, cval=0.0),  # no structure has such an id
    ]
    steps = [*_body_on_grid(spacing, ids if label else [], box="body"), RoundHUd(keys="image")]
    return Compose([*steps, CastToTyped(keys="label", dtype="uint8")] if label else steps)


def cached_volume(
    *,
    spacing: Sequence[float],
    roi_size: Sequence[int],
    structures: Mapping[str, int] | None = None,
    samples_per_class: int = MAX_CENTRES,
) -> Compose:
    """The part of training that is the same every time, and is cached: the body on its grid.

    Volumes are kept as int16 HU (and uint8 labels), without metadata: 2 (3) bytes per voxel. Those of an archive
    (:mod:`common.data.archive`) are opened only, and read crop by crop.

    Args:
        spacing: see :func:`preprocessing`.
        roi_size: training crop in voxels; smaller volumes are padded with air.
        samples_per_class: voxels per structure that are remembered as crop centres; an archive has its own number.
    """
    keys = ["image"] if structures is None else ["image", "label"]
    fill = [AIR_HU, 0.0][: len(keys)]
    steps: list[Transform] = [
        *preprocessing(spacing=spacing, structures=structures).transforms,
        *(
            SpatialPadd(keys=k, spatial_size=_before_turning(roi_size), value=v)
            for k, v in zip(keys, fill, strict=True)
        ),
        RoundHUd(keys="image"),
    ]
    if structures is not None:
        steps += [
            CastToTyped(keys="label", dtype="uint8"),
            EnsureTyped(keys="label", track_meta=False),
            ClassesToIndicesd(
                keys="label",
                indices_postfix="_voxels",
                num_classes=len(structures) + 1,
                max_samples_per_class=samples_per_class,
            ),
            MarkOutsideBodyd(keys="label", level=BODY_HU),  # asks the image's metadata for its spacing
        ]
    kept = ["image", "label", "annotated", "label_voxels", "case"]
    steps += [EnsureTyped(keys="image", track_meta=False), SelectItemsd(keys=kept, allow_missing_keys=True)]
    opened = OpenPrepared(
        otherwise=Compose(steps),
        spacing=spacing,
        spatial_size=_before_turning(roi_size),
        fill=AIR_HU,
        structures=structures,
    )
    return Compose([opened])


def whole_volume(*, spacing: Sequence[float], size: Sequence[int], turned: bool = False) -> Compose:
    """The body in the middle of a box of one size, int16 HU: what is judged as a whole.

    What does not fit is cut off, what is missing is air; without metadata, as it may be cached.

    Args:
        spacing: mm; an entry of 0 or less keeps the scan's own spacing on that axis.
        size: of the box in voxels.
        turned: leave a fourth more, out of which :func:`random_crops` turns and shifts a box of that size.
    """
    box = _before_turning(size) if turned else tuple(size)
    return Compose(
        [
            *preprocessing(spacing=spacing).transforms,
            ResizeWithPadOrCropd(keys="image", spatial_size=box, value=AIR_HU),
            RoundHUd(keys="image"),
            EnsureTyped(keys="image", track_meta=False),
            SelectItemsd(keys=["image", "label", "case"], allow_missing_keys=True),
        ]
    )


def chain(*composes: Compose) -> Compose:
    """One flat composition, so that ``CacheDataset`` finds where its cached part ends."""
    return Compose([transform for compose in composes for transform in compose.transforms])


def _before_turning(roi_size: Sequence[int]) -> tuple[int, ...]:
    """A fourth more than the crop on every axis: what is turned and shrunk into the crop's corners comes from there."""
    return tuple(math.ceil(n * 1.25) if n > 1 else 1 for n in roi_size)


def in_body(hu: torch.Tensor) -> torch.Tensor:
    """Voxels that are not air; all of them where there is nothing else, so that no volume is cut to nothing."""
    body = hu > BODY_HU
    return body if body.any() else torch.ones_like(body)


def random_crops(
    *,
    roi_size: Sequence[int],
    spatial_dims: int,
    channels: MapTransform,
    structures: Mapping[str, int] | None = None,
    rotate_degrees: float = 12.0,
    scale: float = 0.15,
    shift: float = 0.0,
    flip: bool | Sequence[int] = False,
    noise_hu: float = 10.0,
) -> Compose:
    """The random part of training: a crop, small deformations in space and intensity, network channels.

    With labels, half of the crops are centred on background and half on a structure drawn uniformly, so that small
    structures are seen. Left and right have names of their own, so mirrored crops are left to pretraining.

    Args:
        roi_size: crop in voxels; with ``spatial_dims=2``, ``[H, W, 1]`` gives an axial slice (C, H, W) and more slices
            a volume of them, turned and scaled within their planes.
        channels: turns HU (1, *S) into the network's input (C, *S).
        structures: crop the ``label`` too.
        rotate_degrees: largest rotation about every axis (about the slice normal in 2D).
        scale: largest relative change of size.
        shift: largest shift along an axis in voxels.
        flip: mirror along every axis, or along the axes given, with probability 0.5 each.
        noise_hu: largest standard deviation of added Gaussian noise, HU.
    """
    keys = ["image"] if structures is None else ["image", "label"]
    deforms = rotate_degrees > 0 or scale > 0 or shift > 0
    larger = _before_turning(roi_size) if deforms else tuple(roi_size)
    steps: list[Transform] = []
    if structures is None:
        steps.append(RandSpatialCropd(keys=keys, roi_size=larger, random_size=False))
    else:
        n = len(structures)
        steps.append(
            RandCropByLabelClassesd(
                keys=keys,
                label_key="label",
                indices_key="label_voxels",
                spatial_size=larger,
                num_classes=n + 1,
                ratios=[n, *[1] * n],
                warn=False,  # a structure that a case does not have is no news
            )
        )
    steps.append(CastToTyped(keys="image", dtype=torch.float32))
    in_plane = spatial_dims == 2  # a crop of one slice is turned and scaled within its plane
    axes = range(spatial_dims if flip else 0) if isinstance(flip, bool) else flip
    steps += [RandFlipd(keys=keys, prob=0.5, spatial_axis=axis) for axis in axes]
    if deforms:
        turn = math.radians(rotate_degrees)
        steps.append(
            RandAffined(
                keys=keys,
                prob=0.7,
                spatial_size=tuple(roi_size),
                rotate_range=[0.0, 0.0, turn] if in_plane else [turn] * 3,
                scale_range=[scale, scale, 0.0] if in_plane else [scale] * 3,
                translate_range=([shift, shift, 0.0] if in_plane else [shift] * 3) if shift > 0 else None,
                mode=["bilinear", "nearest"][: len(keys)],
                padding_mode="border",
            )
        )
    steps += [
        RandScaleIntensityd(keys="image", factors=0.05, prob=0.5),
        RandShiftIntensityd(keys="image", offsets=15.0, prob=0.5),
        RandGaussianNoised(keys="image", std=noise_hu, prob=0.3),
        channels,
        *([SqueezeDimd(keys=keys, dim=-1)] if in_plane and roi_size[-1] == 1 else []),
        EnsureTyped(keys=keys, track_meta=False),
    ]
    return Compose(steps)


def to_input_grid(*, structures: Mapping[str, int]) -> Compose:
    """From scores (N + 1, *S), or channels (1, *S), to a uint8 mask of structure ids on exactly the input's grid.

    The argmax, unless the inferer has taken it already, and the look-up of the ids come before the way back: one uint8
    volume is carried to the input's grid instead of N + 1 float ones.
    In the air around the patient it is background, as the labels are in training.
    """
    return Compose(
        [
            ArgmaxChannelsd(keys="pred"),
            ClearOutsideBodyd(keys="pred"),
            ChannelsToIdsd(keys="pred", structures=structures),
            RestoreGridd(keys="pred", ref_keys="image"),
        ]
    )


def save_masks(*, output_dir: str, structures: Mapping[str, int], probabilities: bool = False) -> Compose:
    """:func:`to_input_grid`, and the mask in a file.

    Args:
        output_dir: receives ``<case>_seg.nii.gz``.
        structures: names and ids.
        probabilities: also write ``<case>_prob.nii.gz``, one channel per class on the network's grid.
    """
    steps: list[Transform] = [_save("prob", ProbabilityWriter, output_dir)] if probabilities else []
    steps += [*to_input_grid(structures=structures).transforms, _save("seg", MaskWriter, output_dir)]
    return Compose(steps)


def _save(postfix: str, writer: type[MaskWriter], output_dir: str) -> SaveImaged:
    return SaveImaged(
        keys="pred",
        folder_layout=CaseLayout(output_dir, postfix),
        output_dtype="uint8",
        resample=False,
        writer=writer,
        print_log=False,
        savepath_in_metadict=True,
    )
