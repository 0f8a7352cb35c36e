"""MONAI transforms of this project: an array class and its dictionary twin per file."""
