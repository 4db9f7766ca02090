"""Tests of ``refscale.bridge``; torch is the oracle, and all are skipped where it is absent."""
