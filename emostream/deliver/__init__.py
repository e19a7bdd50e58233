"""One cluster's topic → registered clients (push) and browsers (stream)."""
