"""One command for a machine with a GPU: its figures within a given time, most wanted first."""
