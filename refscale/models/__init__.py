"""Existing models, adapted: written once, regular or unit-scaled by the tape they run on."""
