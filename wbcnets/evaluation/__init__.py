"""Classifiers on images: predictions, metrics with intervals, reports, plots."""
