"""Pictures: the right side on the right side, in true proportions, complete or absent."""

from __future__ import annotations

import errno
import itertools
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imread

from common.data.structures import ALL_STRUCTURES
from common.errors import InputError
from common.preview import plane_view, preview, save_figure, volume_figure
from common.reconstruction_figure import reconstruction_figure

ORIENTATIONS = ["".join(codes) for p in itertools.permutations(["RL", "AP", "SI"]) for codes in itertools.product(*p)]


def marked_volume() -> nib.Nifti1Image:
    """Water with a bright block at the right, front and head end of the middle planes, 2 x 2 x 4 mm."""
    hu = np.zeros((20, 18, 12), np.int16)
    hu[:2], hu[-1:], hu[:, :2], hu[:, -1:] = -1000, -1000, -1000, -1000
    hu[14:18, 12:16, 8:11] = 3000
    affine = np.diag([2.0, 2.0, 4.0, 1])
    affine[:3, 3] = [-19, -17, -22]
    return nib.Nifti1Image(hu, affine)


def shown_side(view: np.ndarray) -> tuple[str, str]:
    """Half of a picture in which the bright block lies."""
    rows, columns = np.nonzero(view > 1000)
    vertical = "top" if rows.mean() < (view.shape[0] - 1) / 2 else "bottom"
    return vertical, "left" if columns.mean() < (view.shape[1] - 1) / 2 else "right"


def test_radiological_view() -> None:
    """The block is at the patient's right, front and head."""
    hu = np.asarray(marked_volume().dataobj)
    assert shown_side(plane_view(hu, "axial", 9)) == ("top", "left")  # front at the top, right on the left
    assert shown_side(plane_view(hu, "coronal", 13)) == ("top", "left")  # head at the top, right on the left
    assert shown_side(plane_view(hu, "sagittal", 15)) == ("top", "left")  # head at the top, front on the left
    assert plane_view(hu, "axial", 0).shape == (18, 20)
    assert plane_view(hu, "sagittal", 0).shape == (12, 18)


def pixels(figure: Figure) -> np.ndarray:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())


@pytest.mark.parametrize("codes", ORIENTATIONS[::5])
def test_stored_orientation_does_not_change_the_picture(codes: str) -> None:
    image = marked_volume()
    transform = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(image.affine), nib.orientations.axcodes2ornt(codes)
    )
    mask = nib.Nifti1Image((np.asarray(image.dataobj) > 1000).astype(np.uint8) * 24, image.affine)
    expected, other = (
        [axes.images for axes in volume_figure(hu, affine, m, structures=ALL_STRUCTURES).axes]
        for hu, affine, m in (
            (np.asarray(image.dataobj), image.affine, np.asarray(mask.dataobj)),
            (
                np.asarray(image.as_reoriented(transform).dataobj),
                image.as_reoriented(transform).affine,
                np.asarray(mask.as_reoriented(transform).dataobj),
            ),
        )
    )
    assert len(expected) == 9
    for a, b in zip(itertools.chain(*expected), itertools.chain(*other), strict=True):
        assert np.array_equal(a.get_array(), b.get_array())
        assert a.get_extent() == b.get_extent()


def test_marked_block_in_the_rendered_picture() -> None:
    """Where the block lies among the pixels, and how large it is in mm: 8 wide, 8 deep, 12 high."""
    image = marked_volume()
    hu = np.asarray(image.dataobj)
    mask = (hu > 1000).astype(np.uint8) * 24
    figure = volume_figure(hu, image.affine, mask, structures=ALL_STRUCTURES)
    rgb = pixels(figure)[..., :3].astype(int)
    for axes, (width, height) in zip(figure.axes[6:9], ((8, 8), (8, 12), (8, 12)), strict=True):
        box = axes.get_window_extent()
        top = rgb.shape[0] - box.y1
        panel = rgb[round(top) : round(top + box.height), round(box.x0) : round(box.x1)]
        tumour = (panel[..., 0] > 200) & (panel[..., 2] > 150) & (panel[..., 1] < 190)  # magenta, over white
        rows, columns = np.nonzero(tumour)
        assert rows.mean() < panel.shape[0] / 2
        assert columns.mean() < panel.shape[1] / 2
        assert np.ptp(rows) / np.ptp(columns) == pytest.approx(height / width, rel=0.06)


def test_files_with_and_without_a_mask(tmp_path: Path) -> None:
    image = marked_volume()
    nib.save(image, tmp_path / "scan.nii.gz")
    mask = np.zeros(image.shape, np.uint8)
    mask[5:9, 5:9, 5:9] = 3
    mask[14:18, 12:16, 8:11] = 99  # an id without a name
    nib.save(nib.Nifti1Image(mask, image.affine), tmp_path / "mask.nii.gz")
    preview(tmp_path / "scan.nii.gz", None, tmp_path / "new/plain.png", structures=ALL_STRUCTURES)
    preview(tmp_path / "scan.nii.gz", tmp_path / "mask.nii.gz", tmp_path / "new/mask.png", structures=ALL_STRUCTURES)
    plain, with_mask = (imread(tmp_path / f"new/{name}.png") for name in ("plain", "mask"))
    assert with_mask.shape[0] > plain.shape[0] > 100
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["mask.png", "plain.png"]


