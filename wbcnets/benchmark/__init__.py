"""Speed and memory of models and operators as ratios to named peers, measured in turns.

``case`` says what is compared, ``measure`` and ``scaling`` measure it, ``machine`` finds the limits
of the machine, ``suite`` runs cases and ``report`` writes the results. ``wbcnets benchmark`` is the
command.
"""
