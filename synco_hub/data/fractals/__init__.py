"""The embedded data set, which needs no download: fractals, one iterated function system a class."""
