"""The AI streaming protocol over Socket.IO: requests, streams, sessions and their transfer.

The contract is `spec/ai-streaming.md`.
"""
