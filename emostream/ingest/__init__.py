"""POST /send-emoji → EMOJI_TOPIC."""
