"""HTTP: messages, the server, the client, CORS. No stage in here."""
