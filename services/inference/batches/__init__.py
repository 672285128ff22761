"""Many requests that may wait: accepted whole, answered in idle slots, by whichever process is there."""
