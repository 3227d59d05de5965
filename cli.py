"""The command line of kgkit and vlp."""
