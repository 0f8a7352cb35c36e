"""Hounsfield units of one patient's tissues, after measurements on real CT.

Ranges follow the statistics of the project's development set (twelve public scans: thoracic, with and without
contrast) and textbook values where it has none.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

PHASES = ("unenhanced", "venous", "arterial")


@dataclass(frozen=True)
class Tissue:
    """Mean HU per tissue; ``blood`` is drawn per vessel territory."""

    phase: str
    fat: float
    muscle: float
    muscle_fat: float
    skin: float
    lung: float
    lung_gradient: float
    emphysema: float
    right_heart: float
    pulmonary: float
    left_heart: float
    aorta: float
    superior_veins: float
    inferior_veins: float
    myocardium: float
    esophagus: float
    wall: float
    cord: float
    canal: float
    disc: float
    cortical: float
    trabecular: float
    cartilage: float
    liver: float
    spleen: float
    kidney_cortex: float
    kidney_medulla: float
    gut: float
    node: float


def draw_tissue(rng: np.random.Generator) -> Tissue:
    """Draw one patient's tissue values and contrast phase."""
    phase = PHASES[int(rng.choice(3, p=(0.4, 0.35, 0.25)))]
    u = rng.uniform
    muscle = u(28, 58)
    if phase == "unenhanced":
        blood = u(35, 48)
        right = pulmonary = left = aorta = superior = inferior = blood
        aorta += u(-3, 3)
        myocardium = blood + u(-2, 7)
        liver, spleen, cortex, medulla = u(32, 66), u(36, 54), u(26, 38), u(24, 34)
        if rng.random() < 0.15:
            liver = u(5, 30)  # steatosis
        soft = 0.0
    elif phase == "venous":
        blood = u(105, 165)
        right, pulmonary, left = blood + u(-12, 12), blood + u(-8, 10), blood + u(-6, 12)
        aorta, superior, inferior = left + u(-4, 8), blood + u(-15, 40), blood + u(-35, 5)
        myocardium = blood - u(10, 45)
        liver, spleen, cortex, medulla = u(80, 122), u(92, 132), u(140, 200), u(110, 170)
        muscle += u(4, 14)
        soft = u(12, 30)
    else:
        right, left = u(120, 480), u(220, 460)
        pulmonary, aorta = right * u(0.85, 1.1), left * u(0.95, 1.08)
        superior, inferior = u(60, 600), u(40, 110)
        myocardium = u(75, 125)
        liver, spleen, cortex, medulla = u(48, 80), u(85, 135), u(120, 190), u(45, 70)
        soft = u(5, 20)
    return Tissue(
        phase=phase,
        fat=u(-114, -92),
        muscle=muscle,
        muscle_fat=u(0.0, 0.4),
        skin=u(-20, 30),
        lung=u(-880, -740),
        lung_gradient=u(0.2, 1.0),
        emphysema=u(0.3, 1.0) if rng.random() < 0.3 else 0.0,
        right_heart=right,
        pulmonary=pulmonary,
        left_heart=left,
        aorta=aorta,
        superior_veins=superior,
        inferior_veins=inferior,
        myocardium=myocardium,
        esophagus=u(28, 48) + soft,
        wall=u(20, 45) + soft,
        cord=u(28, 44),
        canal=u(2, 18),
        disc=u(60, 105),
        cortical=u(480, 900),
        trabecular=u(80, 220),
        cartilage=u(70, 140),
        liver=liver,
        spleen=spleen,
        kidney_cortex=cortex,
        kidney_medulla=medulla,
        gut=u(15, 45) + soft,
        node=u(25, 45) + soft,
    )
