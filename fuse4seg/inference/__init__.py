"""Whole-case prediction and export."""
