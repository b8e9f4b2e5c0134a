"""Blocks and operators shared by all networks; they know nothing of files, tasks or the command line."""
