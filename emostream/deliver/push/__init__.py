"""The history → HTTP POSTs to registered clients."""
