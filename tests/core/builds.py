"""Which core is tested: the sources, or what mypyc has made of them.

Rules of this file: they differ in what a program gets for arguments of a wrong type, and in nothing
else. Where an int is due, True is 1 to mypyc, and right.
"""

from tokenwire import endpoint
from tokenwire.errors import LocalProtocolError

COMPILED = not endpoint.__file__.endswith(".py")
WRONG_TYPE = TypeError if COMPILED else LocalProtocolError
"""What a call raises for an argument of a wrong type: compiled, it looks at them itself."""
