"""MFDS-DETR's parts, named as in the paper."""
