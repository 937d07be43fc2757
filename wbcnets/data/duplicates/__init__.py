"""Equal and near-duplicate images, within a set and across splits."""
