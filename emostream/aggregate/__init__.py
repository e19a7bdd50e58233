"""EMOJI_TOPIC → one count per emoji and micro-batch on MAIN_TOPIC, with Spark. Each event is counted exactly once."""
