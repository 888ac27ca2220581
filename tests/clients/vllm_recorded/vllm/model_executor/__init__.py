"""Recorded: see the package."""
