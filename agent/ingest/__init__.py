"""device → gate → [ingest] → journal → drain → cloud. Takes events into the journal.

A device hears "stored" only about what a power cut cannot take back. Owns the judgement of what arrives, the receipts
and the asking after holes. It never waits for the cloud, and never reorders what one device sends.
"""