def test_legend_names_what_the_mask_holds() -> None:
    image = marked_volume()
    mask = np.zeros(image.shape, np.uint8)
    mask[5:10, 5:10, 5:10] = 3
    mask[0, 0, 0] = 99
    figure = volume_figure(np.asarray(image.dataobj), image.affine, mask, structures=ALL_STRUCTURES)
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["heart   2 ml", "id 99   0.016 ml"]
    assert not volume_figure(np.asarray(image.dataobj), image.affine, structures={}).legends


def test_slices_go_through_what_the_mask_holds() -> None:
    hu = np.full((30, 30, 30), -1000, np.int16)
    mask = np.zeros(hu.shape, np.uint8)
    mask[3:5, 20:22, 25] = 24
    figure = volume_figure(hu, np.eye(4), mask, structures=ALL_STRUCTURES)
    for axes in figure.axes[6:9]:
        assert np.count_nonzero(axes.images[1].get_array()[..., 3]) > 0


def test_a_large_volume_is_drawn_from_every_nth_voxel() -> None:
    hu = np.zeros((1300, 40, 4), np.int16)
    figure = volume_figure(hu, np.eye(4), structures={})
    assert max(figure.axes[0].images[0].get_array().shape) <= 650


@pytest.mark.parametrize("content", [0, -1000])
def test_an_empty_mask_and_air_alone_can_be_drawn(content: int) -> None:
    hu = np.full((6, 5, 1), content, np.int16)
    figure = volume_figure(hu, np.eye(4), np.zeros(hu.shape, np.uint8), structures=ALL_STRUCTURES)
    assert pixels(figure).size


def test_bad_input_and_a_full_disk_leave_no_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = marked_volume()
    nib.save(image, tmp_path / "scan.nii.gz")
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.uint8), np.eye(4)), tmp_path / "mask.nii.gz")
    out = tmp_path / "out.png"
    with pytest.raises(InputError, match="another grid"):
        preview(tmp_path / "scan.nii.gz", tmp_path / "mask.nii.gz", out, structures=ALL_STRUCTURES)

    def savefig(_: Figure, path: Path, **__: object) -> None:
        Path(path).write_bytes(b"half a picture")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", savefig)
    with pytest.raises(InputError, match=r"out\.png: cannot be written \(No space left"):
        preview(tmp_path / "scan.nii.gz", None, out, structures=ALL_STRUCTURES)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mask.nii.gz", "scan.nii.gz"]


def images(channels: int, shape: tuple[int, ...]) -> dict[str, torch.Tensor]:
    image = torch.rand(channels, *shape, generator=torch.Generator().manual_seed(0))
    return {
        "input": image,
        "masked input": image * (image > 0.5),
        "reconstruction": image.to(torch.bfloat16),
        "absolute error": (image - 0.5).abs(),
    }


@pytest.mark.parametrize(("channels", "shape", "lines"), [(3, (8, 9, 10), 4), (1, (8, 9), 2), (2, (8, 9), 2)])
def test_reconstruction_figure(tmp_path: Path, channels: int, shape: tuple[int, ...], lines: int) -> None:
    rows = [("intensity view", images(channels, shape)), ("patch view", images(channels, shape))]
    figure = reconstruction_figure(rows)
    cells = [axes for axes in figure.axes if axes.images]
    assert len(cells) >= 4 * lines
    assert [axes.get_title() for axes in cells[:4]] == list(rows[0][1])
    assert cells[0].get_ylabel().startswith("intensity view")
    shown = cells[0].images[0].get_array()
    assert shown.shape[:2] == (9, 8)
    expected = rows[0][1]["input"] if len(shape) == 2 else rows[0][1]["input"][..., 5]
    expected = expected.numpy().transpose(2, 1, 0)[::-1, ::-1]
    assert np.allclose(shown, expected if channels == 3 else expected[..., 0])
    error = cells[3].images[0]
    assert error.get_clim() == (0, 0.5)
    assert error.get_array().shape == (9, 8)
    for name in ("a.png", "b.png"):  # the same figure can be written twice
        save_figure(figure, tmp_path / name)
    assert imread(tmp_path / "a.png").shape[2] == 4


def test_reconstruction_of_other_ranges_is_scaled_by_the_input() -> None:
    view = {"input": torch.linspace(-3, 5, 64).reshape(1, 8, 8), "absolute error": torch.ones(1, 8, 8)}
    figure = reconstruction_figure([("view", view)])
    shown = figure.axes[0].images[0].get_array()
    assert (shown.min(), shown.max()) == (0, 1)
    assert figure.axes[1].images[0].get_clim() == (0, 4)


def test_a_map_has_its_own_scale_and_gaps() -> None:
    difficulty = torch.tensor([[5.0, 9.0], [float("nan"), 7.0]]).reshape(1, 2, 2)
    figure = reconstruction_figure([("view", {"input": torch.rand(1, 2, 2), "difficulty map": difficulty})])
    shown = figure.axes[1].images[0]
    assert shown.get_clim() == (5, 9)
    assert shown.get_array().mask.sum() == 1
