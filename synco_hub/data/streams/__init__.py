"""Images that are never all on disk: which rows come when (`order`), how they are read, and where a run goes on."""
