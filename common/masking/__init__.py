"""Where to hide: pure torch functions of shape, ratio and generator. ``True`` = hidden from the network."""
