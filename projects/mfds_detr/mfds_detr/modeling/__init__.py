"""The parts of MFDS-DETR, named as in the paper."""
