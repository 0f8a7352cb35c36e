"""Finding, checking and generating CT volumes."""
