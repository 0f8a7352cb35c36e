"""Generated chest CT: seeded, complete, plausible in HU, the right way round, and written as an MSD folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar

import nibabel as nib
import numpy as np
import pytest

from common.data.classes import read_classes
from common.data.phantom import Phantom, phantom, write_phantoms
from common.data.phantom import write as write_module
from common.data.phantom.lesions import KINDS
from common.data.phantom.space import Grid
from common.data.phantom.trees import Tree, grow
from common.data.phantom.tubes import coverage_of_balls, distance_to_balls
from common.data.structures import ALL_STRUCTURES, CHEST_STRUCTURES
from common.errors import InputError

SHAPE = (64, 64, 64)
SEEDS = (2000, 2001, 2002)

# Lowest and highest mean HU of a whole structure: the scans of the development set (unenhanced to arterial) and margin
# for voxels of 6 mm, which mix neighbours.
HU_RANGES = {
    "lung_left": (-900, -600),
    "lung_right": (-900, -600),
    "heart": (10, 480),
    "aorta": (5, 480),
    "pulmonary_artery": (-20, 560),
    "trachea_airway": (-980, -650),
    "esophagus": (-150, 90),
    "spinal_cord": (0, 80),
    "vertebrae": (100, 450),
    "ribs_cartilage": (100, 550),
    "liver": (0, 140),
    "spleen": (15, 160),
    "muscle": (10, 90),
}


@pytest.fixture(scope="module")
def phantoms():
    return {seed: phantom(seed, shape=SHAPE) for seed in SEEDS}


def _where(made, name):
    return made.label == ALL_STRUCTURES[name]


def _centre(made, name):
    return np.argwhere(_where(made, name)).mean(axis=0)


class TestPhantom:
    def test_what_comes_out(self, phantoms):
        made = phantoms[SEEDS[0]]
        assert made.hu.dtype == np.int16
        assert made.label.dtype == np.uint8
        assert made.hu.shape == made.label.shape == SHAPE
        assert nib.aff2axcodes(made.affine) == ("R", "A", "S")
        np.testing.assert_allclose(np.diag(made.affine)[:3], made.spacing)
        # the origin of the world lies in the middle of the volume
        np.testing.assert_allclose(made.affine @ [31.5, 31.5, 31.5, 1], [0, 0, 0, 1], atol=1e-9)
        assert made.hu.min() >= -1024
        assert made.hu.max() <= 3071

    def test_same_seed_same_volume(self, phantoms):
        again = phantom(SEEDS[0], shape=SHAPE)
        np.testing.assert_array_equal(again.hu, phantoms[SEEDS[0]].hu)
        np.testing.assert_array_equal(again.label, phantoms[SEEDS[0]].label)
        assert again.info == phantoms[SEEDS[0]].info

    def test_other_seed_other_patient(self, phantoms):
        a, b = phantoms[SEEDS[0]], phantoms[SEEDS[1]]
        lungs = [np.isin(p.label, (1, 2)) for p in (a, b)]
        assert (lungs[0] != lungs[1]).mean() > 0.01
        assert abs(a.hu[_where(a, "liver")].mean() - b.hu[_where(b, "liver")].mean()) > 1
        assert a.info["scan"] != b.info["scan"]

    @pytest.mark.parametrize("seed", SEEDS)
    def test_every_default_structure_is_there(self, phantoms, seed):
        ids, counts = np.unique(phantoms[seed].label, return_counts=True)
        present = dict(zip(ids.tolist(), counts.tolist(), strict=True))
        assert set(present) <= {0, *ALL_STRUCTURES.values()}
        for name, i in CHEST_STRUCTURES.items():
            assert present.get(i, 0) >= (1 if name == "tumor" else 20), name
        assert {ALL_STRUCTURES[n] for n in ("stomach", "other_vessels")} <= set(present)

    @pytest.mark.parametrize("seed", SEEDS)
    def test_hu_is_plausible(self, phantoms, seed):
        made = phantoms[seed]
        for name, (low, high) in HU_RANGES.items():
            mean = made.hu[_where(made, name)].mean()
            assert low <= mean <= high, (name, mean)

    @pytest.mark.parametrize("seed", SEEDS)
    def test_left_and_right(self, phantoms, seed):
        made = phantoms[seed]
        # x grows to the patient's right, y to the front, z to the head
        assert _centre(made, "lung_right")[0] > _centre(made, "lung_left")[0] + 8
        assert _centre(made, "liver")[0] > _centre(made, "spleen")[0] + 8
        assert _centre(made, "liver")[0] > _centre(made, "stomach")[0] + 8
        assert _centre(made, "heart")[0] < _centre(made, "vertebrae")[0]
        assert _centre(made, "heart")[1] > _centre(made, "spinal_cord")[1] + 5
        assert _centre(made, "esophagus")[1] > _centre(made, "spinal_cord")[1]
        assert _centre(made, "liver")[2] < _centre(made, "heart")[2] < _centre(made, "trachea_airway")[2]

    @pytest.mark.parametrize("seed", SEEDS)
    def test_labels_lie_in_the_body_and_noise_everywhere(self, phantoms, seed):
        made = phantoms[seed]
        front = made.hu[:, -8:].astype(float)
        assert (made.label[:, -3:] == 0).all()
        assert np.median(front) < -900
        view = front[24:40]  # the middle columns lie in the field of view whatever its shape
        assert view.std() > 1
        liver = made.hu[_where(made, "liver")]
        assert np.diff(np.percentile(liver, (16, 84)))[0] > 6

    def test_lesions_are_described_and_can_be_left_out(self, phantoms):
        for made in phantoms.values():
            assert 1 <= len(made.info["lesions"]) <= 3
            for lesion in made.info["lesions"]:
                index = (np.array(lesion["centre_mm"]) - made.affine[:3, 3]) / made.spacing
                near = tuple(slice(max(int(i) - 3, 0), int(i) + 4) for i in index)
                assert (made.label[near] == ALL_STRUCTURES["tumor"]).any()
        healthy = phantom(SEEDS[0], shape=SHAPE, lesions=False)
        assert healthy.info["lesions"] == []
        assert not _where(healthy, "tumor").any()
        same = ~_where(phantoms[SEEDS[0]], "tumor")
        np.testing.assert_array_equal(healthy.label[same], phantoms[SEEDS[0]].label[same])

    def test_same_patient_on_another_grid(self, phantoms):
        coarse = phantoms[SEEDS[0]]
        fine = phantom(SEEDS[0], spacing=(4.0, 4.0, 5.0))
        assert fine.hu.shape == (98, 75, 58)
        for name in ("lung_left", "lung_right", "heart", "liver"):
            volumes = [_where(p, name).sum() * np.prod(p.spacing) for p in (coarse, fine)]
            assert volumes[0] == pytest.approx(volumes[1], rel=0.06), name

    def test_contrast_phase_follows_the_tissue(self, phantoms):
        for made in phantoms.values():
            blood = np.median(made.hu[_where(made, "aorta")])
            expected = {"unenhanced": (0, 75), "venous": (75, 200), "arterial": (150, 520)}[made.info["phase"]]
            assert expected[0] <= blood <= expected[1]

    @pytest.mark.parametrize(
        "arguments",
        [
            {"seed": -1},
            {"seed": 1.5},
            {"seed": True},
            {"seed": 0, "shape": (64, 64)},
            {"seed": 0, "shape": (64, 64, 8)},
            {"seed": 0, "shape": (64, 64, 32.5)},
            {"seed": 0, "spacing": (3, 3)},
            {"seed": 0, "spacing": (3, 3, 0)},
            {"seed": 0, "spacing": (3, 3, float("nan"))},
        ],
    )
    def test_bad_arguments(self, arguments):
        with pytest.raises(InputError, match=r"seed=|shape=|spacing="):
            phantom(**arguments)


class TestTubes:
    GRID = Grid((21, 21, 21), (1.0, 1.0, 1.0))

    def test_distance_to_a_ball(self):
        box, distance = distance_to_balls(self.GRID, np.zeros((1, 3)), np.array([4.0]), reach=3.0)
        centre = tuple(10 - s.start for s in box)
        assert distance[centre] == pytest.approx(-4)
        assert distance[centre[0] + 4, centre[1], centre[2]] == pytest.approx(0, abs=1e-5)
        assert distance[centre[0] + 3, centre[1] + 4, centre[2]] == pytest.approx(1, abs=1e-5)

    def test_flattened_ball(self):
        normal = np.array([[0.0, 0.0, 1.0]])
        box, distance = distance_to_balls(self.GRID, np.zeros((1, 3)), np.array([4.0]), normals=normal, flatten=2.0)
        c = tuple(10 - s.start for s in box)
        assert distance[c[0], c[1], c[2] + 2] == pytest.approx(0, abs=1e-5)
        assert distance[c[0] + 4, c[1], c[2]] == pytest.approx(0, abs=1e-5)

    def test_thin_tube_covers_its_cross_section(self):
        x = np.linspace(-9, 9, 60)
        line = np.stack([x, 0 * x, 0 * x], axis=1)
        _, coverage = coverage_of_balls(self.GRID, line, np.full(60, 0.3))
        assert coverage.max() == pytest.approx(np.pi * 0.3**2, rel=1e-4)

    def test_outside_the_grid_nothing(self):
        _, distance = distance_to_balls(self.GRID, np.full((1, 3), 100.0), np.array([3.0]))
        assert distance.size == 0

    def test_tree_reaches_its_targets_and_thickens_to_the_root(self):
        rng = np.random.default_rng(0)
        targets = rng.uniform(-40, 40, (30, 3))
        tree = grow(Tree(np.zeros((1, 3)), np.array([-1])), targets, rng)
        gap = np.linalg.norm(tree.nodes[None] - targets[:, None], axis=2).min(axis=1)
        np.testing.assert_allclose(gap, 0, atol=1e-9)
        assert (tree.parents[1:] < np.arange(1, len(tree.nodes))).all()
        radii = tree.radii(0.5, 3.0, 99.0)
        tips = np.setdiff1d(np.arange(len(tree.nodes)), tree.parents)
        assert radii[0] ** 3 == pytest.approx(len(tips) * 0.5**3)  # Murray's law
        np.testing.assert_allclose(radii[tips], 0.5)


ARGUMENTS = {"n_unlabelled": 1, "n_labelled": 1, "n_test": 1, "shape": (32, 32, 24)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_phantoms(tmp_path_factory.mktemp("data") / "phantoms", **ARGUMENTS)


class TestWritePhantoms:
    def test_layout(self, folder):
        files = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
        assert files == [
            "classes.csv",
            "dataset.json",
            "imagesTr/phantom_2000.nii.gz",
            "imagesTs/phantom_3000.nii.gz",
            "imagesUn/phantom_1000.nii.gz",
            "labelsTr/phantom_2000.nii.gz",
            "labelsTs/phantom_3000.nii.gz",
        ]

    def test_dataset_json(self, folder):
        listed = json.loads((folder / "dataset.json").read_text())
        assert listed["modality"] == {"0": "CT"}
        assert listed["labels"] == {"0": "background", **{str(i): n for n, i in ALL_STRUCTURES.items()}}
        assert (listed["numTraining"], listed["numTest"]) == (1, 1)
        assert listed["training"] == [
            {"image": "./imagesTr/phantom_2000.nii.gz", "label": "./labelsTr/phantom_2000.nii.gz"}
        ]
        assert listed["test"] == ["./imagesTs/phantom_3000.nii.gz"]
        assert listed["unlabelled"] == ["./imagesUn/phantom_1000.nii.gz"]
        assert set(listed["cases"]) == {"phantom_2000", "phantom_3000"}
        annotated = set(listed["cases"]["phantom_2000"]["annotated_ids"])
        assert set(CHEST_STRUCTURES.values()) <= annotated
        label = np.asarray(nib.load(folder / "labelsTr/phantom_2000.nii.gz").dataobj)
        assert set(np.unique(label).tolist()) - {0} <= annotated

    def test_nifti_headers(self, folder):
        image = nib.load(folder / "imagesTr/phantom_2000.nii.gz")
        label = nib.load(folder / "labelsTr/phantom_2000.nii.gz")
        expected = phantom(2000, shape=(32, 32, 24))
        np.testing.assert_array_equal(np.asarray(image.dataobj), expected.hu)
        np.testing.assert_array_equal(np.asarray(label.dataobj), expected.label)
        assert image.get_data_dtype() == np.int16
        assert label.get_data_dtype() == np.uint8
        for one in (image, label):
            np.testing.assert_allclose(one.affine, expected.affine, atol=1e-4)
            np.testing.assert_allclose(one.get_qform(), one.get_sform(), atol=1e-4)
            assert (int(one.header["qform_code"]), int(one.header["sform_code"])) == (1, 1)
            assert one.header.get_xyzt_units()[0] == "mm"

    def test_second_run_keeps_files_and_mends_broken_ones(self, folder, monkeypatch):
        made = []
        monkeypatch.setattr(
            write_module, "phantom", lambda seed, **options: made.append(seed) or phantom(seed, **options)
        )
        before = {p: p.stat().st_mtime_ns for p in folder.rglob("*.nii.gz")}
        write_phantoms(folder, **ARGUMENTS)
        assert made == []
        assert {p: p.stat().st_mtime_ns for p in folder.rglob("*.nii.gz")} == before
        broken = folder / "labelsTs/phantom_3000.nii.gz"
        whole = broken.read_bytes()
        broken.write_bytes(b"")
        write_phantoms(folder, **ARGUMENTS)
        assert made == [3000]
        assert np.asarray(nib.load(broken).dataobj).shape == (32, 32, 24)
        assert len(broken.read_bytes()) == len(whole)

    def test_other_arguments_are_not_mistaken_for_the_same(self, tmp_path):
        write_phantoms(tmp_path, n_unlabelled=1, n_labelled=0, shape=(16, 16, 16))
        first = np.asarray(nib.load(tmp_path / "imagesUn/phantom_1000.nii.gz").dataobj).copy()
        write_phantoms(tmp_path, n_unlabelled=1, n_labelled=0, shape=(16, 16, 16), seed=1)
        second = np.asarray(nib.load(tmp_path / "imagesUn/phantom_1000.nii.gz").dataobj)
        assert (first != second).any()
        np.testing.assert_array_equal(second, phantom(11000, shape=(16, 16, 16)).hu)

    @pytest.mark.parametrize(
        "change",
        [
            {"n_labelled": -1},
            {"n_unlabelled": 1001},
            {"n_test": 0.5},
            {"n_unlabelled": 0, "n_labelled": 0, "n_test": 0},
            {"seed": -3},
            {"shape": (4, 4, 4)},
            {"spacing": (1, 1)},
        ],
    )
    def test_bad_arguments_write_nothing(self, tmp_path, change):
        with pytest.raises(InputError):
            write_phantoms(tmp_path / "out", **{**ARGUMENTS, **change})
        assert not (tmp_path / "out").exists()

    def test_a_file_in_the_way(self, tmp_path):
        (tmp_path / "taken").write_text("x")
        with pytest.raises(InputError, match="is a file"):
            write_phantoms(tmp_path / "taken", **ARGUMENTS)


class TestLesionClasses:
    """``classes.csv`` beside the volumes, here of phantoms that take no time: the seed's thousands are the lesion."""

    ARGUMENTS: ClassVar = {"n_unlabelled": 1, "n_labelled": 1, "n_test": 1, "shape": (16, 16, 16)}

    @pytest.fixture
    def made(self, monkeypatch):
        seeds = []

        def quick(seed, **_):
            seeds.append(seed)
            kind = KINDS[seed // 1000 % 4]
            voxels = np.zeros((16, 16, 16))
            lesions = [{"type": kind}, {"type": kind}]
            return Phantom(voxels.astype(np.int16), voxels.astype(np.uint8), (1, 1, 1), np.eye(4), {"lesions": lesions})

        monkeypatch.setattr(write_module, "phantom", quick)
        return seeds

    def test_they_are_the_lesions_of_the_labelled_cases(self, made, tmp_path):
        write_phantoms(tmp_path, **self.ARGUMENTS)
        assert made == [2000, 1000, 3000]
        assert (tmp_path / "classes.csv").read_text().splitlines() == [
            "case,nodule,ground_glass,consolidation,mediastinal_mass",
            "phantom_2000,0,0,1,0",
            "phantom_3000,0,0,0,1",
        ]

    def test_lost_ones_are_found_again_and_volumes_left_alone(self, made, tmp_path):
        write_phantoms(tmp_path, **self.ARGUMENTS)
        before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.nii.gz")}
        content = (tmp_path / "classes.csv").read_text()
        (tmp_path / "classes.csv").write_text(content.replace("phantom_3000", "phantom_9000"))
        made.clear()
        write_phantoms(tmp_path, **self.ARGUMENTS)
        assert made == [3000]
        assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.nii.gz")} == before
        assert (tmp_path / "classes.csv").read_text() == content

    def test_other_phantoms_of_the_same_names_have_their_own(self, made, tmp_path):
        write_phantoms(tmp_path, **self.ARGUMENTS)
        write_phantoms(tmp_path, **self.ARGUMENTS, seed=1)
        assert made[3:] == [12000, 11000, 13000]
        assert read_classes(tmp_path).labels["phantom_2000"] == (1.0, 0.0, 0.0, 0.0)

    @pytest.mark.usefixtures("made")
    @pytest.mark.parametrize("edited", ["case,malignant\nphantom_2000,1\n", "nonsense"])
    def test_a_users_own_table_is_kept(self, tmp_path, edited):
        write_phantoms(tmp_path, **self.ARGUMENTS)
        (tmp_path / "classes.csv").write_text(edited)
        write_phantoms(tmp_path, **self.ARGUMENTS)
        assert (tmp_path / "classes.csv").read_text() == edited

    @pytest.mark.usefixtures("made")
    def test_a_users_own_table_is_not_made_to_speak_of_other_volumes(self, tmp_path):
        write_phantoms(tmp_path, **self.ARGUMENTS)
        (tmp_path / "classes.csv").write_text("case,malignant\nphantom_2000,1\n")
        with pytest.raises(InputError, match="phantom_2000"):
            write_phantoms(tmp_path, **self.ARGUMENTS, seed=1)

    @pytest.mark.usefixtures("made")
    def test_lines_of_other_cases_and_edited_ones_are_kept(self, tmp_path):
        write_phantoms(tmp_path, **self.ARGUMENTS)
        content = (tmp_path / "classes.csv").read_text()
        edited = content.replace("phantom_2000,0,0,1,0", "phantom_2000,1,1,1,0") + "scan_7,1,0,0,0\n"
        (tmp_path / "classes.csv").write_text(edited)
        write_phantoms(tmp_path, **{**self.ARGUMENTS, "n_test": 0})
        lines = (tmp_path / "classes.csv").read_text().splitlines()
        assert lines[1:] == ["phantom_2000,1,1,1,0", "scan_7,1,0,0,0"]

    @pytest.mark.usefixtures("made")
    def test_a_volume_that_is_being_replaced_has_none(self, tmp_path, monkeypatch):
        write_phantoms(tmp_path, **self.ARGUMENTS)

        def cut(*_):
            raise KeyboardInterrupt

        monkeypatch.setattr(write_module, "_save", cut)
        with pytest.raises(KeyboardInterrupt):
            write_phantoms(tmp_path, **self.ARGUMENTS, seed=1)
        assert set(read_classes(tmp_path).labels) == {"phantom_3000"}


def test_default_size_can_be_written(tmp_path: Path) -> None:
    folder = write_phantoms(tmp_path / "p", n_unlabelled=1, n_labelled=0)
    image = nib.load(next((folder / "imagesUn").glob("*.nii.gz")))
    assert min(image.shape) > 50
