"""Images of single cells: listings, manifests, splits, datasets."""
