"""The history → Server-Sent Events."""
