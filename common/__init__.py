"""What the five pretraining bundles share: data, masking, transforms, networks, losses, methods and the glue to MONAI.

Conventions, stated once:

- A mask is ``True`` where the network must not see (published sources differ; this one is kept everywhere).
- Volumes are ``(B, C, H, W, D)`` tensors in RAS orientation: the last axis runs from feet to head, an axial slice is
  ``x[..., k]``.
- Image values are Hounsfield units (HU) until a transform turns them into network channels in ``[0, 1]``; lengths are
  in mm.
- Masks draw from a random stream of their own, so that changing a network does not change what is hidden.
- Label files and written masks carry the ids of the ``structures`` knob; network channels are positions in it,
  background first.
"""

__version__ = "0.1.0"
