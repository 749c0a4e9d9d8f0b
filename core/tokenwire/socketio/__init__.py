"""Socket.IO v5: namespaces over one Engine.IO session, events, acks, attachments."""
