"""Receive: the terminal client, which shows the crowd's emojis and sends taps."""
