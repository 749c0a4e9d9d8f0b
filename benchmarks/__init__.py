"""The benchmarks: tokenwire and other Socket.IO servers at the same work, by one load generator."""
