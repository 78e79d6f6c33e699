"""Checkpoints on their way: by name (`aliases`, `loading`), from the Hub (`pull`, `install`), from and to others.

Folders: `conversion` (somebody else's becomes ours), `export` (ours for stock libraries), `card`, `publication`.
"""
