"""Recipes and device profiles, as YAML data, and their loaders. Imports no other room."""
