"""Smears with boxes: readers of COCO, Pascal VOC, LabelMe and YOLO."""
