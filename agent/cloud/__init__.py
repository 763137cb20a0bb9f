"""journal → drain → [cloud] → receiver. The edge that speaks HTTPS to the service at the other end.

Owns the bodies on the wire (`wire`, shared with the receiver) and the connection. Never decides what is sent or when,
and never touches the journal.
"""
