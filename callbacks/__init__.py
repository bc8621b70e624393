"""Callbacks; modules that have moved are found under their old names, too."""

from datamodules.contracts.moved import follow_moves

follow_moves()
