"""One connection's bytes: HTTP/1.1 (h11), then WebSocket after an upgrade (wsproto).

The only importer of h11 and wsproto, and the place of every guard around them.
"""
