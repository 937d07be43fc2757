"""Synthetic blood smears with exact boxes."""
