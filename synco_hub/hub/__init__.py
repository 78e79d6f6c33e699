"""Checkpoints on their way: by name (`short_names`, `loading`), from the Hub (`pull`), from and to others.

Folders: `conversion` (somebody else's becomes ours), `export` (ours for stock libraries), `card`, `publication`.
"""
