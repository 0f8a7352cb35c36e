"""Names and ids of the structures that label files may hold.

Phantoms and the project's real development cases share this one label map.
"""

from __future__ import annotations

ALL_STRUCTURES: dict[str, int] = {
    "lung_left": 1,
    "lung_right": 2,
    "heart": 3,
    "aorta": 4,
    "pulmonary_artery": 5,
    "trachea_airway": 6,
    "esophagus": 7,
    "spinal_cord": 8,
    "vertebrae": 9,
    "ribs_cartilage": 10,
    "liver": 11,
    "spleen": 12,
    "kidney_left": 13,
    "kidney_right": 14,
    "stomach": 15,
    "pancreas": 16,
    "gallbladder": 17,
    "bowel": 18,
    "adrenal_glands": 19,
    "other_vessels": 20,
    "muscle": 21,
    "pelvis_femur": 22,
    "bladder_prostate": 23,
    "tumor": 24,
}

_CHEST_IDS = (*range(1, 13), 24)

CHEST_STRUCTURES: dict[str, int] = {name: i for name, i in ALL_STRUCTURES.items() if i in _CHEST_IDS}
"""The default of every bundle: the chest structures that phantoms and real cases share."""
