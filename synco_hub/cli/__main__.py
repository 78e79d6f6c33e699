"""`python -m synco_hub.cli` is `synco-hub`."""

from synco_hub.cli.main import main

main()
