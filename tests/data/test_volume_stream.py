from __future__ import annotations

from pathlib import Path

import pytest

from common.data.volume_stream import VolumeStream
from common.errors import InputError
from common.recipes import preprocessing
from tests.volumes import AFFINE, ct_array, write_nifti


def test_a_sheared_volume_does_not_stop_the_others(tmp_path: Path) -> None:
    sheared = AFFINE.copy()
    sheared[1, 2] = 0.3
    paths = [
        write_nifti(tmp_path / name, ct_array(), affine)
        for name, affine in (("a.nii.gz", AFFINE), ("bad.nii.gz", sheared), ("c.nii.gz", AFFINE))
    ]
    stream = VolumeStream([{"image": str(path)} for path in paths], preprocessing(spacing=(3, 3, 3)))

    names = [Path(item["image"].meta["filename_or_obj"]).name for item in stream]

    assert names == ["a.nii.gz", "c.nii.gz"]
    with pytest.raises(InputError, match=r"1 of 3 volumes .* \(2 done\): .*bad\.nii\.gz: sheared"):
        stream.report()
