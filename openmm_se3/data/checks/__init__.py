"""Checks of labeled data before they are trained on."""
