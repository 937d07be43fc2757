"""Detection data in Detectron2's terms."""
