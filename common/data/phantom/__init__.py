"""Generated chest CT: anatomy from formulas, seeded, labelled, in Hounsfield units."""

from common.data.phantom.generate import Phantom, phantom
from common.data.phantom.write import write_phantoms

__all__ = ["Phantom", "phantom", "write_phantoms"]
