"""Losses on images in [0, 1] and on features."""
