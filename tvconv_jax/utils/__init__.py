"""Errors, files, command line and progress; imported by all packages, importing none of them."""
