"""Encoders with one feature interface (a list of maps, finest first), decoders and heads, in 2D and 3D."""
