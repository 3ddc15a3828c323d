"""Conversations about images and videos: reading, tokenising, mixing, batching, checking."""
