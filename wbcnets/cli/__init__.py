"""The command `wbcnets`: one file per subcommand."""
