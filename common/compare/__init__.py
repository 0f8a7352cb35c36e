"""Which method works on my data: ``python -m common compare``.

Every run is a bundle command in a process of its own, so that what is compared is what a user would type. The
comparison decides the cases of every run and hands them over as lists; bundles are found in a folder, so a later
method joins by its folder alone. See ``docs/compare.md``.

Words used throughout: an *arm* is one way to a model (a method's pretraining, or none); a *cell* is an arm at one
fraction of labels; a *candidate* is one learning rate that a cell may choose; a *run* is one bundle command.
"""
