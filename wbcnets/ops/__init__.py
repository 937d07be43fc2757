"""Fast paths behind the layers: one reference and one file per backend."""
