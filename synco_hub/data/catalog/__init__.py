"""Every data set of the paper: what is known about it (`row`, `rows`) and how it is opened (`loading`, `folder`)."""
