"""Tests against a real running system: processes, sockets, disk."""
