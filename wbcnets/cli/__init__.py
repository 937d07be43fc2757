"""The command ``wbcnets``: one module per subcommand, see ``wbcnets.cli.main``."""
