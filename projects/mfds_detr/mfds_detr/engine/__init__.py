"""Training and evaluation in Detectron2's terms."""
