"""The command line `synco-hub`: `synco_hub.cli.main` has the table of all commands."""
