"""Data sets as their authors' archives unpack, one reader a layout; `readers` says which set has which."""
