"""The command line program: `tokenwire serve` and `tokenwire demo`.

Nothing is imported here, so that `tokenwire --help` stays quick.
"""
