"""Leukocyte data: dataset cards, readers and checks, converters, and the smear generator."""
