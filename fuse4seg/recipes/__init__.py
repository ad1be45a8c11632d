"""Recipes: what a method is, in a file each, and the classes that know what such a file may say."""
