"""Losses, computed in float32 whatever the precision of the network."""
