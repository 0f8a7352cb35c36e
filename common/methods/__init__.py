"""One module per paper: masking and network in, a dictionary of outputs out."""
