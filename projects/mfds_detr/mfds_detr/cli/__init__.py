"""The commands of the detector, one module each; see ``wbcnets.cli.main`` for their protocol."""
