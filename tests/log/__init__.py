"""Tests of the embedded log beyond the contract of `tests/contract/test_log.py`."""
