"""Speed of models and operators as a ratio to a named peer, measured in turns in one run.

`case` says what is compared, `measure` how, `machine` what the machine could do at best, and
`report` writes it down. `tools/benchmark.py` is the command.
"""
