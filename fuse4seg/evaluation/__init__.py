"""Scores of segmentations and of fused images."""
