"""Features of places in an image: for video, object discovery and retrieval at any image size."""
