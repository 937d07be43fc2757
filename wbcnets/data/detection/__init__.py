"""Smears with boxes: COCO and the formats that are converted to it."""
