"""Formats of labeled data, each with the units and signs of its source."""
