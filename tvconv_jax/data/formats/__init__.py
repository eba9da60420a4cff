"""Readers and writers of the file formats that face data sets come in."""
