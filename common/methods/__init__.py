"""One module per paper: masking and network in, a dictionary of outputs out.

A method is an ``nn.Module``. ``forward(image)``, image (B, C, *S) in [0, 1], returns a dictionary; V is the number of
views that the method makes of an image:

- ``reconstruction`` (V, B, C, *S): what the network made of each view;
- ``target`` (V, B, C, *S): what it should have made (an expanded view of the image, no copy, where all are the same);
- ``image`` (V, B, C, *S): what was masked, or what the network saw, where that is not the target;
- ``mask`` (V, B, 1, *S): ``True`` where the view hid the image; ``fill``: the value put there;
  Where the target is no image, the method's ``draw(outputs)`` adds ``reconstruction`` and ``target`` for pictures;
- in place of these four, where nothing is reconstructed: ``image`` (V, B, C, *S), an expanded view, and ``views``
  (V, B, C, *S), what the network saw of it; the attribute ``view_names`` names them;
- ``embeddings`` (V, B, E), where the method has them, or (V, B, L, E) from L levels of the encoder;
- ``regions``: named masks (V, B, 1, *S) that pictures show, where the method has them;
- ``images``: named images (V, B, C, *S) that pictures show, such as the view that a teacher saw;
- ``maps``: named quantities (V, B, 1, *S) that pictures show, such as a patch's difficulty; NaN where there is none;
- ``stats``: named 0-d tensors to log, such as the share of masked voxels.

Its loss takes that dictionary, returns a scalar and adds ``losses``, the named parts. The attribute ``network`` is the
plain network that is saved and transferred; ``seed_masks(seed)`` restarts the masks' random stream, and
``set_progress(p)``, p in [0, 1], sets what changes in the course of the training, where something does;
``update_teacher()``, where there is a teacher, is called after every step of the optimizer.
"""
