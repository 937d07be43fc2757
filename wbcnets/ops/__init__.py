"""Fast paths of the layers: one reference and one file per backend; in-place tricks."""
