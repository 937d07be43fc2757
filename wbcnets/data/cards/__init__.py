"""Dataset cards: the published facts about each dataset, and its place on the disk."""
