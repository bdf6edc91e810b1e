"""Readers of other people's formats, each with the units and signs of its source."""
