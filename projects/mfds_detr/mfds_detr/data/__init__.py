"""Detection data in Detectron2's catalogs and format."""
